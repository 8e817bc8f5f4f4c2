"""I1, I8: after SIGSTOP of a host its sessions go on elsewhere, and what it does after its thaw counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis

from actors.model import Table
from actors.settings import StoreSettings
from actors.stores.redis_membership import RedisMembership
from loadtest.client import Answer, Client, Kind
from tests.integration.deployment import LOOK_S, Deployment, HostProcess

ANSWER_S = 3.0


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens in other processes
            await asyncio.sleep(LOOK_S)


def leases(deployment: Deployment, sessions: list[str]) -> dict[str, tuple[str, int]]:
    """Session -> incarnation that holds it and epoch, as the store has them."""
    with redis.Redis.from_url(deployment.server.url, decode_responses=True) as server:
        found = {}
        for session in sessions:
            incarnation, epoch = server.hmget(f"rehydra:{{-:{session}}}:lease", "incarnation", "epoch")
            found[session] = (incarnation or "", int(epoch or 0))
        return found


async def logs(client: Client, sessions: list[str]) -> dict[str, list[tuple[int, str, str, int]]]:
    return {
        session: [
            (turn["turn_seq"], turn["turn_id"], turn["message"], turn["epoch"]) for turn in await client.turns(session)
        ]
        for session in sessions
    }


async def timed(since: float, answer: Coroutine[Any, Any, Answer]) -> tuple[Answer, float]:
    return await answer, asyncio.get_running_loop().time() - since


async def stream_begins(client: Client, sessions: list[str]) -> None:
    async def begun() -> bool:
        return {running.session for running in client.running.values() if running.delta_at} >= set(sessions)

    await until(begun)


@pytest.mark.timeout(90)
async def test_a_frozen_hosts_requests_are_answered_elsewhere_and_after_its_thaw_it_commits_nothing() -> None:
    async with Deployment("actors.agents.echo:paced", hosts=3) as deployment:
        client = deployment.client
        frozen = deployment.host_in("slot-0")
        sessions = await deployment.sessions_in("slot-0", 6, "session")
        streamed, asked = sessions[:3], sessions[3:]
        before = leases(deployment, sessions)
        assert {holder for holder, _ in before.values()} == {frozen.incarnation}

        streams = [
            asyncio.create_task(client.chat(name, "one two three", key="s", streams=True, metadata={"over_s": 1.5}))
            for name in streamed
        ]
        await stream_begins(client, streamed)
        frozen.freeze()
        since = asyncio.get_running_loop().time()
        # These reach the frozen host: its listener still accepts, and the edge doesn't know yet.
        answers = await asyncio.gather(*(timed(since, client.chat(name, "after")) for name in asked))
        assert [answer.kind for answer, _ in answers] == [Kind.OK] * 3, answers
        assert max(took_s for _, took_s in answers) <= ANSWER_S, answers
        assert "slot-0" not in {answer.slot for answer, _ in answers}

        torn = await asyncio.gather(*streams)
        assert [answer.kind for answer in torn] == [Kind.INFO] * 3, torn
        again = await asyncio.gather(
            *(client.chat(name, "one two three", key="s", streams=True, metadata={"over_s": 1.5}) for name in streamed)
        )
        assert [(answer.kind, answer.turn_seq) for answer in again] == [(Kind.OK, 2)] * 3, again

        log, held = await logs(client, sessions), leases(deployment, sessions)
        assert all(holder != frozen.incarnation and epoch > before[name][1] for name, (holder, epoch) in held.items())

        frozen.thaw()
        await until(lambda: has_been_fenced(deployment, frozen, len(streamed)))
        assert await logs(client, sessions) == log

        # It comes back as a host like any other, gets its sessions back, and nothing that it had in mind comes along.
        await deployment.settled(3)
        assert await logs(client, sessions) == log
        last = await asyncio.gather(*(client.chat(name, "the last") for name in sessions))
        assert [(answer.kind, answer.turn_seq) for answer in last] == [(Kind.OK, 3)] * 6, last


async def has_been_fenced(deployment: Deployment, host: HostProcess, times: int) -> bool:
    stats = await deployment.stats(host)
    return int(stats["passivated"]["fenced"]) >= times


@pytest.mark.timeout(90)
async def test_a_frozen_hosts_slot_is_its_spares_at_once_and_after_the_thaw_it_is_the_spare() -> None:
    """Two hosts never hold one slot, and no table lacks it: its sessions move once, to the host that inherits it."""
    async with Deployment("actors.agents.echo:paced", hosts=2, ring={"slots_max": 2}) as deployment:
        client = deployment.client
        frozen, spare = deployment.host_in("slot-0"), await deployment.start_host()
        assert spare.slot == ""
        sessions = await deployment.sessions_in("slot-0", 4, "session")
        before = leases(deployment, sessions)
        tables = list[Table]()
        watching = asyncio.create_task(watch(deployment.server.url, tables))

        frozen.freeze()
        answers = await asyncio.gather(*(client.chat(name, "after") for name in sessions))
        assert [answer.kind for answer in answers] == [Kind.OK] * 4, answers
        await until(lambda: has_slot(spare, "slot-0"))
        answers = await asyncio.gather(*(client.chat(name, "more") for name in sessions))
        assert {answer.slot for answer in answers} == {"slot-0"}
        frozen.thaw()
        await until(lambda: has_slot(frozen, ""))
        answers = await asyncio.gather(*(client.chat(name, "still") for name in sessions))
        assert {(answer.kind, answer.slot) for answer in answers} == {(Kind.OK, "slot-0")}
        assert all(
            holder == spare.incarnation and epoch > before[name][1]
            for name, (holder, epoch) in leases(deployment, sessions).items()
        )

        await spare.end()
        await until(lambda: has_slot(frozen, "slot-0"))
        # Until it has heard of that, the other host serves what it is asked for as the heir of whoever has left.
        await until(lambda: names(deployment.host_in("slot-1"), "slot-0", frozen))
        answers = await asyncio.gather(*(client.chat(name, "the last") for name in sessions))
        assert [(answer.kind, answer.slot, answer.turn_seq) for answer in answers] == [(Kind.OK, "slot-0", 5)] * 4
        watching.cancel()
    assert {frozenset(table.members) for table in tables} == {frozenset({"slot-0", "slot-1"})}
    assert {table.members["slot-0"].incarnation for table in tables} == {frozen.incarnation, spare.incarnation}
    assert len({table.ring_version for table in tables}) == 3


async def watch(redis_url: str, tables: list[Table]) -> None:
    """Keep every membership table that a look finds. Runs until cancelled."""
    store = RedisMembership.connect(StoreSettings(url=redis_url), 1.0)
    while True:
        tables.append(await asyncio.to_thread(store.table))
        await asyncio.sleep(LOOK_S)


async def has_slot(host: HostProcess, slot: str) -> bool:
    _, ring = await Client(host.address, 5.0).get("/ring")
    return bool((ring["slot"] or "") == slot)


async def names(host: HostProcess, slot: str, holder: HostProcess) -> bool:
    _, ring = await Client(host.address, 5.0).get("/ring")
    return bool(ring["slots"][slot]["host"] == holder.incarnation)
