"""What a history says about faults: who had traffic, which sessions moved, how long it was felt.

Pure: operations, the edge's maps and the faults in, numbers out. Which sessions should move comes from the maps that
the edge routed by (shard = xxh32 of the id, modulo 16,384), never from what the hosts said; which did move is seen by
their clients: between two turns another slot answers, or the session was loaded anew (``X-Session-State``).
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from xxhash import xxh32_intdigest

from loadtest.lab.deployment import SHARDS, Snapshot
from loadtest.lab.faults import EVERYBODY, KINDS, Done

DURING_S = 5.0
"""A latency counts as of a fault's time from its begin until this long after all hosts were ready again."""
MAP_LATE_S = 1.0
"""A change of the edge's map is seen at most so long after requests have begun to follow it."""


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
    replayed: bool = False
    host: str = ""
    """Which life of which host answered."""


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
                op.replayed, op.host = line.get("replayed", False), line.get("host", "")
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


@cache
def shard_of(session: str) -> int:
    return int(xxh32_intdigest(session.encode()) % SHARDS)


class Maps:
    """The maps by which the edge routed, over time."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        """At least one, in order of time."""
        self._snapshots = snapshots
        self._times = [found.at for found in snapshots]
        self._changes: dict[int, list[float]] = defaultdict(list)
        """Shard -> when it was given to another slot."""
        for earlier, later in itertools.pairwise(snapshots):
            for shard in range(SHARDS):
                if earlier.slots[shard] != later.slots[shard]:
                    self._changes[shard].append(later.at)

    def slots_at(self, at: float) -> tuple[str, ...]:
        """Shard -> slot at that time."""
        return self._snapshots[max(0, bisect_right(self._times, at) - 1)].slots

    def owner(self, session: str, at: float) -> str:
        return self.slots_at(at)[shard_of(session)]

    def gave_away(self, session: str, since: float, until: float) -> bool:
        """Whether the session's shard was given to another slot in that time."""
        changes = self._changes.get(shard_of(session), [])
        return bisect_right(changes, until) > bisect_right(changes, since)

    @property
    def last_change(self) -> float:
        return self._times[-1]


def ends(faults: Sequence[Done], ops: Sequence[Op]) -> list[float]:
    """Until when each fault is the latest one."""
    return [*(later.at for later in faults[1:]), max((op.end for op in ops), default=0.0) + 1][: len(faults)]


def count_traffic(faults: Sequence[Done], ops: Sequence[Op], maps: Maps) -> None:
    """Fill in how many operations were under way on each fault's victim when it was struck."""
    for fault in faults:
        running = [op for op in ops if op.at < fault.at and (op.end > fault.at or not op.end)]
        # A host that is new had nothing to lose: its traffic is that of the sessions that move to it.
        if fault.slot == EVERYBODY or not fault.slots & set(maps.slots_at(fault.at)):
            fault.traffic = len(running)
        else:
            fault.traffic = sum(maps.owner(op.session, fault.at) in fault.slots for op in running)


@dataclass(slots=True)
class Moves:
    """Of one fault, until the next one: names of sessions."""

    expected: set[str] = field(default_factory=set)
    """Those that the edge's map gave to another slot, or whose host was taken away."""
    asked: set[str] = field(default_factory=set)
    """Expected ones with an acknowledged turn before and one after: their move could be seen."""
    observed: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    """They moved, and nothing had moved them."""


def moves(faults: Sequence[Done], ops: Sequence[Op], maps: Maps) -> list[Moves]:
    """One for each fault. A move is looked for between every two turns of a session, and belongs to the last fault
    before the second turn; what happened before the first fault belongs to nobody."""
    found, by_session = [Moves() for _ in faults], defaultdict[str, list[Op]](list)
    for op in sorted((op for op in ops if op.kind == "ok" and not op.replayed), key=lambda op: op.end):
        by_session[op.session].append(op)
    starts = [fault.at for fault in faults]
    for number, (fault, until) in enumerate(zip(faults, ends(faults, ops), strict=True)):
        struck = fault.slots if KINDS[fault.do].takes_hosts else frozenset[str]()
        for name, turns in by_session.items():
            if turns[0].at > fault.at:
                continue
            if maps.gave_away(name, fault.at, until) or maps.owner(name, fault.at) in struck:
                found[number].expected.add(name)
                if turns[0].end < fault.at and any(fault.at < turn.end < until for turn in turns):
                    found[number].asked.add(name)
    for name, turns in by_session.items():
        for before, after in itertools.pairwise(turns):
            if before.slot == after.slot and after.state != "rehydrated":
                continue
            if (number := bisect_right(starts, after.end) - 1) < 0:
                continue
            found[number].observed.add(name)
            if not _explained(before, after, faults, maps):
                found[number].unexpected.add(name)
    return found


