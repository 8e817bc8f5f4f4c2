"""I1-I10 on the production classes, under seeded faults between any two steps.

``SIMULATION_SEEDS`` sets how many seeds run (2,000 without it), ``SIMULATION_SERVER_SEEDS`` how many of them on a real
server (200), ``SIMULATION_POSTGRES_SEEDS`` how many on a PostgreSQL, and on both together (10). A failing seed prints
the command that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.postgres_server import start_postgres
from tests.servers import Server
from tests.simulation import runner
from tests.simulation.chained import Chained
from tests.simulation.cluster import Cluster
from tests.simulation.runner import run_seed

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
SERVER_SEEDS = int(os.environ.get("SIMULATION_SERVER_SEEDS", "200"))
POSTGRES_SEEDS = int(os.environ.get("SIMULATION_POSTGRES_SEEDS", "10"))
WORKERS = 2


def _runner(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation.runner", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _all_pass(seeds: int, *each: tuple[str, ...]) -> None:
    """Those seeds, dealt out to one process for each of these arguments."""
    dealt = ("--seeds", str(seeds), "--step", str(len(each)))
    running = [_runner(*dealt, "--first", str(first), *more) for first, more in enumerate(each)]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(each), "\n".join(told)
    assert sum(int(text.strip().splitlines()[-1].split()[0]) for text in told) == seeds


@pytest.mark.timeout(max(900, SEEDS))
def test_no_schedule_of_faults_breaks_an_invariant() -> None:
    """I1, I2, I3, I4, I5, I6, I7, I8, I9, I10."""
    _all_pass(SEEDS, *[()] * WORKERS)


@pytest.mark.timeout(max(600, 3 * SERVER_SEEDS))
def test_the_real_scripts_on_a_real_server_keep_the_invariants_too() -> None:
    """I1, I2, I3, I4, I5, I6, I7, I8, I9, I10."""
    with ExitStack() as stack:
        # A server each: every seed begins with an empty one.
        urls = [stack.enter_context(Server("valkey")).url for _ in range(WORKERS)]
        _all_pass(SERVER_SEEDS, *(("--server", url) for url in urls))


@pytest.mark.timeout(max(600, 10 * POSTGRES_SEEDS))
def test_the_real_functions_on_a_real_postgresql_keep_the_invariants_too() -> None:
    """I1, I2, I3, I4, I5, I6, I7, I8, I9, I10."""
    with start_postgres() as server:
        running = _runner("--seeds", str(POSTGRES_SEEDS), "--server", server.url)
        told = running.communicate()[0]
    assert running.returncode == 0, told
    assert told.strip().splitlines()[-1].startswith(f"{POSTGRES_SEEDS} seeds ")


@pytest.mark.timeout(max(600, 10 * POSTGRES_SEEDS))
def test_a_hybrid_store_on_two_real_servers_keeps_the_invariants_too() -> None:
    """I1, I2, I3, I4, I5, I6, I7, I8, I9, I10."""
    with Server("valkey") as redis, start_postgres() as postgres:
        running = _runner("--seeds", str(POSTGRES_SEEDS), "--server", f"hybrid+{redis.url}+{postgres.url}")
        told = running.communicate()[0]
    assert running.returncode == 0, told
    assert told.strip().splitlines()[-1].startswith(f"{POSTGRES_SEEDS} seeds ")


@pytest.mark.parametrize("seed", range(0, 200, 10))
def test_a_seed_replays_identically(seed: int) -> None:
    first, again = run_seed(seed), run_seed(seed)
    assert first.history.trace_hash() == again.history.trace_hash()
    assert len(first.history.events) > 100, "a run in which nothing happens proves nothing"


def test_different_seeds_are_different_schedules() -> None:
    assert len({run_seed(seed).history.trace_hash() for seed in range(20)}) == 20


def test_a_seed_replays_identically_in_another_process() -> None:
    told = [_runner("--seed", "7", "--trace").communicate()[0] for _ in range(2)]
    assert told[0] == told[1]


def test_a_step_that_never_ends_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin(*_: object) -> AsyncIterator[str]:
        while True:
            pass
        yield ""

    monkeypatch.setattr(Chained, "_work", spin)
    monkeypatch.setattr(runner, "SEED_S", 0.5)
    assert "a step never ended" in str(run_seed(0))


def test_what_breaks_the_simulation_itself_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("no aftermath")

    monkeypatch.setattr(Cluster, "_aftermath", fail)
    assert "no aftermath" in str(run_seed(0))
