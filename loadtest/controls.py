"""Positive controls: deployments that lack one thing, under the load and before the checker that acquit Rehydra.

    python -m loadtest.controls [--only rehydra a b c] [--smoke] [--seed N] [--out DIR]

A proof that has never convicted anybody proves nothing. The scenario ``controls`` is run four times, each on a
deployment of its own, and the same checker judges what the same clients wrote down:

- ``rehydra``  as it is: must be acquitted, and pass in everything else that an experiment asks;
- ``a``        Rehydra whose script checks neither epoch nor token (``baselines.unfenced``): must be convicted;
- ``b``        Ray's ConsistentHashRouter, one JSON value in Redis per session (``baselines.app``): must be convicted;
- ``c``        any replica, the same JSON value: must be convicted.

The freezes are for ``rehydra`` and ``a``; ``b`` and ``c`` need no fault to be convicted, and get none. ``verdict.json``
says who was convicted of what. Exit code 0 if everybody is what he must be, 1 if not, 2 if somebody couldn't be tried.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from loadtest.baselines.rival import rival
from loadtest.baselines.unfenced import NotPatched, unfenced
from loadtest.checker import check
from loadtest.lab.analysis import operations
from loadtest.lab.deployment import Deployment, NotSo
from loadtest.lab.experiment import AGENT, experiment
from loadtest.lab.judge import about_this
from loadtest.lab.load import talking
from loadtest.lab.reading import read_back
from loadtest.lab.scenario import Scenario, read
from loadtest.stack import ROOT, NotUp, started

SCENARIO: Final = "controls"
ABOUT: Final = {
    "rehydra": "Rehydra",
    "a": "Rehydra whose script checks neither epoch nor token",
    "b": "Ray's ConsistentHashRouter, a JSON value SET per turn",
    "c": "any replica, the same JSON value",
}
ROUTERS: Final = {"b": "consistent_hash", "c": "default"}
EXAMPLES: Final = 2
"""Of each violation, in the summary; the rest is in the folder of the one who was tried."""


async def try_rehydra(scenario: Scenario, out: Path, port: int, *, fenced: bool) -> dict[str, Any]:
    """With its faults. The word of the experiment, in short."""
    with contextlib.nullcontext(ROOT) if fenced else unfenced(ROOT) as root:
        async with started(port, scenario.hosts, AGENT, scenario.fsync, port + 1, root=root) as stack:
            verdict = await experiment(Deployment(stack, scenario.hosts), scenario, out, [])
    return {
        "convicted_of": verdict["checker"]["violated"],
        "passed": verdict["passed"],
        "turns": verdict["turns"],
        "client_errors": verdict["client_errors"],
        "faults": [f"{fault['do']} {fault['slot']}: {fault['seen']}" for fault in verdict["faults"]],
        "trouble": verdict["trouble"],
        "examples": _few(verdict["checker"]["examples"]),
    }


async def try_rival(scenario: Scenario, out: Path, port: int, router: str) -> dict[str, Any]:
    """The same load, without a fault."""
    async with rival(router, port, scenario.hosts) as url:
        async with talking(url, scenario, out, []) as talk:
            trouble = await talk.end()
        ops = operations(out / "users.jsonl")
        trouble += await read_back(url, {op.session for op in ops}, out / "reads.jsonl")
    checked = check([out / "users.jsonl", out / "reads.jsonl"])
    return {
        "convicted_of": dict(checked.violated),
        "turns": sum(op.kind == "ok" for op in ops),
        "client_errors": sum(op.kind != "ok" for op in ops),
        "faults": [],
        "trouble": trouble,
        "examples": _few(checked.examples),
    }


def _few(examples: dict[str, list[str]]) -> dict[str, list[str]]:
    return {rule: told[:EXAMPLES] for rule, told in examples.items()}


def as_must_be(name: str, found: dict[str, Any]) -> bool:
    """Rehydra acquitted of everything; the others convicted, by turns that were talked, of something."""
    if found["trouble"] or not found["turns"]:
        return False
    return bool(found["passed"]) if name == "rehydra" else bool(found["convicted_of"])


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Try them, one after the other."""
    scenario, tried = read(SCENARIO, smoke=arguments.smoke, seed=arguments.seed), dict[str, Any]()
    for name in arguments.only:
        out = arguments.out / name
        out.mkdir(parents=True, exist_ok=True)
        if name in ROUTERS:
            found = await try_rival(scenario, out, arguments.port, ROUTERS[name])
        else:
            found = await try_rehydra(scenario, out, arguments.port, fenced=name == "rehydra")
        tried[name] = {"about": ABOUT[name], "as_must_be": as_must_be(name, found), **found}
    return {
        "proved": all(found["as_must_be"] for found in tried.values()),
        "tried": tried,
        "scenario": scenario.model_dump(mode="json"),
        **about_this(scenario, "python -m loadtest.controls"),
    }


def lines(verdict: dict[str, Any]) -> Iterator[str]:
    """The table, for people."""
    for name, found in verdict["tried"].items():
        convicted = ", ".join(f"{rule} {count}" for rule, count in sorted(found["convicted_of"].items()))
        wrong = "" if found["as_must_be"] else "   NOT AS IT MUST BE"
        yield f"{name:8} {found['about']:55} {found['turns']:6} turns   {convicted or 'nothing'}{wrong}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Show that the checker convicts those who lack something.")
    parser.add_argument("--only", nargs="+", choices=list(ABOUT), default=list(ABOUT))
    parser.add_argument("--smoke", action="store_true", help="the short ones")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/controls"))
    parser.add_argument("--port", type=int, default=25_100, help="of each in turn; the next one is taken too")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    try:
        verdict = asyncio.run(run(arguments))
    except (NotUp, NotSo, NotPatched, OSError, TimeoutError) as error:
        print(f"controls: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    (arguments.out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines(verdict)))
    print(f"{'proved' if verdict['proved'] else 'NOT PROVED'}: {arguments.out}/verdict.json")
    return 0 if verdict["proved"] else 1


if __name__ == "__main__":
    sys.exit(main())
