"""Sealed requests through a real HAProxy: whichever host has the fewest of them, and another one if that dies."""

from __future__ import annotations

import asyncio
import os
import signal

from router.edge.admin import Admin
from router.edge.config import ANY_HOST
from tests.integration import test_edge
from tests.integration.edge_backend import Backend, BackendProcess
from tests.integration.test_edge import Stack, backends, until

run_dir, stack = test_edge.run_dir, test_edge.stack

SEALED = "/chat/sealed"


async def who(stack: Stack, count: int, **headers: str) -> set[str]:
    """Who answers so many sealed requests, one after the other."""
    return {(await stack.post({"message": "m"}, SEALED, **headers))["name"] for _ in range(count)}


async def test_a_sealed_request_goes_where_the_fewest_are(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c), asyncio.TaskGroup() as tasks:
        await stack.become(s0=a, s1=b, s2=c)
        everybody = {"host-0", "host-1", "host-2"}
        slow = [tasks.create_task(stack.post({"message": "m", "wait_s": 1}, SEALED)) for _ in range(2)]
        await until(lambda: sum(each.seen for each in (a, b, c) if isinstance(each, Backend)) == 2)
        idle = await who(stack, 10)
        busy = {(await each)["name"] for each in slow}
        assert (len(idle), len(busy), idle | busy) == (1, 2, everybody)


async def test_a_session_is_read_where_the_fewest_requests_are(stack: Stack) -> None:
    async def read() -> str:
        async with stack.http.get(f"{stack.url}/sessions/s/turns") as response:
            return str((await response.json())["name"])

    async with backends(Backend, Backend, Backend) as found, asyncio.TaskGroup() as tasks:
        hosts = [each for each in found if isinstance(each, Backend)]
        await stack.become(s0=hosts[0], s1=hosts[1], s2=hosts[2])
        for each in hosts:
            each.hangs_s = 1.0
        slow = [tasks.create_task(read()) for _ in range(2)]
        await until(lambda: sum(each.seen for each in hosts) == 2)
        for each in hosts:
            each.hangs_s = 0.0
        idle = {await read() for _ in range(10)}
        busy = {await each for each in slow}
        assert (len(idle), len(busy), idle | busy) == (1, 2, {"host-0", "host-1", "host-2"})


async def test_naming_a_session_binds_a_sealed_request_to_no_host(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        assert len(await who(stack, 12, x_session_id="s")) == 3
        assert {(await stack.post(x_session_id="s"))["name"] for _ in range(12)} == {stack.owner("s")}


async def test_hosts_that_come_get_sealed_requests_and_hosts_that_leave_get_none(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b)
        assert await who(stack, 12) == {"host-0", "host-1"}
        await stack.become(s1=b, s2=c)
        assert await who(stack, 12) == {"host-1", "host-2"}
        await stack.become(s1=a)
        assert await who(stack, 6) == {"host-0"}


async def test_a_killed_hosts_sealed_requests_are_repeated_on_others(stack: Stack) -> None:
    async with backends(BackendProcess, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        assert isinstance(a, BackendProcess)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(stack.post({"message": "m", "wait_s": 0.5}, SEALED)) for _ in range(9)]
            await until(lambda: sum(each.seen for each in (b, c) if isinstance(each, Backend)) == 6)
            a.send(signal.SIGKILL)
            more = [tasks.create_task(stack.post({"message": "m"}, SEALED)) for _ in range(9)]
        assert {task.result()["name"] for task in running + more} == {"host-1", "host-2"}


async def test_a_frozen_hosts_sealed_requests_are_answered_elsewhere(stack: Stack) -> None:
    """Its server here follows the checked one, and what hangs there is ended too."""
    async with backends(BackendProcess, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        assert isinstance(a, BackendProcess)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(stack.post({"message": "m", "wait_s": 0.5}, SEALED)) for _ in range(9)]
            await until(lambda: sum(each.seen for each in (b, c) if isinstance(each, Backend)) == 6)
            a.send(signal.SIGSTOP)
        assert {task.result()["name"] for task in running} == {"host-1", "host-2"}
        a.send(signal.SIGCONT)


async def test_an_edge_that_is_started_again_knows_these_hosts_too(stack: Stack) -> None:
    """HAProxy has died, and the new one is told its servers by its configuration."""
    async with backends(Backend, Backend) as (a, b):
        await stack.become(s0=a, s1=b)
        info = await Admin(stack.edge.haproxy.paths.socket).info()
        killed = stack.edge.haproxy.pid()
        assert killed == int(info["Pid"])
        os.kill(killed, signal.SIGKILL)
        await until(lambda: stack.edge.haproxy.pid() not in (None, killed) and stack.follows(stack.edge))
        assert await who(stack, 6) == {"host-0", "host-1"}
        states = await Admin(stack.edge.haproxy.paths.socket).command(f"show servers state {ANY_HOST}")
        assert str(a.port) in states
        assert str(b.port) in states
