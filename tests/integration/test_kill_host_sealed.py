"""Sealed conversations while hosts are killed: every reply proves the past it was computed from, and none is an error.

The agent is the one whose replies are a digest of everything before. There is nothing on the hosts to lose; what could
go wrong is a request that nobody repeats, a turn that is accepted twice, and a state that isn't the newest.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from actors.agents.chained import chained_reply
from tests.integration.deployment import Deployment

KEY = base64.b64encode(b"k" * 32).decode()
TALKS = 12


class Talk:
    """One client, who keeps the state and nothing else, and stops at the first answer that isn't as it must be."""

    def __init__(self, http: aiohttp.ClientSession, url: str, name: str) -> None:
        self.past: list[tuple[str, str]] = []
        self.states: list[str] = []
        self._http, self._url, self._name = http, url, name

    async def say(self, message: str, state: str | None, key: str) -> tuple[int, dict[str, Any]]:
        document = {"message": message, "state": state, "metadata": {"over_s": 0.05}}
        headers = {"Idempotency-Key": key}
        async with self._http.post(f"{self._url}/chat/sealed", json=document, headers=headers) as answer:
            return answer.status, await answer.json()

    async def go_on(self) -> None:
        """One more turn."""
        turn_seq = len(self.past) + 1
        message = f"{self._name} says {turn_seq}"
        status, answer = await self.say(message, self.states[-1] if self.states else None, f"{self._name}-{turn_seq}")
        assert (status, answer.get("turn_seq")) == (200, turn_seq), answer
        assert answer["reply"] == chained_reply(self.past, message), "computed from another past"
        self.past.append((message, answer["reply"]))
        self.states.append(answer["state"])

    async def replay(self) -> tuple[int, dict[str, Any]]:
        """An older state, under a key that nobody knows."""
        return await self.say("again", self.states[-2], f"{self._name}-again")


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[list[Talk]]:
    """Clients that talk all the time; an answer that is wrong fails the block."""
    ending = asyncio.Event()

    async def keep_talking(talk: Talk) -> None:
        while not ending.is_set():
            await talk.go_on()

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        talks = [Talk(http, url, f"talk-{number}") for number in range(TALKS)]
        for talk in talks:
            tasks.create_task(keep_talking(talk))
        try:
            yield talks
        finally:
            ending.set()


async def further(talks: list[Talk], turns: int) -> None:
    """Wait until every talk has so many more turns."""
    wanted = [len(talk.past) + turns for talk in talks]
    async with asyncio.timeout(30):
        while any(len(talk.past) < count for talk, count in zip(talks, wanted, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.timeout(120)
async def test_sealed_conversations_survive_the_sigkill_of_hosts_whole_and_without_errors() -> None:
    sealed = {"keys": KEY, "guard": "store"}
    async with Deployment("actors.agents.chained:chained", hosts=3, sealed=sealed) as deployment:
        async with deployment.replacing_the_dead(), talking(deployment.url) as talks:
            await further(talks, 2)
            for _ in range(2):
                victim = next(host for host in deployment.hosts if host.process.returncode is None)
                await victim.end()
                await further(talks, 2)
        async with aiohttp.ClientSession() as http:
            for talk in talks:
                talk._http = http
                status, problem = await talk.replay()
                assert (status, problem["type"]) == (409, "urn:rehydra:problem:state-superseded")
