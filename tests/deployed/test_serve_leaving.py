"""I3, I4: hosts that Serve replaces and takes away, in a rolling update, after a crash, by its autoscaler: who moves.

One cluster for all of it; the application is deployed to it again and again. Sessions talk all the time without a
repeat: any answer but 200 fails. How often each has moved is told by the store: every claim is an epoch.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from loadtest.client import Answer, Client, Kind, Unreadable
from tests.deployed.test_serve_deploy import START_S, OnACluster
from tests.integration.deployment import LOOK_S
from tests.servers import Server

PACE_S = 0.05
AGENT = {"agent": {"path": "actors.agents.echo:paced"}}
SLOTS = {"ring": {"slots_max": 3}}
STREAM_S = 20.0

pytestmark = pytest.mark.timeout(3 * START_S)


class Deployed:
    """The application on the cluster, as its clients and its store see it."""

    def __init__(self, cluster: OnACluster, redis_url: str) -> None:
        self.client = Client(cluster.url)
        self._cluster = cluster
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)

    async def deploy(self, file: str = "serve.yaml", args: dict[str, Any] | None = None, **hosts: Any) -> None:
        config = self._cluster.config(file, AGENT | (args or {}), **hosts)
        await asyncio.to_thread(self._cluster.serve, "deploy", config)

    async def ring(self) -> dict[str, dict[str, Any]]:
        """slot -> host."""
        try:
            _, ring = await self.client.get("/ring")
        except Unreadable:
            return {}  # Nobody is there yet.
        return dict(ring.get("slots", {}))

    async def until(self, wanted: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        """The ring, once it is as wanted."""
        async with asyncio.timeout(START_S):
            while not (ring := await self.ring()) or not wanted(ring):  # noqa: ASYNC110 - by other processes
                await asyncio.sleep(LOOK_S)
        return ring

    async def agreed(self) -> dict[str, dict[str, Any]]:
        """The ring of three hosts, once each of them goes by it: until then a session may begin on one and move."""
        async with asyncio.timeout(START_S):
            while len(ring := await self.ring()) != 3 or len(await self._versions(ring)) != 1:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        return ring

    async def _versions(self, ring: dict[str, dict[str, Any]]) -> set[int]:
        """The ring_versions of these hosts; -1 for one that doesn't answer."""
        versions = set()
        for host in ring.values():
            try:
                _, own = await Client(host["address"]).get("/ring")
            except Unreadable:
                own = {}
            versions.add(int(own.get("ring_version", -1)))
        return versions

    def epochs(self, sessions: list[str]) -> dict[str, int]:
        """How often each was claimed so far, from a number of its own on."""
        return {name: int(self._redis.hget(f"rehydra:{{-:{name}}}:lease", "epoch") or 0) for name in sessions}

    @asynccontextmanager
    async def talks(self, sessions: list[str]) -> AsyncIterator[dict[str, list[Answer]]]:
        """One client a session, who says the next thing as soon as the last one is answered. All answers so far."""
        answers: dict[str, list[Answer]] = {name: [] for name in sessions}
        ending = asyncio.Event()

        async def talk(name: str) -> None:
            before = len(await self.client.turns(name))
            while not ending.is_set():
                answer = await self.client.chat(name, f"{name} says {before + 1}", metadata={"over_s": PACE_S})
                assert (answer.kind, answer.turn_seq) == (Kind.OK, before + 1), answer
                answers[name].append(answer)
                before += 1

        async with asyncio.TaskGroup() as group:
            for name in sessions:
                await self.client.chat(name, "hello")
                group.create_task(talk(name))
            yield answers
            ending.set()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with Server("valkey") as server:
        cluster = OnACluster(tmp_path_factory.mktemp("cluster"), server.url)
        try:
            cluster.until_it_runs()
            yield Deployed(cluster, server.url)
        finally:
            cluster.end()


def hosts_of(ring: dict[str, dict[str, Any]]) -> set[str]:
    return {host["host"] for host in ring.values()}


