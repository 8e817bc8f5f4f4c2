"""The membership table as a value, for stores that have no scripts: what a change makes of it, and how it is kept.

Such a store reads the :class:`Roster`, asks a function here for the next one, and writes that on the condition that
nobody else has written in between. Pure: no store, no clock. ``now_ms`` is the wall clock of the host that asks; it
only starts the counters of a table and of beats high, and says which spare beat last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic_core import from_json, to_json

from actors.model import MEMBERS_VERSION, Beat, BeatReply, HostState, Member, Table
from actors.stores.codec import decode_member, encode_member, newer_schema

BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""

Beats = Mapping[str, tuple[Beat, int]]
"""incarnation -> (its last beat, when it came in ms by the clock of whoever sent it)"""


@dataclass(frozen=True, slots=True)
class Roster:
    """Who holds which slot, and who waits for one. ``ring_version`` 0: there never was a member."""

    ring_version: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    """slot -> member"""
    spares: Mapping[str, tuple[Member, int]] = field(default_factory=dict)
    """incarnation -> (itself, without a slot; its slots_max)"""

    @property
    def table(self) -> Table:
        return Table(self.ring_version, self.members)


def joined(roster: Roster, host: Member, slots_max: int, now_ms: int) -> Roster:
    """``host`` (without a slot) has the lowest free slot, or waits; the same roster if it has one already."""
    if roster.table.slot_of(host.incarnation) is not None:
        return roster
    free = (slot for slot in map("slot-{}".format, range(slots_max)) if slot not in roster.members)
    if (slot := next(free, None)) is None:
        return replace(roster, spares={**roster.spares, host.incarnation: (host, slots_max)})
    members = {**roster.members, slot: replace(host, slot=slot)}
    return Roster(_next(roster, now_ms), members, _without(roster.spares, host.incarnation))


def left(roster: Roster, incarnation: str, beats: Beats, now_ms: int) -> Roster:
    """Its slot is a spare's, or free; it doesn't wait for one any more."""
    slot = roster.table.slot_of(incarnation)
    if slot is not None:
        roster = _freed(roster, slot, beats, now_ms)
    return replace(roster, spares=_without(roster.spares, incarnation))


def evicted(roster: Roster, slot: str, incarnation: str, beats: Beats, now_ms: int) -> Roster:
    """The same roster, unless that very incarnation held the slot."""
    member = roster.members.get(slot)
    return _freed(roster, slot, beats, now_ms) if member and member.incarnation == incarnation else roster


def _freed(roster: Roster, slot: str, beats: Beats, now_ms: int) -> Roster:
    """The spare that beat last inherits, in the same step, so that the slot's sessions move once."""
    number = int(slot.rpartition("-")[2])
    # A spare without a beat has gone.
    spares = {name: spare for name, spare in roster.spares.items() if name in beats}
    heirs = [
        (beats[name][1], name)
        for name, (_, slots_max) in spares.items()
        if number < slots_max and beats[name][0].state is HostState.SPARE
    ]
    members = _without(roster.members, slot)
    if heirs:
        members[slot] = replace(spares.pop(max(heirs)[1])[0], slot=slot)
    return Roster(_next(roster, now_ms), members, spares)


def _next(roster: Roster, now_ms: int) -> int:
    # From the clock after a loss of all data, so that nobody who knew the old table takes the new for older.
    return roster.ring_version + 1 if roster.ring_version else max(now_ms, 1)


def _without(those: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in those.items() if key != name}


def forgotten(roster: Roster, beats: Beats, now_ms: int) -> list[str]:
    """Whose beats are kept no longer."""
    listed = {member.incarnation for member in roster.members.values()}
    return [name for name, (_, seen_ms) in beats.items() if seen_ms + BEATS_KEEP_MS < now_ms and name not in listed]


def reply(roster: Roster, incarnation: str, beats: Beats, known_ring_version: int) -> BeatReply:
    """What a host is told after its beat."""
    return BeatReply(
        roster.ring_version,
        roster.table.slot_of(incarnation) is not None,
        incarnation in roster.spares,
        {name: beat for name, (beat, _) in beats.items()},
        roster.table if roster.ring_version != known_ring_version else None,
    )


# --- as it is kept ----------------------------------------------------------------------------------------------


def encode_roster(roster: Roster) -> bytes:
    """One JSON object."""
    return to_json(
        {
            "schema_version": MEMBERS_VERSION,
            "ring_version": roster.ring_version,
            "members": {slot: from_json(encode_member(member)) for slot, member in roster.members.items()},
            "spares": {
                name: [slots_max, from_json(encode_member(member))]
                for name, (member, slots_max) in roster.spares.items()
            },
        }
    )


def decode_roster(record: bytes) -> Roster:
    """The roster in ``record``. Misconfigured if it was written by a newer program."""
    fields: dict[str, Any] = from_json(record)
    if fields["schema_version"] > MEMBERS_VERSION:
        raise newer_schema("The membership table", fields["schema_version"], MEMBERS_VERSION)
    return Roster(
        fields["ring_version"],
        {slot: decode_member(slot, to_json(member)) for slot, member in fields["members"].items()},
        {
            name: (decode_member("", to_json(member)), slots_max)
            for name, (slots_max, member) in fields["spares"].items()
        },
    )
