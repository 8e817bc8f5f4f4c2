"""Whoever waits is answered, and not too many wait: I5 and I6."""

from __future__ import annotations

from collections import Counter, defaultdict

from actors.errors import MailboxFull, PoisonTurn, SessionDeleted, StateRegressed, WaitedTooLong
from actors.ports import Done
from tests.simulation import history as h
from tests.simulation.facts import Facts

LATE_S = 12.0
"""After this long without trouble nobody has a reason to wait."""


def check_i5_no_lost_wakeup(facts: Facts) -> None:
    """Whoever asks is answered, and after the trouble all is as before it."""
    healed, quiet, probed, idle = (facts.marks.get(name) for name in ("healed", "quiet", "probed", "idle"))
    finished: Counter[int] = Counter()
    for said in facts.said:
        if said.what == "finish":
            finished[said.exchange] += 1
            if finished[said.exchange] == 2:
                facts.report("I5", said.seq, f"{said.process} has given two final answers to one request")
            if isinstance(said.final, WaitedTooLong) and healed is not None and said.at > healed.at + LATE_S:
                facts.report("I5", said.seq, f"{said.turn_id} waited for {said.process} without need")
    for op in facts.ops.values():
        if op.end is None and probed is not None:
            facts.report("I5", op.start.seq, f"{op.start.client}'s {op.start.turn_id} has got no answer")
    if quiet is not None and probed is not None:
        _probes(facts, quiet, probed)
    if idle is not None:
        for gauge in facts.gauges:
            if gauge.seq > idle.seq and gauge.resident:
                facts.report("I5", gauge.seq, f"{gauge.process} still has {gauge.resident} idle sessions in memory")


def _probes(facts: Facts, quiet: h.Fault, probed: h.Fault) -> None:
    for op in facts.ops.values():
        if not quiet.seq < op.start.seq < probed.seq or op.start.kind != "chat" or op.end is None:
            continue
        if op.end.at - op.start.at > facts.limits.probe_s:
            facts.report("I5", op.end.seq, f"a fresh turn took {op.end.at - op.start.at:.1f} s after all was healed")
        allowed = (Done, SessionDeleted, StateRegressed, PoisonTurn, MailboxFull)
        if not isinstance(op.end.final, allowed) and op.start.turn_id.startswith("k:"):
            facts.report("I5", op.end.seq, f"a fresh turn ended in {type(op.end.final).__name__} after all was healed")


def check_i6_bounded(facts: Facts) -> None:
    limits = facts.limits
    handed_over: dict[str, set[str]] = defaultdict(set)
    batched = [arrival for arrival in facts.arrived if arrival.via == "batch"]
    for gauge in facts.gauges:
        while batched and batched[0].seq < gauge.seq:
            arrival = batched.pop(0)
            handed_over[arrival.process].add(arrival.turn_id)
        # A turn that is run anew goes back into its mailbox; what another host hands over comes on top.
        if gauge.waiting > limits.mailbox_max + 1 + len(handed_over[gauge.process]):
            facts.report("I6", gauge.seq, f"{gauge.waiting} turns wait in one mailbox of {gauge.process}")
        if gauge.attached > limits.attachments_max:
            facts.report("I6", gauge.seq, f"{gauge.attached} requests wait for one turn on {gauge.process}")
        if gauge.resident > limits.resident_max + gauge.busy + 2:
            facts.report("I6", gauge.seq, f"{gauge.resident} sessions are in memory on {gauge.process}")
