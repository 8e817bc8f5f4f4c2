"""A host with 20,000 idle sessions in memory leaves in good order: how long until every lease is given back?

    python -m loadtest.leave_host [--sessions 20000] [--hosts 1] [--rounds 5]

On a deployment without Ray. With one host it alone holds them all; with more, each its share, and the one that leaves
has others to leave them to. The end is when the host itself counts none in memory and none being released; then the
store is asked, lease by lease, whether that is true. Demanded: within 5 s, none kept, and exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.bare.deployment import Bare, until
from loadtest.bare.store import Store
from loadtest.client import Unreadable
from loadtest.stampede import AGENT, Stampede

WITHIN_S = 5.0
GIVE_UP_S = 60.0
PIPELINE = 1000


@dataclass(frozen=True, slots=True)
class Leave:
    """One host that left. ``kept``: leases that were its own still, by the store's word."""

    held: int
    released_s: float
    kept: int
    gone_s: float
    exit_code: int


async def leave(bare: Bare, sessions: list[str]) -> Leave:
    """SIGTERM to the host of the lowest slot."""
    slot, host = min((await bare.settled()).items())
    held = int((await host.stats())["resident"])
    begun = time.monotonic()
    host.signal(signal.SIGTERM)
    seen_s = 0.0

    async def empty() -> bool:
        nonlocal seen_s
        try:
            stats = await host.stats()
        except Unreadable:
            return not host.alive
        seen_s = time.monotonic() - begun
        return bool(stats["draining"]) and not stats["resident"] and not stats["releasing"]

    await until(empty, f"{slot} without sessions", GIVE_UP_S)
    with contextlib.closing(Store(bare.redis_url)) as store:
        kept = 0
        for first in range(0, len(sessions), PIPELINE):
            names = sessions[first : first + PIPELINE]
            holders = await store.ask([("HGET", f"rehydra:{{-:{name}}}:lease", "incarnation") for name in names])
            kept += sum(holder == host.incarnation.encode() for holder in holders)
    exit_code = await host.process.wait()
    return Leave(held, round(seen_s, 3), kept, round(time.monotonic() - begun, 2), exit_code)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """As many rounds as wanted, each on a deployment of its own; the verdict."""
    leaves, errors = list[Leave](), list[str]()
    for number in range(arguments.rounds):
        async with Bare(arguments.port, AGENT, arguments.hosts) as bare:
            with contextlib.closing(Stampede(bare, arguments.sessions, number)) as stampede:
                errors += await stampede.fill(turns=1)
                leaves.append(await leave(bare, [session.name for session in stampede.sessions]))
        print(f"{leaves[-1]}", flush=True)
    kept = {
        "every lease within 5 s": all(each.released_s <= WITHIN_S for each in leaves),
        "none kept": not any(each.kept for each in leaves),
        "left in good order": not any(each.exit_code for each in leaves),
        "no errors": not errors,
    }
    return {
        "passed": all(kept.values()),
        "kept": kept,
        "released_s, median": statistics.median(each.released_s for each in leaves),
        "leaves": [asdict(each) for each in leaves],
        "errors": errors[:20],
        "command": " ".join(["python -m loadtest.leave_host", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A host with thousands of idle sessions leaves; how long does it take?"
    )
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=8800, help="the first of its own ports")
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/leave_host"))
    arguments = parser.parse_args()
    verdict = asyncio.run(run(arguments))
    text = json.dumps(verdict, indent=2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
