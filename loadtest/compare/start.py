"""A way from nothing to where it takes requests, and back to nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtest.agents import CALLS
from loadtest.baselines.rival import rival
from loadtest.client import Client, Unreadable
from loadtest.compare import balancer, stores
from loadtest.compare.environment import Environment
from loadtest.compare.programs import Programs, needed, programs
from loadtest.compare.ways import RAY_ROUTER, REHYDRA, Way
from loadtest.processes import family
from loadtest.stack import NotUp
from loadtest.stack import started as rehydra

AGENT = "loadtest.agents:counted"
MARK = "LOADTEST_MARK"
SECRET = "LOADTEST_SECRET"
SERVERS = 2
PORTS = 6
MAX_ONGOING = 100
READY_S = 30.0
LOOK_S = 0.05

Pids = Callable[[], Awaitable[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Running:
    """A way that takes requests at ``url``. ``calls``: gets a byte for each call of the agent."""

    url: str
    calls: Path
    stores: tuple[int, ...]
    """Ports at which its stores listen."""
    servers: Pids
    _mark: str
    _roots: frozenset[int] = frozenset()

    def processes(self) -> list[psutil.Process]:
        """All that it consists of."""
        return family(self._mark, self._roots)

    def pids(self) -> list[int]:
        """Of all that it consists of."""
        return [process.pid for process in self.processes()]

    def agent_calls(self) -> int:
        """So far."""
        return self.calls.stat().st_size if self.calls.exists() else 0

    async def one_of_two(self) -> int:
        """A server that may be killed. NotUp if there are no two, or it isn't of this experiment."""
        pids = await self.servers()
        if len(pids) < SERVERS:
            raise NotUp(f"{len(pids)} servers run where {SERVERS} should")
        if pids[-1] not in self.pids():
            raise NotUp(f"process {pids[-1]} isn't of this experiment")
        return pids[-1]


@asynccontextmanager
async def running(way: Way, port: int, environment: Environment, kept: Path) -> AsyncIterator[Running]:
    """Start it at ``port`` and the next few, and end it. NotUp if it doesn't start."""
    for number in range(port, port + PORTS):
        # Whoever answers there would be taken for ours.
        if await stores.listens(number):
            raise NotUp(f"port {number} is taken; name other ones with --port")
    folder = Path(tempfile.mkdtemp(prefix="rehydra-compare-"))
    # nginx's and PostgreSQL's own users go through it.
    os.chmod(folder, 0o711)
    try:
        if way.name == REHYDRA:
            start = _rehydra(folder, port)
        elif way.name == RAY_ROUTER:
            start = _ray(folder, port)
        else:
            start = _servers(way, folder, port, environment, kept)
        async with start as up:
            yield up
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _servers(way: Way, folder: Path, port: int, environment: Environment, kept: Path) -> AsyncIterator[Running]:
    """Stores, two servers, nginx."""
    calls, ports = folder / "calls", [port + 1, port + 2]
    about = {CALLS: str(calls), MARK: str(folder), SECRET: secrets.token_hex()}
    async with programs(folder, about) as up:
        store_ports = [port + 3 + number for number in range(len(way.stores))]
        urls = [
            await stores.start(store, up, at, environment, kept)
            for store, at in zip(way.stores, store_ports, strict=True)
        ]
        options = [word for url in urls for word in ("--store", url)]
        serve = (str(environment.python), "-m", "loadtest.baselines.serve", way.serves)
        pids = []
        # One after the other: the first one makes the tables.
        for number, at in enumerate(ports):
            name = f"server-{number}"
            pids.append(await up.start(name, *serve, "--port", str(at), *options))
            await up.ready(name, partial(stores.listens, at))
        await _nginx(way, up, port, ports)

        async def servers() -> list[int]:
            return pids

        url = f"http://127.0.0.1:{port}"
        yield Running(url, calls, tuple(store_ports), servers, str(folder), frozenset(up.pids()))


async def _nginx(way: Way, up: Programs, port: int, servers: Sequence[int]) -> None:
    path = up.folder / "nginx.conf"
    path.write_text(balancer.config(way.balance, up.folder, port, servers), encoding="utf-8")
    await up.start("nginx", needed("nginx"), "-c", str(path), "-p", str(up.folder), "-e", str(up.folder / "nginx.log"))
    await up.ready("nginx", lambda: stores.listens(port))


@asynccontextmanager
async def _ray(folder: Path, port: int) -> AsyncIterator[Running]:
    calls = folder / "calls"
    about = {CALLS: str(calls), MARK: str(folder)}
    async with rival("consistent_hash", port, SERVERS, MAX_ONGOING, about) as url:

        async def servers() -> list[int]:
            return [process.pid for process in family(str(folder)) if "ServeReplica" in _title(process)]

        yield Running(url, calls, (port + 1,), servers, str(folder))


@asynccontextmanager
async def _rehydra(folder: Path, port: int) -> AsyncIterator[Running]:
    calls = folder / "calls"
    async with rehydra(port, SERVERS, AGENT, settings={CALLS: str(calls)}) as stack:

        async def servers() -> list[int]:
            deadline, client = time.monotonic() + READY_S, Client(stack.url, 2.0)
            while True:
                try:
                    _, document = await client.get("/ring")
                    found = [int(host["pid"]) for host in dict(document.get("slots", {})).values()]
                except Unreadable:
                    found = []
                if len(found) >= SERVERS or time.monotonic() > deadline:
                    return found
                await asyncio.sleep(LOOK_S)

        store = int(stack.redis_url.rpartition(":")[2].partition("/")[0])
        yield Running(stack.url, calls, (store,), servers, str(stack.folder), frozenset({stack.pid}))


def _title(process: psutil.Process) -> str:
    """What it calls itself; nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
