"""I6, I7, I9: the experiments of ``loadtest`` on many sessions and on rings set apart, short: counts, no times."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from loadtest import rings_apart
from loadtest.bare.deployment import HOST_PORTS, Bare
from loadtest.bare.patched import without
from loadtest.leave_host import leave
from loadtest.stampede import AGENT, CLAIMS_MAX, LIMITS, Stampede
from tests.servers import free_ports


@pytest.mark.timeout(120)
async def test_after_a_kill_only_what_is_asked_for_is_loaded_and_few_at_a_time() -> None:
    async with Bare(free_ports(HOST_PORTS + 2), AGENT, 3, fsync="no", groups=LIMITS) as bare:
        with contextlib.closing(Stampede(bare, 900, seed=1)) as stampede:
            assert await stampede.fill(turns=2) == []
            seen = await stampede.round()
    assert seen.errors == () and seen.asked > 50
    assert seen.loaded == seen.asked < seen.held
    assert 0 < seen.claims_most <= CLAIMS_MAX


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_host_that_leaves_gives_every_lease_back(hosts: int) -> None:
    async with Bare(free_ports(HOST_PORTS + 2), AGENT, hosts, fsync="no") as bare:
        with contextlib.closing(Stampede(bare, 1_000, seed=1)) as stampede:
            assert await stampede.fill(turns=1) == []
            seen = await leave(bare, [session.name for session in stampede.sessions])
    assert seen.held > 200
    assert (seen.kept, seen.exit_code) == (0, 0)


@pytest.mark.timeout(120)
async def test_rings_set_apart_and_an_agent_slower_than_every_wait_rob_nobody_and_lose_nothing(tmp_path: Path) -> None:
    verdict = await rings_apart.experiment(free_ports(HOST_PORTS + 2), sessions=8, turns=1, seed=1, out=tmp_path)
    assert verdict["passed"], verdict


@pytest.mark.timeout(120)
async def test_hosts_that_hand_on_at_once_what_they_were_given_are_convicted(tmp_path: Path) -> None:
    code = without("calm", tmp_path / "code")
    out = tmp_path / "out"
    verdict = await rings_apart.experiment(free_ports(HOST_PORTS + 2), sessions=8, turns=1, seed=1, out=out, code=code)
    assert not verdict["kept"]["one claim of a session"], verdict
    assert verdict["checker"]["legal"] and verdict["judged"]["legal"], "I7: it costs work, never correctness"