async def test_a_rolling_update_with_surge_moves_each_session_and_streams_end_where_they_run(
    deployed: Deployed,
) -> None:
    names = [f"talk-{number}" for number in range(12)]
    await deployed.deploy(args=SLOTS, max_surge_percent=33)
    before = await deployed.agreed()
    async with deployed.talks(names) as answers:
        streams = [
            asyncio.create_task(
                deployed.client.chat(f"stream-{number}", "a b c d", streams=True, metadata={"over_s": STREAM_S})
            )
            for number in range(6)
        ]
        await _all_have_answered(answers)
        claimed = deployed.epochs(names)
        # A setting that the edge has, too: HAProxy is replaced as well.
        changed = {"session": {"idle_s": 301, "commit_patience_s": 16}}
        await deployed.deploy(args=SLOTS | changed, max_surge_percent=33)
        await deployed.until(lambda ring: len(ring) == 3 and not hosts_of(ring) & hosts_of(before))
        await _all_have_answered(answers)
        moves = {name: epoch - claimed[name] for name, epoch in deployed.epochs(names).items()}
        assert all([(await stream).kind is Kind.OK for stream in streams])
    assert set(moves.values()) == {1}, moves
    # A host that has just left, or hasn't heard yet that it inherited, has no slot to name.
    named = {name: [answer.slot for answer in answers[name] if answer.slot != "-"] for name in names}
    assert all(slots[0] == slots[-1] for slots in named.values())


async def test_a_crash_moves_the_sessions_of_the_crashed_hosts_slot_out_and_back_and_no_others(
    deployed: Deployed,
) -> None:
    names = [f"crash-{number}" for number in range(12)]
    before = await deployed.agreed()
    async with deployed.talks(names) as answers:
        await _all_have_answered(answers)
        home = {name: answers[name][-1].slot for name in names}
        crashed = home[names[0]]
        claimed = deployed.epochs(names)
        os.kill(int(before[crashed]["pid"]), signal.SIGKILL)
        await deployed.until(lambda ring: len(ring) == 3 and not {before[crashed]["host"]} & hosts_of(ring))
        # A session goes back after the turn in which its host has heard of the table.
        async with asyncio.timeout(START_S):
            while any(answers[name][-1].slot != crashed for name in names if home[name] == crashed):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        await _all_have_answered(answers)
    moves = {name: epoch - claimed[name] for name, epoch in deployed.epochs(names).items()}
    assert {name: count for name, count in moves.items() if home[name] != crashed and count} == {}
    # Out and back; or only back, of a session that nobody asked for in between.
    assert {moves[name] for name in names if home[name] == crashed} <= {1, 2}, moves
    assert {answers[name][-1].slot for name in names if home[name] == crashed} == {crashed}


async def _all_have_answered(answers: dict[str, list[Answer]]) -> None:
    wanted = {name: len(said) + 3 for name, said in answers.items()}
    async with asyncio.timeout(START_S):
        while any(len(answers[name]) < count for name, count in wanted.items()):  # noqa: ASYNC110 - by other processes
            await asyncio.sleep(LOOK_S)


async def test_serves_autoscaler_follows_the_sessions_that_hosts_report_and_nobody_notices(deployed: Deployed) -> None:
    autoscaling = {
        "min_replicas": 1, "max_replicas": 3, "metrics_interval_s": 0.5, "look_back_period_s": 1.0,
        "upscale_delay_s": 0.5, "downscale_delay_s": 2.0,
        "policy": {"policy_function": "deploy.autoscale:BySessions", "policy_kwargs": {"resident": 8, "busy": 100}},
    }  # fmt: skip
    args = {"session": {"idle_s": 3}}
    few, many = [f"few-{number}" for number in range(4)], [f"many-{number}" for number in range(16)]
    await deployed.deploy("serve-autoscale.yaml", args, autoscaling_config=autoscaling)
    async with deployed.talks(few) as answers:
        await deployed.until(lambda ring: len(ring) == 1)
        async with deployed.talks(many):
            await deployed.until(lambda ring: len(ring) == 3)
        await deployed.until(lambda ring: len(ring) == 1)
        await _all_have_answered(answers)
