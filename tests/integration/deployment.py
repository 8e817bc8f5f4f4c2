"""A small deployment for tests, on real parts and without Ray: a Redis, session hosts as processes, and the edge.

The hosts are ``python -m deploy.host``; the edge is the one that ``deploy`` runs, with its control loop in the test's
own event loop and HAProxy beside it. Whatever was started is ended by pid when the ``async with`` ends; hosts and Redis
also die with the process of the tests. Nobody restarts a host that was killed: ``start_host`` does, when the test says.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.settings import Settings
from actors.stores.redis_membership import RedisMembership
from deploy.processes import leashed
from loadtest.client import Client, Unreadable
from router.edge import Edge
from tests.servers import NOT_DURABLE, Durability, Server, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 30.0
SETTLE_S = 15.0
LOOK_S = 0.02


@dataclass(slots=True)
class HostProcess:
    """A session host. ``slot`` is the one it started in."""

    process: asyncio.subprocess.Process
    pid: int
    address: str
    incarnation: str
    slot: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def freeze(self) -> None:
        """SIGSTOP: its listeners accept connections and say nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def end(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class Deployment:
    """Use it as an ``async with``. ``url`` is the edge's."""

    def __init__(self, agent: str, hosts: int = 2, *, durability: Durability = NOT_DURABLE, **groups: Any) -> None:
        self.server = Server(durability=durability)
        self.hosts: list[HostProcess] = []
        self._count = hosts
        self._run_dir = tempfile.mkdtemp(prefix="rehydra-test-edge-")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url)
        self._args = {
            "store": {"url": self.server.url},
            "agent": {"path": agent},
            "http": {"bind": "127.0.0.1"},
            "edge": {"port": port, "run_dir": self._run_dir},
            **groups,
        }
        self._edge: Edge | None = None

    async def __aenter__(self) -> Self:
        try:
            self.server.start()
            self._args["store"] = {"url": self.server.url}
            await asyncio.gather(*(self.start_host() for _ in range(self._count)))
            settings = Settings.load(self._args)
            self._edge = Edge(settings, lambda settings: RedisMembership.connect(settings.store, 0.5))
            await self._edge.start()
            await self.settled(self._count)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            if self._edge is not None:
                await self._edge.aclose(last=True)
        finally:
            await asyncio.gather(*(host.end() for host in self.hosts))
            self.server.stop()
            shutil.rmtree(self._run_dir, ignore_errors=True)

    async def start_host(self) -> HostProcess:
        """One more host; returns when it serves."""
        command = [sys.executable, "-m", "deploy.host", json.dumps(self._args)]
        process = await asyncio.create_subprocess_exec(
            *leashed(command, signal.SIGKILL), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(START_S):
                assert process.stdout is not None
                shown = json.loads(await process.stdout.readline())
        except BaseException:
            process.kill()
            raise
        host = HostProcess(process, shown["pid"], shown["address"], shown["incarnation"], shown["slot"])
        self.hosts.append(host)
        return host

    async def replace_the_dead(self) -> None:
        """For ever: start a host for each that ends, as Ray Serve would. Run it as a task and cancel it."""
        while True:
            ends = [asyncio.ensure_future(host.process.wait()) for host in self.hosts[-self._count :]]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            alive = [host for host in self.hosts if host.process.returncode is None]
            self.hosts = [host for host in self.hosts if host.process.returncode is not None] + alive
            for _ in range(self._count - len(alive)):
                await self.start_host()

    async def settled(self, hosts: int) -> None:
        """Return once the edge reaches ``hosts`` hosts, and all of them say the same of the ring."""
        async with asyncio.timeout(SETTLE_S):
            while not await self._agreed(hosts):  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(LOOK_S)

    async def _agreed(self, hosts: int) -> bool:
        try:
            _, ring = await self.client.get("/ring")
            assert self._edge is not None
            edge = await self._edge.shown()
            views = [await Client(slot["address"], 2.0).get("/ring") for slot in ring.get("slots", {}).values()]
        except Unreadable:
            return False
        versions = {edge["ring_version"], *(view["ring_version"] for _, view in views)}
        return len(views) == hosts and len(versions) == 1

    def host_in(self, slot: str) -> HostProcess:
        """The living host that started in this slot."""
        return next(host for host in reversed(self.hosts) if host.slot == slot and host.process.returncode is None)

    async def stats(self, host: HostProcess) -> dict[str, Any]:
        """What the host counts."""
        _, health = await Client(host.address, 5.0).get("/healthz")
        return dict(health["stats"])

    async def sessions_in(self, slot: str, count: int, prefix: str) -> list[str]:
        """Names of ``count`` sessions that the ring gives to this slot; each gets one turn."""
        found: list[str] = []
        for number in range(1000):
            if len(found) == count:
                return found
            answer = await self.client.chat(f"{prefix}-{number}", "hello")
            if answer.slot == slot:
                found.append(f"{prefix}-{number}")
        raise AssertionError(f"{slot} gets hardly any sessions: {found}")
