"""An agent that blocks its host's event loop for 10 s costs patience, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.client import Answer, Client, Kind
from tests.integration.deployment import LOOK_S, Deployment

BLOCK_S = 10.0


async def delta_of(client: Client, session: str) -> None:
    """Return once a stream of this session has brought its first delta."""
    async with asyncio.timeout(10):
        while session not in {running.session for running in client.running.values() if running.delta_at}:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


@pytest.mark.timeout(90)
async def test_a_blocked_event_loop_causes_no_takeover_and_loses_no_stream() -> None:
    async with Deployment("loadtest.agents:blocking", hosts=2) as deployment:
        client, loop = deployment.client, asyncio.get_running_loop()
        blocked, other, third = await deployment.sessions_in("slot-0", 3, "session")
        epochs = {name: (await client.turns(name))[-1]["epoch"] for name in (blocked, other, third)}
        _, ring = await client.get("/ring")

        slow = asyncio.create_task(client.chat(other, "stream", streams=True, metadata={"over_s": 2}))
        await delta_of(client, other)
        started, block = loop.time(), {"over_s": 0.3, "block_s": BLOCK_S}
        culprit = asyncio.create_task(client.chat(blocked, "block", streams=True, metadata=block))
        await delta_of(client, blocked)
        # These come while nothing runs on that host: by the edge, and by a host that could take over if it thought so.
        stranger = Client(deployment.host_in("slot-1").url)
        waiting = [
            asyncio.create_task(client.chat(third, "by the edge")),
            asyncio.create_task(stranger.chat(blocked, "by another host")),
            asyncio.create_task(stranger.chat(other, "by another host", streams=True)),
        ]
        answers: list[Answer] = await asyncio.gather(slow, culprit, *waiting)

        assert loop.time() - started >= BLOCK_S, "the loop wasn't blocked"
        assert [answer.kind for answer in answers] == [Kind.OK] * 5, answers
        assert {answer.slot for answer in answers[:3]} == {"slot-0"}
        assert answers[0].streamed == answers[0].reply and answers[1].streamed == answers[1].reply
        for name in (blocked, other, third):
            turns = await client.turns(name)
            assert {turn["epoch"] for turn in turns} == {epochs[name]}, "somebody took over"
        assert (await client.get("/ring"))[1]["ring_version"] == ring["ring_version"]
