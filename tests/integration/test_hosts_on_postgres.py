"""Hosts on PostgreSQL alone: talks go on while the server, and then a host, is killed under them.

Plain processes (``python -m deploy.host``), without Ray and without an edge: a client that loses its connection, or is
told to come again, repeats its turn with its key on the other host, as the edge would.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.postgres_server import start_postgres

ROOT = Path(__file__).resolve().parents[2]
TALKS = 6
AGAIN_S = 0.05


@dataclass
class Host:
    """One host's process and where it listens."""

    process: asyncio.subprocess.Process
    address: str

    def kill(self) -> None:
        self.process.kill()


@asynccontextmanager
async def host_on(store_url: str, **variables: str) -> AsyncIterator[Host]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.host"),
        cwd=ROOT,
        env={
            **os.environ,
            "REHYDRA_STORE__URL": store_url,
            "REHYDRA_AGENT__PATH": "actors.agents.echo:echo",
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield Host(process, json.loads(await process.stdout.readline())["address"])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@dataclass
class Talk:
    """A client that says one thing after the other until it is told to stop; each of them until it is acknowledged."""

    name: str
    client: aiohttp.ClientSession
    addresses: list[str]
    acknowledged: list[str] = field(default_factory=list)
    failures: int = 0

    async def go_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            message = f"{self.name} says {len(self.acknowledged) + 1}"
            answer = await self._said(message, f"{self.name}-{len(self.acknowledged) + 1}")
            assert answer["turn_seq"] == len(self.acknowledged) + 1
            self.acknowledged.append(message)

    async def _said(self, message: str, key: str) -> dict[str, Any]:
        while True:
            for address in list(self.addresses):
                try:
                    async with self.client.post(
                        f"http://{address}/chat",
                        json={"session_id": self.name, "message": message},
                        headers={"Idempotency-Key": key},
                    ) as response:
                        answer: dict[str, Any] = await response.json()
                        if response.status == 200:
                            return answer
                        assert response.status == 503, answer
                except aiohttp.ClientConnectionError:
                    pass
                self.failures += 1
                await asyncio.sleep(AGAIN_S)

    async def more(self, turns: int) -> None:
        """Until that many more were acknowledged."""
        wanted = len(self.acknowledged) + turns
        while len(self.acknowledged) < wanted:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


@pytest.mark.timeout(120)
async def test_talks_outlive_the_store_and_a_host_and_every_turn_is_there_once() -> None:
    """I2, I3, I4."""
    with start_postgres() as server:
        async with host_on(server.url) as one, host_on(server.url) as other, aiohttp.ClientSession() as client:
            addresses, stop = [one.address, other.address], asyncio.Event()
            talks = [Talk(f"talk-{number}", client, addresses) for number in range(TALKS)]
            async with asyncio.TaskGroup() as group:
                for talk in talks:
                    group.create_task(talk.go_on(stop))
                await asyncio.gather(*(talk.more(3) for talk in talks))
                await asyncio.to_thread(server.restart)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                # A store that is away for a moment is a pause for clients, not an error.
                assert sum(talk.failures for talk in talks) == 0
                other.kill()
                addresses.remove(other.address)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                stop.set()
            for talk in talks:
                async with client.get(f"http://{one.address}/sessions/{talk.name}/turns?limit=500") as response:
                    turns = (await response.json())["turns"]
                assert [turn["message"] for turn in turns] == talk.acknowledged
                assert [turn["turn_seq"] for turn in turns] == list(range(1, len(turns) + 1))
