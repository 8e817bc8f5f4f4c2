"""Parts that die together, or in front of everybody: HAProxy, Redis and hosts in one moment, under load.

HAProxy alone, in front of tiny hosts, is in ``test_edge``; here it is in front of real ones, with turns under way.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment, Talkers
from tests.servers import Durability

AGENT = "actors.agents.echo:paced"
DURABLE = Durability()
BACK_S = 3.0

pytestmark = pytest.mark.timeout(90)


async def test_a_haproxy_that_is_killed_under_load_is_back_within_3_s_and_no_turn_runs_twice(tmp_path: Path) -> None:
    """I3: what broke on the way is sent again with its key, and gets the turn that had run."""
    async with (
        Deployment(AGENT, hosts=2) as deployment,
        Talkers(deployment.client, tmp_path, over_s=0.3) as talkers,
    ):
        await talkers.go_on(2)
        killed = await deployment.edge_pid()
        loop = asyncio.get_running_loop()
        began = loop.time()
        os.kill(killed, signal.SIGKILL)
        await talkers.go_on(1)
        assert loop.time() - began < BACK_S + 1, "it takes a turn's time more until everybody has been answered"
        assert await deployment.edge_pid() != killed
        assert talkers.refusals, "it hit nobody"
        assert await talkers.found_wrong() == []
        assert all(host.process.returncode is None for host in deployment.hosts)


async def test_redis_a_host_and_haproxy_die_in_one_moment_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """I2, I3, I9: whoever is left takes over when the store is back, and nobody has to help."""
    async with (
        Deployment(AGENT, hosts=3, durability=DURABLE) as deployment,
        Talkers(deployment.client, tmp_path, over_s=0.2) as talkers,
    ):
        await talkers.go_on(2)
        victim = deployment.host_in("slot-1")
        haproxy = await deployment.edge_pid()
        os.kill(victim.pid, signal.SIGKILL)
        os.kill(haproxy, signal.SIGKILL)
        deployment.server.kill()
        await victim.end()
        deployment.server.restart()
        await talkers.go_on(2)
        assert await talkers.found_wrong() == []
        await deployment.settled(2)
        _, ring = await deployment.client.get("/ring")
        assert set(ring["slots"]) == {"slot-0", "slot-2"}


async def test_a_store_that_dies_again_and_again_while_hosts_die_loses_nothing(tmp_path: Path) -> None:
    """I2, I3, I9: the kills fall where they fall: before a commit, after it, into a claim, into a takeover."""
    async with (
        Deployment(AGENT, hosts=3, durability=DURABLE) as deployment,
        Talkers(deployment.client, tmp_path, over_s=0.05) as talkers,
    ):
        async with deployment.replacing_the_dead():
            for slot in ("slot-0", "slot-2"):
                await talkers.go_on(1)
                await asyncio.gather(deployment.host_in(slot).end(), asyncio.to_thread(deployment.server.restart))
                deployment.server.restart()
                await talkers.go_on(1)
                deployment.server.restart()
                await deployment.settled(3)
        await talkers.go_on(2)
        assert await talkers.found_wrong() == []
