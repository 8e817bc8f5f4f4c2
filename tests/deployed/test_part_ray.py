"""Parts of Ray that fail under load: the Edge replica, Serve's controller, and HAProxy as Ray's grandchild.

One stack for all of them, started by ``deploy/up``; each test leaves it whole.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import processes
from deploy.remains import remains
from loadtest.client import Client
from tests.deployed.test_deploy import START_S, StackUnderTest, run
from tests.integration.deployment import LOOK_S, Talkers

EDGE = "ray::ServeReplica:rehydra:Edge"
CONTROLLER = "ray::ServeController"
BACK_S = 3.0
AGAIN_S = 60.0
"""How long Ray may take to have another of what was killed."""

pytestmark = pytest.mark.timeout(3 * START_S)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackUnderTest]:
    under_test = StackUnderTest(tmp_path_factory.mktemp("stack"))
    try:
        started = run(
            *("deploy/up", "--detach", "--replicas", "2", "--agent", "actors.agents.echo:paced"), *under_test.where
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield under_test
    finally:
        under_test.down()
        assert under_test.left() == []


def pids(stack: StackUnderTest, name: str) -> set[int]:
    """Of the stack's living processes with ``name`` in their command."""
    return {found.pid for found in remains(stack.folder) if name in processes.command(found.pid)}


async def another(stack: StackUnderTest, name: str, killed: set[int], within_s: float = AGAIN_S) -> set[int]:
    """Once there is one, and the killed one is gone."""
    async with asyncio.timeout(within_s):
        while not (found := pids(stack, name) - killed) or killed & pids(stack, name):  # noqa: ASYNC110 - by other processes
            await asyncio.sleep(LOOK_S)
    return found


def kill(victims: set[int]) -> None:
    assert len(victims) == 1, victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


async def replaced(stack: StackUnderTest, host: int) -> dict[str, int]:
    """Kill that host; slot -> pid once Serve has put another in its place."""
    hosts = stack.hosts()
    kill({host})

    def whole() -> bool:
        nonlocal hosts
        hosts = stack.hosts()
        return len(hosts) == 2 and host not in hosts.values()

    await asyncio.to_thread(stack.until, whole)
    return hosts


def answers(stack: StackUnderTest) -> bool:
    """Whether a connection of its own is taken, and a request on it answered."""
    try:
        return stack.ask("GET", "/ring", wait_s=BACK_S)[0] == 200
    except OSError:
        return False


@pytest.fixture
def client(stack: StackUnderTest) -> Client:
    return Client(f"http://127.0.0.1:{stack.port}")


async def test_an_edge_replica_that_is_killed_interrupts_nothing_and_the_next_adopts_haproxy(
    stack: StackUnderTest, client: Client, tmp_path: Path
) -> None:
    edge, haproxy, hosts = pids(stack, EDGE), pids(stack, "haproxy"), stack.hosts()
    async with Talkers(client, tmp_path, prefix="edge", over_s=0.5) as talkers:
        await talkers.go_on(1)
        kill(edge)
        await another(stack, EDGE, edge)
        await talkers.go_on(2)
        assert talkers.refusals == []
        assert pids(stack, "haproxy") == haproxy != set()
        assert stack.hosts() == hosts

        # The new one follows the table: a host's successor gets requests, whichever slot it has.
        now = await replaced(stack, next(iter(hosts.values())))
        client.served.clear()
        await talkers.until(lambda: all(client.served[slot] > 0 for slot in now))
        assert await talkers.found_wrong() == []


async def test_a_haproxy_that_is_killed_is_back_within_3_s(
    stack: StackUnderTest, client: Client, tmp_path: Path
) -> None:
    edge, haproxy, hosts = pids(stack, EDGE), pids(stack, "haproxy"), stack.hosts()
    async with Talkers(client, tmp_path, prefix="haproxy", over_s=0.5) as talkers:
        await talkers.go_on(1)
        began = time.monotonic()
        kill(haproxy)
        # The killed one is gone: an answer of its, read late, counts for nothing, a request that begins now does.
        await another(stack, "haproxy", haproxy, BACK_S)
        await asyncio.to_thread(stack.until, lambda: answers(stack), BACK_S)
        assert time.monotonic() - began < BACK_S
        await talkers.go_on(1)
        assert await talkers.found_wrong() == []
    assert pids(stack, "haproxy").isdisjoint(haproxy)
    assert (pids(stack, EDGE), stack.hosts()) == (edge, hosts)


async def test_when_serves_controller_is_killed_chats_go_on_and_its_successor_still_replaces_hosts(
    stack: StackUnderTest, client: Client, tmp_path: Path
) -> None:
    controller, everything = pids(stack, CONTROLLER), (pids(stack, EDGE), pids(stack, "haproxy"), stack.hosts())
    async with Talkers(client, tmp_path, prefix="controller", over_s=0.5) as talkers:
        await talkers.go_on(1)
        kill(controller)
        await talkers.go_on(2)
        await another(stack, CONTROLLER, controller)
        await talkers.go_on(2)
        assert talkers.refusals == []
        assert (pids(stack, EDGE), pids(stack, "haproxy"), stack.hosts()) == everything

        await replaced(stack, next(iter(everything[2].values())))
        assert await talkers.found_wrong() == []
