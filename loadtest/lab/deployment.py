"""The deployment as an experiment sees and touches it: its ring, its edge's map, its processes.

Signals go only to processes that descend from the experiment's own supervisor, or carry its folder in their
environment (HAProxy has no parent among them). What it says of the ring is what the edge routes by.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.client import Client, Unreadable
from loadtest.processes import listener_pid
from loadtest.stack import Stack
from loadtest.wire import Broken, request

LOOK_S = 0.05
MAP_LOOK_S = 0.2


class NotOurs(Exception):
    """A process that the experiment didn't start: it isn't touched."""


class NotSo(Exception):
    """What was waited for didn't come in time."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The edge's map, from ``at`` (monotonic seconds) until the next one: shard -> slot."""

    at: float
    slots: tuple[str, ...]


class Deployment:
    """One stack under experiment. ``hosts``: how many there should be just now."""

    def __init__(self, stack: Stack, hosts: int) -> None:
        self.stack = stack
        self.hosts = hosts
        self.snapshots: list[Snapshot] = []
        self.client = Client(stack.url, 2.0)
        haproxy = psutil.Process(self.edge_pid())
        self._map = next(Path(word).parent for word in haproxy.cmdline() if word.endswith("haproxy.cfg"))

    # --- what there is --------------------------------------------------------------------------------------------

    async def ring(self) -> dict[str, dict[str, Any]]:
        """slot -> host, pid, address. Unreadable if nobody answers."""
        _, document = await self.client.get("/ring")
        return dict(document.get("slots", {}))

    async def ready(self, wait_s: float = 90.0) -> dict[str, dict[str, Any]]:
        """The ring, once as many hosts as there should be are on it and ready. NotSo after ``wait_s``."""
        deadline, ring = time.monotonic() + wait_s, dict[str, dict[str, Any]]()
        while time.monotonic() < deadline:
            try:
                ring = await self.ring()
                if len(ring) == self.hosts and all([await self._is_ready(host) for host in ring.values()]):
                    return ring
            except Unreadable:
                pass
            await asyncio.sleep(LOOK_S)
        raise NotSo(f"{self.hosts} hosts were not ready within {wait_s:g} s; the ring has {sorted(ring)}")

    async def _is_ready(self, host: dict[str, Any]) -> bool:
        status, _ = await Client(host["address"], 2.0).get("/readyz")
        return status == 200

    def edge_pid(self) -> int:
        return self._listener(self.stack.url)

    def redis_pid(self) -> int:
        return self._listener(self.stack.redis_url.partition("/0")[0])

    def _listener(self, url: str) -> int:
        if (pid := listener_pid(url.partition("//")[2].partition("/")[0])) is None:
            raise NotSo(f"nobody listens at {url}")
        return pid

    def actor_pid(self, name: str) -> int:
        """The Ray actor that shows itself under that name."""
        for process in psutil.Process(self.stack.pid).children(recursive=True):
            try:
                if any(name in word for word in process.cmdline()):
                    return int(process.pid)
            except psutil.Error:
                continue
        raise NotSo(f"there is no process {name!r}")

    # --- what is done to it ---------------------------------------------------------------------------------------

    def signal(self, pid: int, number: int) -> None:
        """NotOurs unless the experiment started it."""
        process = psutil.Process(pid)
        mine = any(parent.pid == self.stack.pid for parent in process.parents())
        if not mine and str(self.stack.folder) not in process.environ().values():
            raise NotOurs(f"process {pid} ({process.name()})")
        os.kill(pid, number)

    async def scale(self, hosts: int) -> None:
        """Ask Serve for so many hosts."""
        path = "/api/v1/applications/rehydra/deployments/SessionHost/scale"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.stack.token}"}
        body = json.dumps({"target_num_replicas": hosts}).encode()
        to = Client(f"http://{self.stack.dashboard}").to
        try:
            async with request(to, "POST", path, headers, body) as reply:
                text = (await reply.body()).decode(errors="replace")
        except Broken as error:
            raise NotSo(f"scale to {hosts}: {error}") from error
        if reply.status != 200:
            raise NotSo(f"scale to {hosts}: {reply.status} {text[:300]}")
        self.hosts = hosts

    # --- the edge's map -------------------------------------------------------------------------------------------

    async def watch_map(self) -> None:
        """Keep every state of the edge's map that a look finds. Runs until cancelled."""
        while True:
            try:
                await self.look_at_map()
            except (OSError, EOFError, TimeoutError):
                pass  # HAProxy is away, on purpose.
            await asyncio.sleep(MAP_LOOK_S)

    async def look_at_map(self) -> None:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_unix_connection(str(self._map / "admin.sock"), limit=1 << 22)
            try:
                writer.write(f"show map {self._map / 'shards.map'}\n".encode())
                text = (await reader.read()).decode()
            finally:
                writer.close()
        slots = [""] * 4096
        for line in text.splitlines():
            if len(words := line.split()) == 3:
                slots[int(words[1])] = words[2]
        if any(slots) and (not self.snapshots or self.snapshots[-1].slots != tuple(slots)):
            self.snapshots.append(Snapshot(time.monotonic(), tuple(slots)))
