"""One scenario on a stack that runs: load, faults, reading back, ``verdict.json`` and ``report.html``.

Four things run at the same time: Locust in a process of its own, the nemesis, a look at the edge's map, and a line for
whoever watches. When the load has ended every session is read back, and only then is anything judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.checker import check
from loadtest.lab import analysis, report
from loadtest.lab.deployment import Deployment, NotSo
from loadtest.lab.faults import KINDS, Done
from loadtest.lab.judge import Evidence, judge
from loadtest.lab.load import talking
from loadtest.lab.nemesis import Nemesis
from loadtest.lab.progress import Progress
from loadtest.lab.reading import last_word, read_back
from loadtest.lab.scenario import Scenario

AGENT = "actors.agents.chained:chained"
"""Whose replies the checker can compute again."""


@dataclass(slots=True)
class Course:
    """How the load went."""

    begun: float
    faults: list[Done]
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
    if any(KINDS[name].may_lose for name in scenario.kinds):
        histories.append(out / "last.jsonl")
        await last_word(deployment.url, sessions, histories[-1])
    course.trouble += await read_back(deployment.url, sessions, histories[1])
    maps = analysis.Maps(deployment.snapshots)
    analysis.count_traffic(course.faults, ops, maps)
    checked, store = check(histories), deployment.store.name
    evidence = Evidence(scenario, store, course.begun, course.faults, ops, maps, checked, course.trouble)
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
    async with talking(deployment.url, scenario, out, talks) as talk:
        progress = Progress(out / "users.jsonl", deployment, talk.begun, scenario.for_s)
        nemesis = Nemesis(deployment, scenario, talk.begun, progress)
        course = Course(talk.begun, nemesis.done)
        async with _beside(progress.watch()):
            try:
                await nemesis.run()
            except NotSo as error:
                course.trouble.append(str(error))
            course.trouble += await talk.end()
    return course