def _explained(before: Op, after: Op, faults: Sequence[Done], maps: Maps) -> bool:
    """Whether the ring, or a fault, moved the session between these two turns of it."""
    if maps.gave_away(before.session, before.at, _seen_by(after.end, faults) + MAP_LATE_S):
        return True
    # Whoever was served elsewhere, as after a broken connection, goes home to its owner at the next turn.
    if before.slot != maps.owner(before.session, before.end) and after.slot == maps.owner(after.session, after.end):
        return True
    for fault in faults:
        kind, over = KINDS[fault.do], max(fault.over, fault.at + fault.effect_s)
        if before.at < over and fault.at < after.end:
            concerned = {maps.owner(before.session, fault.at), before.slot, after.slot}
            if kind.reloads or (kind.takes_hosts and concerned & fault.slots):
                return True
    return False


def _seen_by(at: float, faults: Sequence[Done]) -> float:
    """When the edge's map had followed the ring of that time. Hosts go by the table: they give sessions to a new host,
    and it loads them, while whoever writes the map is being replaced."""
    stops = [fault for fault in faults if KINDS[fault.do].stops_map and fault.at <= at]
    return max([at, *(fault.at + max(fault.again_s, fault.effect_s) for fault in stops)])


def next_acknowledged(fault: Done, until: float, ops: Sequence[Op], *, from_sent: bool = False) -> dict[str, float]:
    """Session -> seconds from the fault to its next acknowledged turn, or from when that message was due if that is
    later. The agent's own time is in it. With ``from_sent``, from when it was really sent: one who waits for an
    answer in another session of his doesn't count against this one."""
    waits: dict[str, float] = {}
    for op in sorted(ops, key=lambda op: op.end):
        if op.kind == "ok" and fault.at <= op.end and op.due < until and op.session not in waits:
            waits[op.session] = op.end - max(fault.at, op.at if from_sent else op.due)
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


def releases(fault: Done, ops: Sequence[Op]) -> list[float]:
    """For every lease of a host that left as planned: seconds from the session's last turn there, or from when the
    host left if that is later, until the lease was seen free."""
    last: dict[str, float] = {}
    for op in ops:
        lease = fault.released.get(op.session)
        if lease is not None and op.kind == "ok" and op.slot == lease.slot and op.end <= lease.free:
            last[op.session] = max(op.end, last.get(op.session, 0.0))
    return [lease.free - max(lease.left, last.get(name, 0.0)) for name, lease in fault.released.items()]


def answered_by_the_cut_off(fault: Done, ops: Sequence[Op]) -> list[Op]:
    """Turns that the victim itself acknowledged of messages that were sent to it while it was cut off.

    Streams are left out: their head names the host at which they began, not the one that ended them.
    """
    return [
        op
        for op in ops
        if op.kind == "ok" and not op.key and op.host == fault.host and fault.at < op.at and op.end < fault.over
    ]


def allowed(op: Op, faults: Sequence[Done]) -> bool:
    """Whether an unanswered request is what clients may see of a fault of that time."""
    problem = op.why.partition(" ")[0].rpartition(":")[2]
    seen = {str(op.status), f"{op.status} {problem}"}
    return any(
        seen & KINDS[fault.do].errors
        and op.at < max(fault.over, fault.at + fault.again_s) + KINDS[fault.do].errors_for_s
        and (not op.end or op.end > fault.at)
        for fault in faults
    )
