"""I5: a message that ends every process which runs it, on real processes and behind the real edge."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.client import Kind
from tests.integration.deployment import Deployment


@pytest.mark.timeout(120)
async def test_a_poison_message_takes_three_hosts_at_most_and_is_answered_and_the_session_lives() -> None:
    async with Deployment("loadtest.agents:deadly", hosts=3, session={"suspect_pause_s": 4.0}) as deployment:
        client = deployment.client
        assert (await client.chat("doomed", "hello")).kind is Kind.OK
        async with deployment.replacing_the_dead():
            bystanders = asyncio.create_task(talk_on(deployment))
            answer = await client.chat("doomed", "die", key="poison")
            died = [host for host in deployment.hosts if host.process.returncode is not None]
            assert answer.status == 500 and "poison" in answer.why, answer
            assert 1 <= len(died) <= 3
            assert await bystanders == {Kind.OK}
            assert (await client.chat("doomed", "and now?")).kind is Kind.OK
            turns = await client.turns("doomed")
            assert [turn["message"] for turn in turns] == ["hello", "and now?"]


async def talk_on(deployment: Deployment) -> set[Kind]:
    """How other sessions fare meanwhile, for ten seconds. Nobody sends anything twice."""
    until = asyncio.get_running_loop().time() + 10.0
    kinds = set()
    number = 0
    while asyncio.get_running_loop().time() < until:
        number += 1
        kinds.add((await deployment.client.chat(f"bystander-{number % 12}", f"message {number}")).kind)
    return kinds
