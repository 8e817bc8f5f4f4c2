"""The product's ring, timed: a process that is measured, and the one file here that imports what it measures.

A look-up of half a microsecond can't be seen over HTTP. ``kinds.ring`` starts this as a program of its own and reads
one line of JSON; nothing that judges imports it. The limits it is held against stand in ``targets``.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable

from actors.model import Member, Table
from router.ring import Ring, moved

SLOTS = 64
LOOKUPS = 20_000
CHANGES = 30


def table_of(slots: int, ring_version: int) -> Table:
    """So many members of weight 1."""
    members = [Member(f"slot-{number}", f"host-{number}", f"127.0.0.1:{number + 1}", 1, 1) for number in range(slots)]
    return Table(ring_version, {member.slot: member for member in members})


def balance(ring: Ring) -> float:
    """Most over mean, in shards."""
    shares = list(ring.shares().values())
    return max(shares) / statistics.mean(shares)


def took_us(what: Callable[[], object], times: int) -> float:
    """Median of so many calls."""
    spent = []
    for _ in range(times):
        begun = time.perf_counter_ns()
        what()
        spent.append(time.perf_counter_ns() - begun)
    return statistics.median(spent) / 1000


def changes_ms() -> tuple[float, float]:
    """A slot leaves a ring of 64: the new ring, and what moved. Median, and the share of shards that moved."""
    whole = table_of(SLOTS, 1)
    spent, share, before = [], 0.0, Ring.of(whole)
    for number in range(CHANGES):
        # Another slot each time: a composition that was seen before is remembered.
        left = {slot: member for slot, member in whole.members.items() if slot != f"slot-{number}"}
        begun = time.perf_counter_ns()
        after = Ring.of(Table(number + 2, left))
        gone = moved(before, after)
        spent.append((time.perf_counter_ns() - begun) / 1e6)
        share = len(gone) / len(after.slot_of_shard)
    return statistics.median(spent), share


def first_build_ms() -> float:
    """A process that has just started knows no slot's points yet."""
    begun = time.perf_counter_ns()
    Ring.of(table_of(SLOTS, 1))
    return (time.perf_counter_ns() - begun) / 1e6


def main() -> None:
    gc.disable()
    build_ms = first_build_ms()
    ring = Ring.of(table_of(SLOTS, 1))
    names = iter([f"session-{number}" for number in range(LOOKUPS)])
    change_ms, share = changes_ms()
    found = {
        "lookup_us": took_us(lambda: ring.owner(next(names)), LOOKUPS),
        "change_ms": change_ms,
        "first_build_ms": build_ms,
        "moved_of_64": share,
        "balance_4": max(balance(Ring.of(table_of(slots, 1))) for slots in range(1, 5)),
        "balance_16": max(balance(Ring.of(table_of(slots, 1))) for slots in range(1, 17)),
        "balance_64": balance(ring),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
