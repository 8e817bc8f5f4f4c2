"""Freezes hosts under running turns and streams, thaws them, and counts what they did that they mustn't have.

    python -m loadtest.freeze_hosts [--freezes 180] [--seed 1] [--slice 20] [--out .data/loadtest/freeze_hosts]

A deployment without Ray: three hosts, the edge, a store that syncs always. Freezes are shorter than the time after
which a silent host counts as dead (2 s), about as long, longer, or as long as it takes another host to sit in the
victim's slot; at any moment of a turn, in the middle of a reply, or between the agent and the commit. What the victim
says after its thaw is heard by clients that had asked it itself. Demanded, over all freezes (``bare.judging``): no
write, no final answer, no delta of a host that has lost its epoch; two hosts never in one slot; and the checker finds
nothing in the whole history. Exit code 1 when a rule is broken.

It works in slices, each on a deployment of its own, and goes on where it was stopped: a slice counts when it was
judged. ``--control GUARD`` takes one guard out of a copy of the product; such a run must be convicted, and its exit
code then is 0. Deliberately not here: latencies; and anything about why a frozen host is slow to return.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.bare.deployment import Bare, NotSo
from loadtest.bare.freezing import Freezer, Frozen, Plan
from loadtest.bare.judging import RULES, judge
from loadtest.bare.patched import without
from loadtest.bare.store import Store, Watch
from loadtest.bare.traffic import Traffic
from loadtest.checker import check
from loadtest.history import History
from loadtest.stack import ROOT

AGENT = "loadtest.agents:witness"
CONTROLS = ("fence", "silence", "acceptance")
HOSTS = 3
POOL = 48
TALKERS = 9
OPS_PER_SLICE = 10_000_000
SETTINGS: dict[str, Any] = {"ring": {"slots_max": HOSTS}}
"""With as many slots as hosts, whoever thaws into a full ring has to wait as a spare."""


async def slice_of(numbers: Sequence[int], seed: int, port: int, out: Path, code: Path = ROOT) -> dict[str, Any]:
    """These freezes on one deployment. Its verdict, which is also in ``out/verdict.json``."""
    begun, frozen, trouble = time.monotonic(), list[Frozen](), list[str]()
    history = History(out / "history.jsonl", numbers[0] * OPS_PER_SLICE + 1)
    pool = [f"pool-{numbers[0]}-{number}" for number in range(POOL)]
    talkers = [f"talk-{numbers[0]}-{number}" for number in range(TALKERS)]
    async with Bare(port, AGENT, HOSTS, code=code, groups=SETTINGS) as bare:
        with contextlib.closing(Store(bare.redis_url)) as store, contextlib.closing(history):
            history.start(AGENT, seed=seed)
            traffic, watch = Traffic(bare.client, history, seed), Watch(store, [*pool, *talkers])
            watching, ending = asyncio.create_task(watch.run()), asyncio.Event()
            talking = asyncio.create_task(traffic.talk(talkers, ending))
            freezer = Freezer(bare, traffic, watch, pool, seed + numbers[0])
            try:
                for number in numbers:
                    frozen.append(await freezer.freeze(Plan.of(seed, number)))
                    _tell(frozen[-1])
            except NotSo as error:
                trouble.append(str(error))
            ending.set()
            await talking
            watching.cancel()
            await asyncio.wait([watching])
            logs = await traffic.logs([*pool, *talkers])
    found = judge(logs, watch, traffic.finals, traffic.heard)
    verdict = {
        "freezes": [asdict(each) | {"effective": each.effective} for each in frozen],
        "trouble": trouble + traffic.trouble + _broken_off(watching),
        "refusals": traffic.refusals,
        "looks": watch.looks,
        "judged": found.as_json(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    (out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    return verdict


def _tell(frozen: Frozen) -> None:
    plan = frozen.plan
    print(
        f"freeze {plan.number + 1}: {frozen.slot} for {frozen.stopped_s:g} s ({plan.lasts}, {plan.phase}),"
        f" {frozen.running} requests ran there, {frozen.moved} sessions moved, {frozen.fenced} were fenced;"
        f" it said {frozen.straight}{'' if frozen.effective else ' - DOES NOT COUNT'} {frozen.trouble}",
        flush=True,
    )


def _broken_off(watching: asyncio.Task[None]) -> list[str]:
    """A watch that ended by itself has seen too little to acquit anybody."""
    return [] if watching.cancelled() else [f"the watch ended: {watching.exception()!r}"]


def whole(out: Path, freezes: int) -> dict[str, Any]:
    """The verdict over all slices that were judged, with the checker's over their whole history."""
    slices = sorted(out.glob("slice-*/verdict.json"))
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in slices]
    done = [each for part in parts for each in part["freezes"] if each["effective"]]
    violated, counted = Counter[str](), Counter[str]()
    for part in parts:
        violated.update(part["judged"]["violated"])
        counted.update(part["judged"]["counted"])
    checked = check([path.with_name("history.jsonl") for path in slices])
    trouble = [line for part in parts for line in part["trouble"]]
    return {
        "passed": not violated and checked.legal and not trouble and len(done) >= freezes,
        "freezes": len(done),
        "wanted": freezes,
        "without effect": sum(len(part["freezes"]) for part in parts) - len(done),
        "violated": {rule: violated[rule] for rule in RULES},
        "examples": [part["judged"]["examples"] for part in parts if part["judged"]["examples"]],
        "counted": dict(counted),
        "of them": {
            "lasted": dict(Counter(each["plan"]["lasts"] for each in done)),
            "hit": dict(Counter(each["plan"]["phase"] for each in done)),
            "requests that ran on the victim": sum(each["running"] for each in done),
            "sessions that moved": sum(each["moved"] for each in done),
            "activations that were fenced": sum(each["fenced"] for each in done),
            "evicted": sum(each["evicted"] for each in done),
            "slots taken by another": sum(bool(each["successor"]) for each in done),
        },
        "trouble": trouble,
        "checker": checked.as_json(),
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "command": " ".join(["python -m loadtest.freeze_hosts", *sys.argv[1:]]),
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Slices until there are enough freezes, or one of ``--slice``; then the whole verdict."""
    out = arguments.out / (f"without-{arguments.control}" if arguments.control else f"seed-{arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="rehydra-patched-") as folder:
        code = without(arguments.control, Path(folder)) if arguments.control else ROOT
        while True:
            begun = [json.loads(path.read_text()) for path in out.glob("slice-*/verdict.json")]
            tried = max((each["plan"]["number"] + 1 for part in begun for each in part["freezes"]), default=0)
            done = sum(each["effective"] for part in begun for each in part["freezes"])
            if done >= arguments.freezes:
                break
            numbers = range(tried, tried + min(arguments.slice, arguments.freezes - done))
            print(f"{done} of {arguments.freezes} freezes are done; {len(numbers)} more ...", flush=True)
            part = await slice_of(numbers, arguments.seed, arguments.port, out / f"slice-{tried:04}", code)
            if arguments.once or not part["freezes"]:
                break
    verdict = whole(out, arguments.freezes)
    (out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description="Freeze hosts under running turns; thawed ones must do nothing.")
    parser.add_argument("--freezes", type=int, default=180, help="freezes that must have hit a running turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slice", type=int, default=20, help="freezes on one deployment")
    parser.add_argument("--once", action="store_true", help="one slice only; the next call goes on")
    parser.add_argument("--port", type=int, default=8730, help="the first of its own ports")
    parser.add_argument("--control", choices=CONTROLS, help="take this guard out of a copy; must be convicted")
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/freeze_hosts"))
    arguments = parser.parse_args()
    verdict = asyncio.run(run(arguments))
    print(json.dumps(verdict, indent=2))
    guilty = any(verdict["violated"].values()) or not verdict["checker"]["legal"] or bool(verdict["trouble"])
    convicted = any(verdict["violated"].values())
    return int(not convicted) if arguments.control else int(guilty)


if __name__ == "__main__":
    sys.exit(main())
