"""``loadtest/run compare``: rounds of all ways, the table and the page.

What has a line of this commit and of these sizes in ``rounds.jsonl`` isn't done again; a working tree that isn't
committed spares nothing. Exit code 1 if Rehydra lost anything or refused anybody where no way should; 2 if something
couldn't be carried out, or wasn't for want of time: the next call goes on there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from loadtest.compare.environment import environment
from loadtest.compare.experiments import Course
from loadtest.compare.page import page
from loadtest.compare.plan import FULL, SMOKE, Plan
from loadtest.compare.start import running
from loadtest.compare.table import Line, markdown, rehydra_is_blameless, rows
from loadtest.compare.ways import BY_NAME, WAYS, Way
from loadtest.lab.judge import commit
from loadtest.stack import NotUp

FOLDER = Path(".data/compare")


class Rounds:
    """The lines that there are. ``plan`` and the commit say which of them count."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._path = folder / "rounds.jsonl"
        self._same: dict[str, Any] = {"commit": commit(), "plan": plan.as_json()}
        folder.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A last line without its end is torn: whoever wrote it was killed.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._path.write_text(whole, encoding="utf-8")
        self.lines = [] if self._same["commit"].endswith("-dirty") else list(self._known(whole))

    def _known(self, text: str) -> Iterator[dict[str, Any]]:
        for line in map(json.loads, text.splitlines()):
            if all(line[name] == value for name, value in self._same.items()):
                yield line

    def has(self, way: Way, number: int) -> bool:
        return any(line["way"] == way.name and line["round"] == number for line in self.lines)

    def add(self, told: dict[str, Any]) -> None:
        """Written at once: what is measured stays so."""
        line = self._same | told
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)


async def compare(arguments: argparse.Namespace) -> tuple[list[Line], list[str]]:
    """The lines of all rounds, and what couldn't be carried out."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    plan, folder = (SMOKE if arguments.smoke else FULL), arguments.out.resolve()
    rounds, trouble, taken = Rounds(folder, plan), list[str](), dict[str, float]()
    rivals = await asyncio.to_thread(environment)
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="rehydra-compare-kept-") as name:
        kept = Path(name)
        # PostgreSQL's own user goes through it.
        os.chmod(kept, 0o711)
        for number, way in _in_turn(arguments.only, arguments.rounds):
            if rounds.has(way, number):
                continue
            begun = time.monotonic()
            if begun + taken.get(way.name, 0.0) > until:
                trouble.append(f"round {number} of {way.name}: there was no time left")
                continue
            try:
                async with running(way, arguments.port, rivals, kept) as up:
                    started = time.monotonic()
                    told = await Course(up, plan, folder / "histories" / f"{way.name}-{number}").run()
            except NotUp as error:
                trouble.append(f"round {number} of {way.name}: {error}")
                print(trouble[-1], flush=True)
                continue
            taken[way.name] = time.monotonic() - begun
            took = {"start_s": round(started - begun, 1), "took_s": round(taken[way.name], 1)}
            rounds.add({"way": way.name, "round": number, **took, **told})
            print(said(number, way, rounds.lines[-1]), flush=True)
    return [line for line in rounds.lines if line["way"] in arguments.only], trouble


def _in_turn(names: Sequence[str], rounds: int) -> Iterator[tuple[int, Way]]:
    """Every way once before any comes again."""
    for number in range(1, rounds + 1):
        for name in names:
            yield number, BY_NAME[name]


def said(number: int, way: Way, line: Line) -> str:
    """For whoever watches."""
    ordinary, at_once, gone = line["ordinary"], line["at_once"], line["server_gone"]
    return (
        f"round {number}  {way.name:18}  {line['took_s']:5.1f} s"
        f"  p50 {ordinary['p50_ms']} ms, {ordinary['turns_per_s']:.0f} turns/s;"
        f" at once: lost {at_once['lost']}, errors {at_once['client_errors']};"
        f" server gone: lost {gone['lost']}, errors {gone['client_errors']}; others had {line['others_cores']} cores"
    )


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="loadtest/run compare", description="Hold Rehydra against the other ways to scale a stateful agent."
    )
    names = [way.name for way in WAYS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WAY", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="of all ways in turn (5; with --smoke 1)")
    parser.add_argument("--smoke", action="store_true", help="small and once: shows that it runs, no figures")
    parser.add_argument("--minutes", type=float, default=60.0, help="nothing is begun that would end later (60)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help=f"lines, table, page ({FOLDER})")
    parser.add_argument("--port", type=int, default=26_000, help="the first of six that are used")
    arguments = parser.parse_args(words)
    arguments.rounds = arguments.rounds or (1 if arguments.smoke else 5)
    if arguments.rounds < 1 or arguments.minutes <= 0:
        parser.error("--rounds must be 1 at least, and --minutes more than 0")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    try:
        lines, trouble = uvloop.run(compare(arguments))
    except (NotUp, OSError, ValueError) as error:
        print(f"loadtest/run compare: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("loadtest/run compare: stopped; what has its line need not be done again", file=sys.stderr)
        return 2
    found = rows(lines)
    told = {"commit": commit(), "trouble": trouble, "ways": {row.way.name: row.as_json() for row in found}}
    (arguments.out / "table.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "table.md").write_text(markdown(found) + "\n", encoding="utf-8")
    (arguments.out / "page.html").write_text(page(found, lines, trouble), encoding="utf-8")
    print(markdown(found))
    for each in trouble:
        print(f"trouble: {each}", file=sys.stderr)
    print(f"all of it: {arguments.out}/page.html")
    if trouble:
        return 2
    return 0 if rehydra_is_blameless(found) else 1


if __name__ == "__main__":
    sys.exit(main())
