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
SCENARIOS = ("scale_down", "kill_host", "freeze_host", "redis_restart", "kill_node")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def out(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The folder of one series: each scenario in its own run, all that can on one stack, which takes 15 s to start."""
    folder = tmp_path_factory.mktemp("series")
    command = [str(ROOT / "loadtest/run"), *SCENARIOS, "--smoke", "--one-stack", "--port", str(free_ports(8))]
    with (folder / "said").open("w") as said:
        run = await asyncio.create_subprocess_exec(
            *(*command, "--out", str(folder)), stdout=said, stderr=asyncio.subprocess.STDOUT
        )
        try:
            await run.wait()
            yield folder
        finally:
            if run.returncode is None:
                os.kill(run.pid, signal.SIGINT)  # as Ctrl-C: it takes its stack down
                await run.wait()


@pytest.mark.timeout(420)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_short_experiment_has_its_faults_its_verdict_and_no_violation(scenario: str, out: Path) -> None:
    folder = out / f"{scenario}-seed-1-run-1"
    assert (folder / "verdict.json").exists(), (out / "said").read_text()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["passed"], (out / "said").read_text()
    assert verdict["turns"] > 500 and verdict["faults"]
    assert all(fault["effective"] for fault in verdict["faults"])
    assert (folder / "report.html").read_text().count("<svg") == 3
