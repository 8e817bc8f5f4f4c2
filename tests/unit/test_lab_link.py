"""The link to the store: cut for one process it passes nothing of it; whole again, what was sent arrives."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from loadtest.lab.link import Link
from loadtest.lab.own_store import own_store
from loadtest.processes import alive, listener_pid
from loadtest.redis_wire import ask
from tests.servers import free_port

SOON_S = 5.0
SILENCE_S = 0.15
STRANGER = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
for line in sys.stdin.buffer:
    link.sendall(line)
    print(link.makefile("rb").readline().decode().strip(), flush=True)
"""


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, int]]:
    """A link to a server that says everything again, and its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        link = Link(server.sockets[0].getsockname()[1])
        async with await link.listen(0) as listener:
            yield link, listener.sockets[0].getsockname()[1]


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    writer.write(line)
    async with asyncio.timeout(SOON_S):
        return await reader.readline()


async def test_everything_passes_until_the_link_is_cut_and_nothing_is_lost_when_it_is_whole_again() -> None:
    async with linked() as (link, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"one\n") == b"one\n"
        assert link.cut(os.getpid()) == 1
        writer.write(b"two\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await reader.readline()
        assert link.heal() == 1
        assert await say(reader, writer, b"three\n") == b"two\n"
        writer.close()


async def test_a_connection_that_is_made_during_the_cut_waits_too() -> None:
    async with linked() as (link, port):
        assert link.cut(os.getpid()) == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"late\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await reader.readline()
        link.heal()
        assert await reader.readline() == b"late\n"
        writer.close()


async def test_only_the_process_that_is_cut_off_is_cut_off() -> None:
    async with linked() as (link, port):
        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STRANGER, str(port)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert stranger.stdin is not None and stranger.stdout is not None
        assert await stranger.stdout.readline() == b"connected\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"mine\n") == b"mine\n"
        link.cut(os.getpid())
        stranger.stdin.write(b"theirs\n")
        async with asyncio.timeout(SOON_S):
            assert await stranger.stdout.readline() == b"theirs\n"
        link.heal()
        writer.close()
        stranger.stdin.close()
        await stranger.wait()


async def test_a_redis_that_is_killed_behind_the_link_comes_back_and_ends_with_the_experiment() -> None:
    port, redis_port = free_port(), free_port()
    async with own_store("redis", port, redis_port, "always") as store:
        await ask(store.url, "SET", "k", "kept")
        pid = listener_pid(f"127.0.0.1:{redis_port}")
        assert pid is not None
        os.kill(pid, 9)
        async with asyncio.timeout(SOON_S):
            while listener_pid(f"127.0.0.1:{redis_port}") in (pid, None):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        async with asyncio.timeout(SOON_S):
            assert await ask(store.url, "GET", "k") == "kept"
        successor = listener_pid(f"127.0.0.1:{redis_port}")
    assert successor is not None and not alive(successor)
