"""The store fails under load: killed, stopped, full, forgetful, cut off. Real processes, real Redis, real edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from loadtest.client import Kind
from loadtest.wire import request
from tests.integration.deployment import Deployment, Talkers
from tests.servers import Durability

AGENT = "actors.agents.echo:paced"
DURABLE = Durability()
IMPATIENT = {"commit_patience_s": 1.0, "claim_patience_s": 1.0, "restarts_max": 1}
"""A client that waits for the store shall not wait long."""
STOPPED_S = 5.0
HURTS = 12
"""How often a test cuts connections, or has the scripts forgotten."""

pytestmark = pytest.mark.timeout(90)


@contextmanager
def admin(deployment: Deployment) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(deployment.server.url) as client:
        yield client


def members(deployment: Deployment) -> object:
    """The membership table as the store has it: who is in which slot, and the ring_version."""
    with admin(deployment) as client:
        return client.hgetall("rehydra:{members}:table")


def holders(deployment: Deployment, talkers: Talkers) -> dict[str, object]:
    """session -> who holds it under which epoch, as the store has it."""
    with admin(deployment) as client:
        keys = {session: f"rehydra:{{-:{session}}}:lease" for session in talkers.sessions}
        return {session: client.hmget(key, "incarnation", "epoch", "takeovers") for session, key in keys.items()}


def written(deployment: Deployment, talkers: Talkers, part: str = "*") -> object:
    """Every byte that the store has of the talkers' sessions, or of one part of them."""
    with admin(deployment) as client:
        found = [client.keys(f"rehydra:{{-:{session}}}:{part}") for session in talkers.sessions]
        return {key: client.dump(key) for keys in found for key in keys}


def same_hosts(deployment: Deployment) -> bool:
    return all(host.process.returncode is None for host in deployment.hosts)


async def refused(
    deployment: Deployment, method: str, path: str, body: object = None, **headers: str
) -> dict[str, Any]:
    """The problem document of a request that can't be done now: 503, and when to come back."""
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    packed = json.dumps(body).encode() if body is not None else b""
    async with request(deployment.client.to, method, path, named, packed) as reply:
        problem = json.loads(await reply.body())
        assert (reply.status, reply.headers["content-type"]) == (503, "application/problem+json"), problem
        assert int(reply.headers["retry-after"]) >= 1
        return dict(problem)


async def test_a_redis_that_is_killed_and_started_again_loses_nothing_and_no_host_is_restarted(
    tmp_path: Path,
) -> None:
    """I2, I3, I10: 503 while it is away, and then every session goes on by itself."""
    async with (
        Deployment(AGENT, hosts=3, durability=DURABLE, session=IMPATIENT) as deployment,
        Talkers(deployment.client, tmp_path) as talkers,
    ):
        await talkers.go_on(3)
        before = members(deployment)
        deployment.server.kill()
        await talkers.until(lambda: len(talkers.refusals) >= len(talkers.sessions))
        chat = await refused(deployment, "POST", "/chat", {"session_id": "talker-0", "message": "Anybody?"})
        assert (chat["outcome"], chat["type"]) == ("unknown", "urn:rehydra:problem:store-unavailable")
        await refused(deployment, "POST", "/chat", {"message": "Anybody new?"})
        await refused(deployment, "GET", "/sessions/talker-0/turns")
        await refused(deployment, "DELETE", "/sessions/talker-0")
        await refused(deployment, "GET", "/readyz")
        assert {(answer.kind, answer.status) for answer in talkers.refusals} == {(Kind.INFO, 503)}

        deployment.server.restart()
        await talkers.go_on(3)
        assert await talkers.found_wrong() == []
        assert same_hosts(deployment)
        assert members(deployment) == before


async def test_a_redis_that_is_killed_and_back_at_once_is_not_noticed(tmp_path: Path) -> None:
    """What waits for its answer is asked again: a restart costs time, and nobody an error."""
    async with (
        Deployment(AGENT, hosts=2, durability=DURABLE) as deployment,
        Talkers(deployment.client, tmp_path) as talkers,
    ):
        for _ in range(4):
            await talkers.go_on(1)
            deployment.server.restart()
        await talkers.go_on(2)
        assert talkers.refusals == []
        assert await talkers.found_wrong() == []
        assert same_hosts(deployment)


