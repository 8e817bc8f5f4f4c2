"""I2, I3, I9: the experiment of ``loadtest.kill_hosts``, short, on hosts without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.conversations import load
from loadtest.kill_hosts import Plan, experiment
from tests.integration.deployment import Deployment


@pytest.mark.timeout(120)
@pytest.mark.parametrize("agent", ["actors.agents.echo:paced", "actors.agents.chained:chained"])
async def test_conversations_survive_the_sigkill_of_their_hosts_whole_in_order_and_without_errors(
    agent: str, tmp_path: Path
) -> None:
    plan = Plan(kills=2, hosts=3, at_once=16, agent=agent, minutes=1.5, seed=1)
    async with Deployment(agent, hosts=3) as deployment, deployment.replacing_the_dead():
        verdict = await experiment(deployment.url, load(), tmp_path, plan)
    assert verdict["passed"], {name: verdict[name] for name in ("kept", "stuck", "errors", "not whole", "checker")}
    assert verdict["counts"]["streamed"] > 10 and verdict["counts"]["asked"] > 10
    assert verdict["felt_s"]["torn"]["max"] > 0, "no stream was torn: the kills hit nothing"
