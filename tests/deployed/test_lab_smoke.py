"""I1, I2, I3, I9: ``loadtest/run SCENARIO --smoke`` starts its own stack, does the faults, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.servers import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
SERIES = {"redis": ("scale_down", "kill_host", "freeze_host", "redis_restart"), "postgres": ("kill_node",)}
"""By store. ``kill_node`` needs a stack of its own anyway."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The folder of one series: each scenario in its own run, all on one stack, which takes 15 s to start."""
    store = request.param
    folder = tmp_path_factory.mktemp(store)
    command = [str(ROOT / "loadtest/run"), *SERIES[store], "--store", store, "--smoke", "--one-stack"]
    with (folder / "said").open("w") as said:
        run = await asyncio.create_subprocess_exec(
            *(*command, "--port", str(free_ports(8)), "--out", str(folder)),
            stdout=said,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            await run.wait()
            yield folder
        finally:
            if run.returncode is None:
                os.kill(run.pid, signal.SIGINT)  # as Ctrl-C: it takes its stack down
                await run.wait()


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("out", "store", "scenario"),
    [(store, store, name) for store, series in SERIES.items() for name in series],
    indirect=["out"],
)
async def test_a_short_experiment_has_its_faults_its_verdict_and_no_violation(
    out: Path, store: str, scenario: str
) -> None:
    # A series has a folder for each run; one run alone has the folder itself.
    folder = out / f"{scenario}-seed-1-run-1" if len(SERIES[store]) > 1 else out
    assert (folder / "verdict.json").exists(), (out / "said").read_text()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["passed"], (out / "said").read_text()
    assert (verdict["scenario"]["name"], verdict["store"]) == (scenario, store)
    assert verdict["turns"] > 500 and verdict["faults"]
    assert all(fault["effective"] for fault in verdict["faults"])
    assert (folder / "report.html").read_text().count("<svg") == 3
