"""``loadtest/run``: scenarios from nothing to their verdicts, and back to nothing.

One run is one scenario with one seed in one folder. Several runs (``--seeds``, ``--repeat``, several scenarios) get a
folder each; a run that has a verdict of this very commit is not done again, so what was interrupted goes on where it
stopped. Exit code 1 when an invariant is violated or a fault had no effect; 2 when a run couldn't be carried out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.conversations import load as conversations
from loadtest.lab.deployment import Deployment, NotSo
from loadtest.lab.edges import several
from loadtest.lab.experiment import AGENT, experiment
from loadtest.lab.faults import Need
from loadtest.lab.judge import commit
from loadtest.lab.own_store import own_store
from loadtest.lab.scenario import Scenario, names, read
from loadtest.lab.stores import STORES, Store
from loadtest.lab.summary import summary, table
from loadtest.stack import NotUp, started

FOLDER = Path(".data/loadtest")


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario with one seed on one store, for the ``number``-th time."""

    scenario: Scenario
    store: str
    number: int
    out: Path

    def finished(self) -> dict[str, Any] | None:
        """Its verdict, if there is one of this commit, scenario and store, and nothing is uncommitted."""
        path, now = self.out / "verdict.json", commit()
        if now.endswith("-dirty") or not path.exists():
            return None
        verdict: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        wanted = {"commit": now, "scenario": self.scenario.model_dump(mode="json"), "store": self.store}
        return verdict if wanted.items() <= verdict.items() else None

    @property
    def stack(self) -> tuple[object, ...]:
        """Runs in which this is equal can share a stack."""
        scenario = self.scenario
        settings = tuple(sorted(scenario.settings.items()))
        return self.store, scenario.fsync, scenario.needs, scenario.nodes, scenario.edges, settings


def planned(arguments: argparse.Namespace) -> list[Run]:
    """All runs, in order. ValueError if one can't be carried out on that store."""
    seeds: list[int | None] = arguments.seeds or [arguments.seed]
    store: str = arguments.store
    wanted = list(itertools.product(arguments.scenario, seeds, range(1, arguments.repeat + 1)))
    runs = []
    for name, seed, number in wanted:
        whole = read(name, smoke=arguments.smoke, seed=seed)
        scenario = whole.on(store)
        if without := sorted(whole.kinds - scenario.kinds):
            print(f"{name} on {store}: without {', '.join(without)}", flush=True)
        called = name if store == STORES[0] else f"{name}-{store}"
        if len(wanted) == 1:
            out = arguments.out or FOLDER / called
        else:
            out = (arguments.out or FOLDER / "series") / f"{called}-seed-{scenario.seed}-run-{number}"
        runs.append(Run(scenario, store, number, out.resolve()))
    return runs


async def carry_out(runs: Sequence[Run], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The verdicts of all runs, those that were there already among them. CancelledError after SIGTERM, like Ctrl-C:
    its stack is then gone as well."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    talks = [talk.messages for talk in conversations(arguments.conversations)] if arguments.conversations else []
    verdicts = []
    groups = itertools.groupby(enumerate(runs), lambda each: each[1].stack if arguments.one_stack else each[0])
    for _, group in groups:
        async with AsyncExitStack() as up:
            deployment: Deployment | None = None
            for _, run in group:
                if (verdict := run.finished()) is None:
                    if deployment is None:
                        deployment = await up.enter_async_context(_deployment(run, arguments.port))
                    verdict = await _one(run, deployment, talks)
                else:
                    print(f"{run.out} has a verdict of this commit", flush=True)
                verdicts.append(verdict)
    return verdicts


@asynccontextmanager
async def _deployment(run: Run, port: int) -> AsyncIterator[Deployment]:
    """A stack as the run needs it, of its own, surely ended."""
    scenario = run.scenario
    async with AsyncExitStack() as up:
        own = None
        if Need.STORE_LINK in scenario.needs:
            own = await up.enter_async_context(own_store(run.store, port + 2, port + 3, scenario.fsync))
        settings = scenario.settings | dict(own.settings if own else {})
        stack = await up.enter_async_context(
            started(*(port, scenario.hosts, AGENT, scenario.fsync, port + 1, scenario.nodes, settings), store=run.store)
        )
        edges = None
        if scenario.edges > 1:
            # What deploy/up makes of the prefix: one for each stack, where the store isn't its own.
            prefix = settings.get("REHYDRA_STORE__PREFIX", f"rehydra-{port}" if own else "rehydra")
            url = own.url if own else Store(stack.store, stack.store_url, stack.folder).private_url()
            store = {"REHYDRA_STORE__URL": url, "REHYDRA_STORE__PREFIX": prefix}
            edges = await up.enter_async_context(several(stack, scenario.edges, port + 4, settings | store))
        yield Deployment(stack, scenario.hosts, own, edges)


async def _one(run: Run, deployment: Deployment, talks: Sequence[Sequence[str]]) -> dict[str, Any]:
    print(f"{run.scenario.name} on {run.store}: {run.scenario.about}", flush=True)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "verdict.json").unlink(missing_ok=True)
    if deployment.hosts != run.scenario.hosts:
        await deployment.scale(run.scenario.hosts)
    verdict = await experiment(deployment, run.scenario, run.out, talks)
    wrong = {name: found for name, found in verdict["invariants"].items() if found["violated"]}
    print(f"{run.scenario.name}: {'passed' if verdict['passed'] else 'VIOLATED'}; {run.out}/report.html", flush=True)
    for name, found in wrong.items():
        print(f"  {name}: {found['violated']} of {found['counted']}", flush=True)
    for trouble in verdict["trouble"]:
        print(f"  trouble: {trouble}", flush=True)
    return verdict


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/run", description="Run experiments and judge them.")
    parser.add_argument("scenario", choices=names(), nargs="+")
    parser.add_argument("--store", choices=STORES, default=STORES[0], help=f"what it runs on ({STORES[0]})")
    parser.add_argument("--seed", type=int, help="in the place of the scenario's own")
    parser.add_argument("--seeds", type=_numbers, metavar="N,N,...", help="a run for each of them")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="so many runs of each")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"verdict, report, histories ({FOLDER}/SCENARIO)")
    parser.add_argument("--smoke", action="store_true", help="the short one: under 90 s")
    parser.add_argument("--one-stack", action="store_true", help="runs in a row share a stack where they can")
    parser.add_argument("--conversations", type=Path, metavar="FILE", help="JSONL file of talks, which are then played")
    parser.add_argument(
        "--port", type=int, default=25_000, help="of its own deployment, which uses up to eleven after it too"
    )
    arguments = parser.parse_args(words)
    if arguments.seed is not None and arguments.seeds:
        parser.error("--seed and --seeds exclude each other")
    if arguments.repeat < 1:
        parser.error("--repeat must be 1 at least")
    return arguments


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a list of numbers") from None


def main() -> int:
    arguments = parse()
    try:
        runs = planned(arguments)
        verdicts = asyncio.run(carry_out(runs, arguments))
    except (ValueError, NotUp, NotSo, OSError, TimeoutError) as error:
        print(f"loadtest/run: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("loadtest/run: stopped; runs that have their verdict need not be done again", file=sys.stderr)
        return 2
    if len(runs) > 1:
        told = summary(verdicts)
        path = runs[0].out.parent / "summary.json"
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        print(table(told))
        print(f"all of it: {path}")
    return 0 if all(verdict["passed"] for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
