"""One scenario on a stack that runs: load, faults, reading back, ``verdict.json`` and ``report.html``.

Four things run at the same time: Locust in a process of its own, the nemesis, a look at the edge's map, and a line for
whoever watches. When the load has ended every session is read back, and only then is anything judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.checker import check
from loadtest.lab import analysis, report
from loadtest.lab.deployment import LOOK_S, Deployment, NotSo
from loadtest.lab.faults import Done
from loadtest.lab.judge import Evidence, judge
from loadtest.lab.nemesis import Nemesis
from loadtest.lab.progress import Progress
from loadtest.lab.reading import last_word, read_back
from loadtest.lab.scenario import Scenario
from loadtest.stack import ROOT

BEGIN_S = 30.0
END_S = 90.0
MAY_LOSE = frozenset({"cut_redis_tail"})
"""Faults after which the store may have less than was acknowledged: somebody must ask every session once more."""


@dataclass(slots=True)
class Course:
    """How the load went."""

    begun: float = 0.0
    faults: list[Done] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


async def experiment(
    deployment: Deployment, scenario: Scenario, out: Path, talks: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The verdict. Writes history, verdict and report into ``out``. NotSo if it couldn't be carried out."""
    await deployment.ready()
    deployment.snapshots.clear()
    await deployment.look_at_map()
    async with _beside(deployment.watch_map()):
        course = await _under_load(deployment, scenario, out, talks)
    print("reading every session back ...", flush=True)
    ops = await asyncio.to_thread(analysis.operations, out / "users.jsonl")
    histories = [out / "users.jsonl", out / "reads.jsonl"]
    sessions = {op.session for op in ops}
    if scenario.kinds & MAY_LOSE:
        histories.append(out / "last.jsonl")
        await last_word(deployment.stack.url, sessions, histories[-1])
    course.trouble += await read_back(deployment.stack.url, sessions, histories[1])
    maps = analysis.Maps(deployment.snapshots)
    analysis.count_traffic(course.faults, ops, maps)
    evidence = Evidence(scenario, course.begun, course.faults, ops, maps, check(histories), course.trouble)
    verdict = judge(evidence)
    (out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    (out / "report.html").write_text(report.page(verdict, evidence), encoding="utf-8")
    return verdict


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs beside the block, and no longer. What goes wrong in it is raised at the block's end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _under_load(deployment: Deployment, scenario: Scenario, out: Path, talks: Sequence[Sequence[str]]) -> Course:
    course = Course()
    (out / "begun").unlink(missing_ok=True)
    locust = await _locust(deployment.stack.url, scenario, out, talks)
    try:
        course.begun = await _begun(locust, out / "begun")
        progress = Progress(out / "users.jsonl", deployment, course.begun, scenario.for_s)
        progress.say(f"{scenario.load.users} users talk for {scenario.for_s:g} s; seed {scenario.seed}")
        nemesis = Nemesis(deployment, scenario, course.begun, progress)
        course.faults = nemesis.done
        async with _beside(progress.watch()):
            try:
                await nemesis.run()
            except NotSo as error:
                course.trouble.append(str(error))
            async with asyncio.timeout(scenario.for_s + END_S):
                if code := await locust.wait():
                    course.trouble.append(f"locust: exit code {code}, see locust.log")
    finally:
        if locust.returncode is None:
            locust.kill()
            await locust.wait()
    return course


async def _locust(
    url: str, scenario: Scenario, out: Path, talks: Sequence[Sequence[str]]
) -> asyncio.subprocess.Process:
    plan = out / "plan.json"
    about = scenario.model_dump(mode="json") | {"talks": talks}
    files = {"history": str(out / "users.jsonl"), "begun": str(out / "begun")}
    plan.write_text(json.dumps(about | files), encoding="utf-8")
    with (out / "locust.log").open("w") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"),
            *("--host", url, "--stop-timeout", "70", "--exit-code-on-error", "0", "--csv", str(out / "locust")),
            env=os.environ | {"REHYDRA_LOADTEST_PLAN": str(plan), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )


async def _begun(locust: asyncio.subprocess.Process, path: Path) -> float:
    deadline = time.monotonic() + BEGIN_S
    while locust.returncode is None and time.monotonic() < deadline:
        if text := _text(path):
            return float(text)
        await asyncio.sleep(LOOK_S)
    raise NotSo("locust didn't begin; see locust.log")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
