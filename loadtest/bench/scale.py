"""``python -m loadtest.bench.scale``: 1,000 hosts and 1,000,000 sessions, by simulation; what gives first.

Three parts, each for a row of sizes: the ring (a model, ``scale_ring``), the store's membership (the product's script
on a real server, ``scale_store``), and HAProxy (the real one, ``scale_edge``). It prints tables in Markdown, the ones
of ``loadtest/SCALE.md``, and writes all of it as JSON with ``--out``. About a minute, most of it on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.scale_edge import CHECK_MS, Edge, edges
from loadtest.bench.scale_ring import dealt, hashed, joined, loads, moved, over_mean, points, sessions_of, without
from loadtest.bench.scale_store import Beat, beats
from loadtest.bench.summary import number

BEAT_S = 0.5
"""``ring.beat_interval_s``."""
LEAVERS = 5
"""Hosts whose leave is tried; the worst counts."""

RINGS_64 = tuple((64, shards, vnodes) for shards in (4_096, 16_384) for vnodes in (160, 1_024))
RINGS = ((4, 16_384, 1_024), *RINGS_64, (1_000, 16_384, 160), (1_000, 65_536, 160))
RINGS_LARGE = ((1_000, 65_536, 1_024), (1_000, 1_048_576, 160))
DEALS = ((64, 16_384), (1_000, 16_384), (1_000, 65_536))
HOSTS = (4, 16, 64, 250, 1_000)
EDGES = ((64, 4_096), (64, 16_384), (250, 16_384), (1_000, 16_384), (1_000, 65_536))


@dataclass(frozen=True, slots=True)
class Ring:
    """One size. ``shards_over_mean``, ``sessions_over_mean``: the fullest host. ``moved_over_ideal``: at a leave, the
    shards that moved over one host's fair share. ``strays``: that moved from somebody else than the leaver."""

    how: str
    hosts: int
    shards: int
    vnodes: int
    build_s: float
    shards_over_mean: float
    sessions_over_mean: float
    empty: int
    moved_over_ideal: float
    strays: int


def hashed_ring(hosts: int, shards: int, vnodes: int, sessions: int) -> Ring:
    """By points on a circle."""
    begun = time.perf_counter()
    circle = points(range(hosts), vnodes)
    owners = hashed(circle, shards)
    build_s = time.perf_counter() - begun
    leavers = range(0, hosts, max(1, hosts // LEAVERS))
    afters = [(leaver, hashed([each for each in circle if each[1] != leaver], shards)) for leaver in leavers]
    return _ring("hashed", (hosts, shards, vnodes), build_s, owners, sessions, afters)


def dealt_ring(hosts: int, shards: int, sessions: int) -> Ring:
    """By count, after half of the hosts have joined one by one to the other half, as a fleet grows."""
    owners = dealt(range(hosts // 2), shards)
    begun = time.perf_counter()
    for joiner in range(hosts // 2, hosts):
        owners = joined(owners, joiner)
    build_s = (time.perf_counter() - begun) / (hosts - hosts // 2)
    leavers = range(0, hosts, max(1, hosts // LEAVERS))
    afters = [(leaver, without(owners, leaver)) for leaver in leavers]
    return _ring("dealt", (hosts, shards, 0), build_s, owners, sessions, afters)


def _ring(
    how: str,
    size: tuple[int, int, int],
    build_s: float,
    owners: Sequence[int],
    sessions: int,
    afters: Iterable[tuple[int, Sequence[int]]],
) -> Ring:
    hosts, shards, vnodes = size
    held = loads(owners, hosts, [1] * shards)
    talks = loads(owners, hosts, sessions_of(shards, sessions))
    moves = [(moved(owners, after), _strays(owners, after, leaver)) for leaver, after in afters]
    return Ring(
        how,
        hosts,
        shards,
        vnodes,
        build_s,
        over_mean(held),
        over_mean(talks),
        held.count(0),
        max(count for count, _ in moves) * hosts / shards,
        max(strays for _, strays in moves),
    )


def _strays(before: Sequence[int], after: Sequence[int], leaver: int) -> int:
    return sum(was != now and was != leaver for was, now in zip(before, after, strict=True))


# --- tables -----------------------------------------------------------------------------------------------------------


def ring_table(rings: Iterable[Ring]) -> str:
    head = ("how", "hosts", "shards", "points a host", "made in", "fullest, shards", "fullest, sessions", "empty hosts")
    rows = [
        (
            *(each.how, f"{each.hosts:,}", f"{each.shards:,}", f"{each.vnodes:,}" if each.vnodes else "–"),
            f"{1000 * each.build_s:.0f} ms",
            f"{each.shards_over_mean:.2f} ×",
            f"{each.sessions_over_mean:.2f} ×",
            f"{each.empty:,}",
            f"{each.moved_over_ideal:.2f} ×",
            f"{each.strays:,}",
        )
        for each in rings
    ]
    return markdown((*head, "moved by a leave, worst", "strays"), rows)


def beat_table(found: Iterable[Beat]) -> str:
    head = (
        "hosts",
        "a beat, µs",
        "its answer",
        "beats/s",
        "of the store's one core",
        "answers, MB/s",
        "a change, MB",
        "a lean beat, µs",
    )
    rows = [
        (
            f"{each.hosts:,}",
            f"{each.us:.0f}",
            f"{each.reply_bytes:,.0f} B",
            f"{each.hosts / BEAT_S:,.0f}",
            f"{100 * each.cores(BEAT_S):.1f} %",
            number(each.bytes_per_s(BEAT_S) / 1e6),
            number(each.hosts * each.table_bytes / 1e6),
            f"{each.lean_us:.0f}",
        )
        for each in found
    ]
    return markdown(head, rows)


def edge_table(found: Iterable[Edge]) -> str:
    head = ("servers", "shards", "start", "memory", "swap of the map", f"checks alone, every {CHECK_MS} ms")
    rows = [
        (
            f"{each.hosts:,}",
            f"{each.shards:,}",
            f"{each.start_ms:.0f} ms",
            f"{each.memory_bytes / 1e6:.0f} MB",
            f"{each.swap_ms:.0f} ms",
            f"{each.cores:.3f} cores",
        )
        for each in found
    ]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All three, printed as they come."""
    sizes = RINGS if arguments.quick else RINGS + RINGS_LARGE
    rings = [hashed_ring(*size, arguments.sessions) for size in sizes]
    rings += [dealt_ring(*size, arguments.sessions) for size in DEALS]
    print(f"## The ring, {arguments.sessions:,} sessions\n\n{ring_table(rings)}\n", flush=True)
    membership = await beats(arguments.port, HOSTS)
    print(f"## Beats at the store, one per host every {BEAT_S:g} s\n\n{beat_table(membership)}\n", flush=True)
    haproxy = await edges(arguments.port + 2, EDGES)
    print(f"## HAProxy\n\n{edge_table(haproxy)}", flush=True)
    parts: dict[str, Sequence[Ring | Beat | Edge]] = {"rings": rings, "beats": membership, "edges": haproxy}
    return {name: [asdict(each) for each in part] for name, part in parts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate 1,000 hosts and 1,000,000 sessions.")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--port", type=int, default=8890, help="first of four ports")
    parser.add_argument("--quick", action="store_true", help="without the two largest rings")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
