"""The deployment as an experiment sees and touches it: its ring, its edge's map and load, its processes.

Signals go only to the experiment's own supervisor, to processes that descend from it or from the experiment, and to
those that carry its folder in their environment (HAProxy has no parent among them).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.client import Client, Unreadable
from loadtest.lab.edges import Edges
from loadtest.lab.own_store import OwnStore
from loadtest.lab.stores import Store
from loadtest.processes import listener_pid, signal_family
from loadtest.stack import Stack
from loadtest.wire import Broken, request

LOOK_S = 0.05
MAP_LOOK_S = 0.2
BUSY_S = 5.0
"""A victim that has no request under way for so long is struck without."""
BUSY_LOOK_S = 0.01
SHARDS = 16_384


async def until(condition: Callable[[], bool], wait_s: float, otherwise: str) -> None:
    """Look until it holds; NotSo with those words after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotSo(otherwise)
        await asyncio.sleep(LOOK_S)


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

    def __init__(self, stack: Stack, hosts: int, own_store: OwnStore | None = None, edges: Edges | None = None) -> None:
        """``own_store``: what the hosts were told to use, in the place of the stack's own store. ``edges``: by which
        clients come, in the place of the stack's own alone."""
        self.stack = stack
        self.edges = edges
        self.url = edges.url if edges else stack.url
        self.hosts = hosts
        self.own_store = own_store
        self.store = Store(stack.store, own_store.server_url if own_store else stack.store_url, stack.folder)
        self.append_only_folder = (own_store.folder if own_store else stack.folder / "redis") / "appendonlydir"
        self.snapshots: list[Snapshot] = []
        self.client = Client(stack.url, 2.0)
        haproxy = psutil.Process(self.edge_pid())
        self._map = next(Path(word).parent for word in haproxy.cmdline() if word.endswith("haproxy.cfg"))

    # --- what there is --------------------------------------------------------------------------------------------

    async def ring(self) -> dict[str, dict[str, Any]]:
        """slot -> host, pid, address. Unreadable if nobody answers."""
        _, document = await self.client.get("/ring")
        return dict(document.get("slots", {}))

    async def ready(self, wait_s: float = 90.0, at_least: int = 0) -> dict[str, dict[str, Any]]:
        """The hosts that are on the ring and ready, once all are that there should be, or ``at_least`` so many.
        NotSo after ``wait_s``."""
        deadline, found = time.monotonic() + wait_s, dict[str, dict[str, Any]]()
        while time.monotonic() < deadline:
            try:
                ring = await self.ring()
                found = {slot: host for slot, host in ring.items() if await self._is_ready(host)}
                if len(found) == len(ring) == self.hosts or 0 < at_least <= len(found):
                    return found
            except Unreadable:
                pass
            await asyncio.sleep(LOOK_S)
        raise NotSo(f"{at_least or self.hosts} hosts were not ready within {wait_s:g} s; those were: {sorted(found)}")

    async def _is_ready(self, host: dict[str, Any]) -> bool:
        try:
            status, _ = await Client(host["address"], 1.0).get("/readyz")
        except Unreadable:
            return False
        return status == 200

    async def until_off_the_ring(self, host: str, wait_s: float) -> None:
        """Return as soon as the hosts say so; NotSo after ``wait_s``."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            try:
                if host not in {member["host"] for member in (await self.ring()).values()}:
                    return
            except Unreadable:
                pass
            await asyncio.sleep(LOOK_S)
        raise NotSo(f"{host} is still on the ring after {wait_s:g} s")

    # --- victims --------------------------------------------------------------------------------------------------

    async def busy_host(self, chance: random.Random) -> tuple[str, str, int]:
        """Slot, host and pid of a ready host with requests under way, which isn't the only ready one. NotSo if there
        is none."""
        ready = await self.ready(at_least=2)
        slot = chance.choice(sorted(ready))
        await self.until_busy(slot)
        return slot, str(ready[slot]["host"]), int(ready[slot]["pid"])

    async def until_busy(self, *slots: str) -> None:
        """Return as soon as the edge has requests under way at one of these servers (at any, for ``*``), or after
        ``BUSY_S``: whether they really ran is judged afterwards, from the history."""
        deadline = time.monotonic() + BUSY_S
        while time.monotonic() < deadline:
            load = await self._load_of_edge()
            if any(count for slot, count in load.items() if slot in slots or "*" in slots):
                return
            await asyncio.sleep(BUSY_LOOK_S)

    async def _load_of_edge(self) -> dict[str, int]:
        """Slot -> requests that HAProxy has under way there."""
        rows = [line.split(",") for line in (await self._admin("show stat")).splitlines()]
        slot, current = rows[0].index("svname"), rows[0].index("scur")
        return {row[slot]: int(row[current]) for row in rows[1:] if row[slot:] and row[slot].startswith("slot-")}

    def edge_pid(self) -> int:
        return self._listener(self.stack.url)

    def server_pid(self, server: str) -> int:
        """Of that server of the store (``Store.servers``). NotSo if nobody listens there."""
        return self._listener(f"{server}://{self.store.servers[server]}")

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

    def signal(self, pid: int, number: int) -> float:
        """Just before it was sent, monotonic: it can't be felt earlier. NotOurs unless the experiment started it."""
        self._require_ours(pid)
        at = time.monotonic()
        os.kill(pid, number)
        return at

    def signal_servers(self, pids: Collection[int], number: int) -> float:
        """The same for servers, each with all its processes, of which PostgreSQL has one for each connection."""
        for pid in pids:
            self._require_ours(pid)
        at = time.monotonic()
        for pid in pids:
            signal_family(pid, number)
        return at

    def _require_ours(self, pid: int) -> None:
        process = psutil.Process(pid)
        family = {pid, *(parent.pid for parent in process.parents())}
        if not family & {self.stack.pid, os.getpid()} and str(self.stack.folder) not in process.environ().values():
            raise NotOurs(f"process {pid} ({process.name()})")

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
        slots = [""] * SHARDS
        for line in (await self._admin(f"show map {self._map / 'shards.map'}")).splitlines():
            if len(words := line.split()) == 3:
                slots[int(words[1])] = words[2]
        if any(slots) and (not self.snapshots or self.snapshots[-1].slots != tuple(slots)):
            self.snapshots.append(Snapshot(time.monotonic(), tuple(slots)))

    async def _admin(self, question: str) -> str:
        """What HAProxy says on its admin socket. OSError or TimeoutError if it is away."""
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_unix_connection(str(self._map / "admin.sock"), limit=1 << 22)
            try:
                writer.write(f"{question}\n".encode())
                return (await reader.read()).decode()
            finally:
                writer.close()
