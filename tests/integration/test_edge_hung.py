"""The edge, and requests on a host that is down without having said so: repeated on another, whatever they were at."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from router.edge.admin import Admin
from tests.integration import test_edge
from tests.integration.edge_backend import Backend, BackendProcess
from tests.integration.test_edge import Stack, backends, until_so

run_dir, stack = test_edge.run_dir, test_edge.stack


async def test_requests_on_a_frozen_host_are_answered_elsewhere_within_3_s(stack: Stack) -> None:
    async with backends(BackendProcess, BackendProcess) as (a, b):
        await stack.become(s0=a, s1=b)
        assert isinstance(b, BackendProcess)
        session_id = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-1")
        running = asyncio.create_task(stack.post({"wait_s": 1.0}, x_session_id=session_id))
        await asyncio.sleep(0.3)
        b.send(signal.SIGSTOP)
        started = time.monotonic()
        assert (await stack.post(x_session_id=session_id))["name"] == "host-0"
        assert time.monotonic() - started < 3.0
        assert (await running)["name"] == "host-0"
        assert time.monotonic() - started < 4.0
        b.send(signal.SIGCONT)

        async def back() -> bool:
            return bool((await stack.post(x_session_id=session_id))["name"] == "host-1")

        await until_so(back)


async def test_requests_on_a_host_that_is_cut_off_from_the_store_are_answered_elsewhere(stack: Stack) -> None:
    """It is up, and hangs for as long as it is cut off. The others have evicted it."""
    async with backends(Backend, Backend) as (a, b):
        assert isinstance(a, Backend) and isinstance(b, Backend)
        await stack.become(s0=a, s1=b)
        session_id = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-1")
        b.hangs_s, b.heard = 60.0, False
        hanging = asyncio.create_task(stack.post(x_session_id=session_id))

        async def there() -> bool:
            return b.seen == 1

        await until_so(there)
        await stack.become(s0=a)
        assert (await asyncio.wait_for(hanging, 5))["name"] == "host-0"
        assert (a.seen, b.seen) == (1, 1)


async def test_no_request_fails_that_is_being_connected_to_a_host_when_it_is_found_down(stack: Stack) -> None:
    """HAProxy, told to end all that a server has when it goes down, doesn't repeat these: it closes their clients'
    connections. Many are on their way there at that moment if it takes long to connect: a full queue answers nobody."""
    async with backends(Backend, Backend) as (a, b):
        assert isinstance(b, Backend)
        await stack.become(s0=a, s1=b)
        session_id = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-1")
        with queue_that_is_full() as port:
            b.port = port
            await stack.become(s0=a, s1=b)
            asked = [asyncio.create_task(stack.post(x_session_id=session_id))]
            b.healthy = False
            while (await Admin(stack.edge.haproxy.paths.socket).servers())["slot-1"].up:
                asked.append(asyncio.create_task(stack.post(x_session_id=session_id)))
                await asyncio.sleep(0.005)
            assert {(await each)["name"] for each in asked} == {"host-0"}


@contextmanager
def queue_that_is_full() -> Iterator[int]:
    """A port on which connections are neither accepted nor refused."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(listening.getsockname())
        yield int(listening.getsockname()[1])
