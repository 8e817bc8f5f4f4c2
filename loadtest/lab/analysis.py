"""What a history says about faults: who had traffic, which sessions moved, how long it was felt.

Pure: lines of a history, the edge's maps and the faults in, numbers out. The sessions that should move come from the
maps that the edge routed by (shard = xxh32 of the id, modulo 4096), never from what the hosts said; those that did
move are seen by their clients: answered by another slot than before, or loaded anew (``X-Session-State``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh32_intdigest

from loadtest.lab.deployment import Snapshot
from loadtest.lab.nemesis import Done

DURING_S = 5.0
"""A latency counts as of a fault's time from its begin until this long after all hosts were ready again."""


@dataclass(slots=True)
class Op:
    """One request of one user. Times are monotonic seconds; ``end`` 0: it never ended."""

    session: str
    at: float
    key: str
    end: float = 0.0
    due: float = 0.0
    kind: str = ""
    slot: str = ""
    state: str = ""
    status: int = 0
    why: str = ""


def operations(path: Path) -> list[Op]:
    """All turns of a history, in the order in which they were sent."""
    ops: dict[int, Op] = {}
    with path.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line["is"] == "invoke" and line["do"] == "turn":
                ops[line["op"]] = Op(line["session"], line["at"], line.get("key", ""))
            elif line["is"] in ("ok", "fail", "info") and (op := ops.get(line["op"])):
                op.end, op.kind = line["at"], line["is"]
                op.due = line.get("due", op.at)
                op.slot, op.state = line.get("slot", ""), line.get("state", "")
                op.status, op.why = line.get("status", 200), line.get("why", "")
    return list(ops.values())


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """Count, median, 99th percentile and most, of seconds."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    last = len(ordered) - 1
    return {
        "n": len(ordered),
        "p50": round(ordered[last // 2], 4),
        "p99": round(ordered[int(last * 0.99)], 4),
        "max": round(ordered[-1], 4),
    }


STRIKES = ("kill_host", "freeze_host", "kill_node", "drain_node", "rolling_update")
"""Whose victims' sessions move even if the edge's map stays as it is: another host may take the slot at once."""


def slot_of(session: str, snapshot: Snapshot) -> str:
    return snapshot.slots[xxh32_intdigest(session.encode()) % 4096]


def in_force(snapshots: Sequence[Snapshot], at: float) -> Snapshot:
    """The map by which the edge routed at that time."""
    return max((found for found in snapshots if found.at <= at), key=lambda found: found.at, default=snapshots[0])


def count_traffic(faults: Sequence[Done], ops: Sequence[Op], snapshots: Sequence[Snapshot]) -> None:
    """Fill in how many operations were under way on each fault's victim when it was struck."""
    for fault in faults:
        before = in_force(snapshots, fault.at)
        running = [op for op in ops if op.at < fault.at and (op.end > fault.at or not op.end)]
        victims = set(fault.slot.split(","))
        # A host that is new had nothing to lose: its traffic is that of the sessions that moved to it.
        if fault.slot == "*" or not victims & set(before.slots):
            fault.traffic = len(running)
        else:
            fault.traffic = sum(slot_of(op.session, before) in victims for op in running)


@dataclass(frozen=True, slots=True)
class Moves:
    """Of one fault. ``unexpected``: sessions that moved though the ring kept them where they were."""

    expected: frozenset[str]
    observed: frozenset[str]
    asked: frozenset[str]
    """Expected ones that had an acknowledged turn before and one after, so that a move could be seen."""

    @property
    def unexpected(self) -> frozenset[str]:
        return self.observed - self.expected


def moves(fault: Done, until: float, ops: Sequence[Op], snapshots: Sequence[Snapshot]) -> Moves:
    """Between this fault and ``until`` (the next one, or the end)."""
    before = in_force(snapshots, fault.at)
    shards = {
        shard
        for later in snapshots
        if fault.at <= later.at < until
        for shard in range(4096)
        if later.slots[shard] != before.slots[shard]
    }
    sessions = {op.session for op in ops}
    struck = set(fault.slot.split(",")) if fault.do in STRIKES else set[str]()
    expected = {
        name for name in sessions if xxh32_intdigest(name.encode()) % 4096 in shards or slot_of(name, before) in struck
    }
    observed, earlier, later_asked = set[str](), dict[str, str](), set[str]()
    for op in sorted((op for op in ops if op.kind == "ok" and op.end < until), key=lambda op: op.end):
        if op.end >= fault.at and op.session in earlier:
            later_asked.add(op.session)
            if op.slot != earlier[op.session] or op.state == "rehydrated":
                observed.add(op.session)
        earlier[op.session] = op.slot
    return Moves(frozenset(expected), frozenset(observed), frozenset(expected & later_asked))


def next_acknowledged(fault: Done, until: float, ops: Sequence[Op]) -> dict[str, float]:
    """Session -> seconds from the fault, or from when its message was due if that is later, to its next acknowledged
    turn. The agent's own time is in it."""
    waits: dict[str, float] = {}
    for op in sorted(ops, key=lambda op: op.end):
        if op.kind == "ok" and fault.at <= op.end and op.due < until and op.session not in waits:
            waits[op.session] = op.end - max(fault.at, op.due)
    return waits


def latencies(faults: Sequence[Done], ops: Sequence[Op]) -> dict[str, dict[str, float]]:
    """From the scheduled time to the acknowledgement; before the first fault, during any, and after."""
    spans = [(fault.at, fault.at + fault.again_s + DURING_S) for fault in faults]
    found: dict[str, list[float]] = defaultdict(list)
    for op in ops:
        if op.kind != "ok":
            continue
        if not spans or op.end < spans[0][0]:
            when = "before"
        elif any(begin <= op.end and op.due <= end for begin, end in spans):
            when = "during"
        else:
            when = "after"
        found[when].append(op.end - op.due)
    return {when: quantiles(found[when]) for when in ("before", "during", "after")}


def per_fault(faults: Sequence[Done], ops: Sequence[Op], snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Moves and failover of every fault, as the verdict has them."""
    told, end = [], max((op.end for op in ops), default=0.0) + 1
    for fault, following in zip(faults, [*[later.at for later in faults[1:]], end], strict=True):
        moved = moves(fault, following, ops, snapshots)
        waits = next_acknowledged(fault, following, ops)
        told.append(
            {
                "expected": len(moved.expected),
                "expected_and_asked": len(moved.asked),
                "observed": len(moved.observed),
                "unexpected": len(moved.unexpected),
                "unmoved_though_asked": len(moved.asked - moved.observed),
                "failover_s": quantiles(wait for name, wait in waits.items() if name in moved.expected),
                "others_s": quantiles(wait for name, wait in waits.items() if name not in moved.expected),
            }
        )
    return told
