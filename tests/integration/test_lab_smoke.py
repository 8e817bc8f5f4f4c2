"""I1, I2, I3, I9: ``loadtest/run SCENARIO --smoke`` starts its own stack, does the faults, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.servers import free_port

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", ["scale_down", "kill_host", "freeze_host", "redis_restart", "kill_node"])
async def test_a_short_experiment_has_its_faults_its_verdict_and_no_violation(scenario: str, tmp_path: Path) -> None:
    command = [str(ROOT / "loadtest/run"), scenario, "--smoke", "--out", str(tmp_path), "--port", str(free_port())]
    run = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.terminate()
            await run.wait()
    assert run.returncode == 0, said.decode()
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["passed"] and verdict["turns"] > 500
    assert all(fault["effective"] for fault in verdict["faults"]) and verdict["faults"]
    assert (tmp_path / "report.html").read_text().count("<svg") == 3
