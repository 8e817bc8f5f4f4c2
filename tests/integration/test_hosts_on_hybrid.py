"""Hosts on a hybrid store, with Redis confirming: talks go on while each server, and then a host, is killed under them.

As ``test_hosts_on_postgres``: plain processes, and clients that repeat their turns with their keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from tests.integration.test_hosts_on_postgres import TALKS, Host, Talk, host_on
from tests.postgres_server import start_postgres
from tests.servers import Durability, Server


async def store_of(client: aiohttp.ClientSession, host: Host) -> dict[str, Any]:
    async with client.get(f"http://{host.address}/healthz") as response:
        said: dict[str, Any] = (await response.json())["stats"]["store"]
    return said


async def until_degraded(client: aiohttp.ClientSession, hosts: Sequence[Host], wanted: bool) -> None:
    """A host without sessions doesn't ask Redis, so it doesn't notice."""
    async with asyncio.timeout(20):
        while any([(await store_of(client, host))["degraded"] for host in hosts]) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.timeout(120)
async def test_talks_outlive_either_server_and_a_host_and_every_turn_is_there_once() -> None:
    """I2, I3, I4."""
    with start_postgres() as postgres, Server("valkey", durability=Durability(appendfsync="everysec")) as redis:
        hot = {"REHYDRA_STORE__ACK": "hot"}
        url = f"hybrid+{redis.url}+{postgres.url}"
        async with host_on(url, **hot) as one, host_on(url, **hot) as other, aiohttp.ClientSession() as client:
            addresses, stop = [one.address, other.address], asyncio.Event()
            talks = [Talk(f"talk-{number}", client, addresses) for number in range(TALKS)]
            async with asyncio.TaskGroup() as group:
                for talk in talks:
                    group.create_task(talk.go_on(stop))
                await asyncio.gather(*(talk.more(3) for talk in talks))
                redis.kill()
                await until_degraded(client, (one, other), wanted=True)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                redis.restart()
                await until_degraded(client, (one, other), wanted=False)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                await asyncio.to_thread(postgres.restart)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                other.kill()
                addresses.remove(other.address)
                await asyncio.gather(*(talk.more(3) for talk in talks))
                stop.set()
            assert (await store_of(client, one))["lost_turns"] == 0
            for talk in talks:
                async with client.get(f"http://{one.address}/sessions/{talk.name}/turns?limit=500") as response:
                    turns = (await response.json())["turns"]
                assert [turn["message"] for turn in turns] == talk.acknowledged
                assert [turn["turn_seq"] for turn in turns] == list(range(1, len(turns) + 1))
