"""What the store must answer about the membership, by the contract alone: who holds which slot, and who has beaten.

Nobody loses a slot but by his own leaving or by his own eviction; whether a slot that falls free goes to somebody in
the same step is left to the store. After a first complaint nothing more is said: the rest would be echo.
"""

from __future__ import annotations

from actors.model import Table
from tests.simulation import history as h
from tests.simulation.facts import Facts

Slots = dict[str, str]
"""slot -> incarnation"""


def check_the_table_keeps_its_contract(facts: Facts) -> None:
    slots: Slots = {}
    spares: set[str] = set()
    ring_version = 0
    counters: dict[str, int] = {}
    for event in facts.membership:
        if isinstance(event, h.Beaten):
            wrong = _beat(event, slots, spares, ring_version, counters)
        else:
            now = _slots(event.table)
            wrong = _change(event, slots, now, facts.limits.slots_max)
            if not wrong and (now != slots) != (event.table.ring_version > ring_version):
                wrong = f"{event.call} of {event.incarnation} and the ring_version don't agree on whether it changes"
            slots, ring_version = now, event.table.ring_version
            if event.call == "join":
                spares.add(event.incarnation)
            elif event.call == "leave":
                spares.discard(event.incarnation)
            spares.difference_update(slots.values())
        if wrong:
            facts.report("table", event.seq, wrong)
            return


def _slots(table: Table) -> Slots:
    return {slot: member.incarnation for slot, member in table.members.items()}


def _change(event: h.TableCall, before: Slots, after: Slots, slots_max: int) -> str:
    """What is wrong with a join, a leave or an evict; "" if nothing is."""
    who = event.incarnation
    for slot, holder in before.items():
        its_own = event.call != "join" and holder == who and event.slot in ("", slot)
        if its_own and after.get(slot) == who:
            return f"{who} still has {slot} after its {event.call}"
        if not its_own and after.get(slot) != holder:
            return f"{holder} lost {slot} by the {event.call} of {who}"
    if len({*after.values()}) < len(after):
        return f"a host has two slots after the {event.call} of {who}"
    if event.call == "join" and who not in after.values() and len(after) < slots_max:
        return f"{who} has joined and got no slot; {len(after)} are taken"
    return ""


def _beat(event: h.Beaten, slots: Slots, spares: set[str], ring_version: int, counters: dict[str, int]) -> str:
    """What is wrong with the answer to a beat; notes its count."""
    reply, who = event.reply, event.process
    beat = reply.beats.get(who)
    if beat is None or beat.counter <= counters.get(who, 0):
        return f"a beat of {who} doesn't count"
    counters[who] = beat.counter
    if reply.listed != (who in slots.values()):
        return f"{who} is told that it is {'' if reply.listed else 'not '}listed"
    if reply.waits != (who in spares):
        return f"{who} is told that it {'waits' if reply.waits else 'does not wait'} for a slot"
    told = _slots(reply.table) if reply.table is not None else None
    if reply.ring_version != ring_version or told != (slots if event.known != ring_version else None):
        return f"{who} is told of another table than the one that is stored, or not told of it"
    return ""