async def test_a_redis_that_is_stopped_for_5_s_moves_no_session(tmp_path: Path) -> None:
    """Nobody is dead because nobody could beat: no takeover, no new epoch, the same ring, and no error."""
    async with (
        Deployment(AGENT, hosts=3) as deployment,
        Talkers(deployment.client, tmp_path) as talkers,
    ):
        await talkers.go_on(3)
        before, held = members(deployment), holders(deployment, talkers)
        deployment.server.freeze()
        try:
            await asyncio.sleep(STOPPED_S)  # That long is the experiment.
        finally:
            deployment.server.thaw()
        await talkers.go_on(3)
        assert talkers.refusals == []
        assert (members(deployment), holders(deployment, talkers)) == (before, held)
        assert await talkers.found_wrong() == []
        assert same_hosts(deployment)


async def test_a_full_redis_is_told_as_such_at_once_and_writes_nothing_by_halves(tmp_path: Path) -> None:
    """I10: not done, and the client learns it from a host that still knows its place; then room is made."""
    async with (
        Deployment(AGENT, hosts=2, durability=DURABLE) as deployment,
        Talkers(deployment.client, tmp_path) as talkers,
    ):
        await talkers.go_on(3)
        before = members(deployment)
        with admin(deployment) as client:
            client.config_set("maxmemory", "1")
            await talkers.until(lambda: len(talkers.refusals) >= 2 * len(talkers.sessions))
            quiet = written(deployment, talkers)
            # Longer than a host may be silent: that the store is full is no reason to think anybody dead.
            await asyncio.sleep(3.0)
            began = asyncio.get_running_loop().time()
            known = await refused(deployment, "POST", "/chat", {"session_id": "talker-0", "message": "Room?"})
            fresh = await refused(deployment, "POST", "/chat", {"session_id": "nobody-yet", "message": "Room?"})
            assert asyncio.get_running_loop().time() - began < 3.0
            assert (known["type"], known["outcome"]) == ("urn:rehydra:problem:store-full", "not_done")
            assert "no room" in fresh["detail"]
            assert written(deployment, talkers) == quiet
            assert client.keys("*nobody-yet*") == []
            assert {answer.status for answer in talkers.refusals} == {503}
            assert members(deployment) == before
            client.config_set("maxmemory", "0")
        await talkers.go_on(3)
        assert await talkers.found_wrong() == []
        assert (await deployment.client.chat("nobody-yet", "Room?")).turn_seq == 1
        assert same_hosts(deployment)


async def test_a_host_that_dies_while_redis_is_full_is_replaced_and_its_sessions_go_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    async with (
        Deployment(AGENT, hosts=2, durability=DURABLE) as deployment,
        Talkers(deployment.client, tmp_path) as talkers,
    ):
        await talkers.go_on(3)
        with admin(deployment) as client:
            client.config_set("maxmemory", "1")
            await talkers.until(lambda: len(talkers.refusals) >= 2 * len(talkers.sessions))
            quiet = written(deployment, talkers, "log")
            await deployment.host_in("slot-0").end()
            await deployment.start_host()
            await deployment.settled(2)
            told = len(talkers.refusals)
            await talkers.until(lambda: len(talkers.refusals) >= told + 2 * len(talkers.sessions))
            assert all("no room" in answer.why for answer in talkers.refusals[-len(talkers.sessions) :])
            assert written(deployment, talkers, "log") == quiet
            client.config_set("maxmemory", "0")
        await talkers.go_on(3)
        assert await talkers.found_wrong() == []


async def test_scripts_that_are_forgotten_and_connections_that_are_cut_are_not_noticed(tmp_path: Path) -> None:
    """SCRIPT FLUSH and CLIENT KILL under load: every message is answered at its first sending."""
    async with (
        Deployment(AGENT, hosts=3) as deployment,
        Talkers(deployment.client, tmp_path, count=16, over_s=0.02) as talkers,
    ):
        await talkers.go_on(2)
        before, held = members(deployment), holders(deployment, talkers)
        with admin(deployment) as client:
            for _ in range(HURTS):
                client.script_flush()
                await talkers.go_on(1)
                assert client.client_kill_filter(_type="normal", skipme=True) >= len(deployment.hosts)
                await talkers.go_on(1)
        assert talkers.refusals == []
        assert (members(deployment), holders(deployment, talkers)) == (before, held)
        assert await talkers.found_wrong() == []
