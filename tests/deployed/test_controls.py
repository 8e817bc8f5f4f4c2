"""I1: the proof convicts: the same load and checker that acquit Rehydra find what a deployment without its fence, or
without an owner for each session, does to its talks."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from loadtest.baselines.unfenced import FENCE, NotPatched, unfenced
from tests.servers import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.timeout(150)
async def test_who_has_no_fence_and_who_has_no_owner_are_convicted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.controls", "--smoke", "--only", "a", "c"]
    run = await asyncio.create_subprocess_exec(
        *(*command, "--out", str(tmp_path), "--port", str(free_ports(8))),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.terminate()
            await run.wait()
    assert run.returncode == 0, said.decode()
    tried = json.loads((tmp_path / "verdict.json").read_text())["tried"]
    # Two hosts ran turns of one epoch, and two replicas wrote over each other's turns.
    assert tried["a"]["convicted_of"]["holders"] > 0
    assert tried["c"]["convicted_of"]["lost"] > 0


def test_a_copy_without_the_fence_differs_in_one_line_and_is_gone_afterwards() -> None:
    before = (ROOT / FENCE).read_text().splitlines()
    with unfenced(ROOT) as copy:
        patched = (copy / FENCE).read_text().splitlines()
        assert sum(one != other for one, other in zip(before, patched, strict=True)) == 1
    assert not copy.exists()
    assert (ROOT / FENCE).read_text().splitlines() == before


def test_a_fence_that_has_been_rewritten_is_not_patched_by_guess(tmp_path: Path) -> None:
    (tmp_path / FENCE).parent.mkdir(parents=True)
    (tmp_path / FENCE).write_text("return nil\n")
    with pytest.raises(NotPatched), unfenced(tmp_path):
        pass
