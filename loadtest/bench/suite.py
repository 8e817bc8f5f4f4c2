"""``python -m loadtest.bench.suite``: all measurements, in interleaved rounds; ``loadtest.bench`` says how and why.

    python -m loadtest.bench.suite [--quick] [--only PATTERN] [--rounds N] [--list] [--out FOLDER] [--anew]

In FOLDER: ``results.jsonl`` as it grows, then ``bench.json`` and ``bench.html``. ``--only`` takes whole parts of names,
with ``*`` and ``?``. What has a figure in FOLDER already is not measured again. Exit code 1 if something that was to be
measured has no figure; a missed target is a figure like any other, and shown as missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtest.bare.deployment import NotSo
from loadtest.bare.patched import NotPatched
from loadtest.bench import page, plan
from loadtest.bench.kinds import FAILURES, KINDS
from loadtest.bench.load import LoadFailed
from loadtest.bench.plan import Measurement
from loadtest.bench.results import AnotherRun, Results, Row, this_run
from loadtest.bench.summary import Summary
from loadtest.bench.systems import ROOM, SYSTEMS, Live
from loadtest.bench.targets import as_json, verdicts
from loadtest.stack import NotUp

NOT_OPENED = (NotUp, NotPatched, NotSo, LoadFailed, OSError)


class Suite:
    """One run. ``results`` may have some of it already."""

    def __init__(self, measurements: Sequence[Measurement], rounds: int, port: int, results: Results) -> None:
        self._rounds = rounds
        self._port = port
        self._results = results
        self._begun = time.monotonic()
        self.due = {
            number: [each for each in measurements if number <= each.rounds and not results.has(each.name, number)]
            for number in range(1, rounds + 1)
        }
        self._expected_s = sum(plan.once_s(due) for due in self.due.values())
        """Of what is left, by the plan's own guess."""
        self._spent_s = self._guessed_s = 0.0

    async def run(self) -> None:
        """All rounds, each through all systems. SIGTERM breaks off as Ctrl-C does: nothing that was started is left."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        for number, due in self.due.items():
            for name in dict.fromkeys(each.system for each in due):
                await self._system(name, number, [each for each in due if each.system == name])

    async def _system(self, name: str, number: int, due: Sequence[Measurement]) -> None:
        system, begun = SYSTEMS[name], time.monotonic()
        port = self._port + ROOM * list(SYSTEMS).index(name)
        try:
            async with system.opens(port) as live:
                await live.seeds.prepare([each.point.history for each in due])
                self._say(number, f"{name}: {system.about}; up after {time.monotonic() - begun:.1f} s")
                self._took(system.start_s, time.monotonic() - begun)
                for each in due:
                    await self._measure(live, each, number)
        except NOT_OPENED as error:
            left = [each for each in due if not self._results.tried(each.name, number)]
            self._took(plan.once_s(left), time.monotonic() - begun)
            self._say(number, f"{name}: {error}")
            for each in left:
                self._results.add(Row(each.name, number, why=f"{name} didn't start: {str(error)[-300:]}"))

    async def _measure(self, live: Live, wanted: Measurement, number: int) -> None:
        begun = time.monotonic()
        prefix = f"{wanted.axis}-{wanted.setting}-{number}"
        try:
            row = Row(wanted.name, number, await KINDS[wanted.kind](live, wanted, prefix))
        except FAILURES as error:
            row = Row(wanted.name, number, why=f"{type(error).__name__}: {error}"[:500])
        self._results.add(row)
        self._took(wanted.cost_s, time.monotonic() - begun)
        self._say(number, f"{wanted.name:32} {page.in_short(row)}")

    # --- progress -------------------------------------------------------------------------------------------------

    def _took(self, guessed_s: float, spent_s: float) -> None:
        self._expected_s -= guessed_s
        self._guessed_s += guessed_s
        self._spent_s += spent_s

    def _say(self, number: int, words: str) -> None:
        # The plan's guesses are off by about the same factor everywhere, which what is done has shown.
        factor = self._spent_s / self._guessed_s if self._guessed_s else 1.0
        left_s = max(0.0, self._expected_s * factor)
        took_s = time.monotonic() - self._begun
        print(f"{took_s:5.0f} s, {left_s:4.0f} s left · {number}/{self._rounds} · {words}", flush=True)


def written(results: Results, folder: Path) -> None:
    """``bench.json`` and ``bench.html``, from what there is."""
    summary = Summary(results)
    judged = verdicts(summary)
    document = {
        **results.run,
        "targets": as_json(judged),
        "measured": summary.as_json(),
        "not_measured": results.unmeasured(),
        "systems": {name: system.about for name, system in SYSTEMS.items()},
    }
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.html").write_text(page.page(results, summary, judged), encoding="utf-8")
    for verdict in judged:
        if verdict.met is None:
            continue
        print(f"{verdict.word:13} {verdict.what}: {verdict.figure}, must be {verdict.must}")
    if without := [verdict for verdict in judged if verdict.met is None]:
        print(f"not measured  {len(without)} of {len(judged)} targets: the page names them")
    for name, why in results.unmeasured().items():
        print(f"no figure     {name}: {why}")
    print(folder / "bench.html")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what a turn costs, on every axis and against rivals.")
    parser.add_argument("--quick", action="store_true", help="the base point and the ends of the axes: three minutes")
    parser.add_argument("--only", default="*", help="parts of a measurement's name, with * and ?")
    parser.add_argument("--rounds", type=int, help=f"{plan.ROUNDS_FULL}, or {plan.ROUNDS_QUICK} if quick")
    parser.add_argument("--list", action="store_true", help="name the measurements and end")
    parser.add_argument("--out", type=Path, default=Path(".data/bench"), help="folder of the results")
    parser.add_argument("--anew", action="store_true", help="forget the results in that folder")
    parser.add_argument(
        "--port", type=int, default=8900, help="first of a thousand ports, better none that the kernel deals out"
    )
    arguments = parser.parse_args(words)
    arguments.rounds = arguments.rounds or (plan.ROUNDS_QUICK if arguments.quick else plan.ROUNDS_FULL)
    return arguments


def main() -> int:
    arguments = parsed()
    measurements = plan.chosen(plan.quick() if arguments.quick else plan.full(), arguments.only)
    if arguments.list or not measurements:
        for each in measurements:
            print(f"{each.name:34} {each.kind:10} {min(each.rounds, arguments.rounds)} × {each.cost_s:.0f} s")
        print(f"about {plan.seconds(measurements, arguments.rounds) / 60:.0f} minutes")
        return 0 if measurements else 2
    path = arguments.out / "results.jsonl"
    if arguments.anew:
        path.unlink(missing_ok=True)
    try:
        results = Results(path, this_run(arguments.quick, shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])))
    except AnotherRun as error:
        print(error, file=sys.stderr)
        return 2
    whole = False
    try:
        uvloop.run(Suite(measurements, arguments.rounds, arguments.port, results).run())
        whole = True
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("broken off; the same command goes on from here", file=sys.stderr)
    written(results, arguments.out)
    return 0 if whole and not results.unmeasured() else 1


if __name__ == "__main__":
    sys.exit(main())
