"""The Edge: one HAProxy in front of all hosts, and the loop that keeps it true. A plain class; ``deploy`` wires it.

Any number of Edges may come and go over one HAProxy: each adopts the one that runs in its folder, and the last takes
it away. Whoever is killed leaves HAProxy running, which is what its clients want; it then follows no table until the
next Edge comes, and its own health checks keep it off the dead.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.logs import write_logs
from actors.settings import Settings
from actors.stores.base import MembershipStore
from router.edge.admin import Admin, EdgeFailed
from router.edge.config import Paths
from router.edge.process import Haproxy
from router.edge.sync import Sync

OpenMembership = Callable[[Settings], MembershipStore]
"""Connects to the membership table. A function of a module, so that Ray can carry it to another process."""


def run_dir_of(settings: Settings) -> str:
    """``edge.run_dir``, or a folder per port: stacks with different ports never meet."""
    return settings.edge.run_dir or os.path.join(tempfile.gettempdir(), f"rehydra-edge-{settings.edge.port}")


class Edge:
    """Start it once, close it once. ``open_membership`` connects to the store, which the Edge closes at its end."""

    def __init__(self, settings: Settings, open_membership: OpenMembership) -> None:
        self.settings = settings
        self.haproxy = Haproxy(Paths.of(run_dir_of(settings)))
        self._open_membership = open_membership
        self._name = uuid.uuid4().hex
        self._store: MembershipStore | None = None
        self._sync: Sync | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Adopt or start HAProxy and follow the table. Misconfigured or EdgeFailed if HAProxy can't be had."""
        store = self._store = self._open_membership(self.settings)
        sync = self._sync = Sync(self.settings, store, self.haproxy)
        await sync.start()
        await asyncio.to_thread(Path(self.haproxy.paths.edge).write_text, self._name)
        self._task = asyncio.create_task(sync.run(), name="rehydra-edge")

    async def aclose(self, last: bool | None = None) -> None:
        """Stop following. ``last`` takes HAProxy away; None decides: unless another Edge has adopted it since."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if last if last is not None else await asyncio.to_thread(self._is_newest):
            await asyncio.to_thread(self.haproxy.end)
        store, self._store = self._store, None
        if store is not None:
            await asyncio.to_thread(store.close)

    def hurry(self) -> None:
        """Look at the table now instead of at the next poll."""
        if self._sync is not None:
            self._sync.hurry()

    async def check(self) -> None:
        """Raise EdgeFailed if the loop has ended. A HAProxy that died is no reason: the loop starts another."""
        if self._task is None or self._task.done():
            raise EdgeFailed("The edge's control loop doesn't run.")

    async def shown(self) -> dict[str, Any]:
        """What the Edge knows and what HAProxy says, for people."""
        sync = self._sync
        servers = await Admin(self.haproxy.paths.socket).servers()
        return {
            "pid": await asyncio.to_thread(self.haproxy.pid),
            "ring_version": sync.ring.ring_version if sync else -1,
            "restarts": sync.restarts if sync else 0,
            "failure": sync.failure if sync else "",
            "servers": {
                slot: f"{state.address}:{state.port} {state.admission}{'' if state.up else ' down'}"
                for slot, state in servers.items()
                if state.admission != "maint"
            },
        }

    def _is_newest(self) -> bool:
        try:
            return Path(self.haproxy.paths.edge).read_text() == self._name
        except OSError:
            return self._sync is not None


class EdgeReplica:
    """An Edge as Ray Serve wants its replicas: begun by its constructor, ended by ``__del__``. Imports no Ray."""

    async def __init__(self, settings: Settings, open_membership: OpenMembership) -> None:  # type: ignore[misc]
        """Serve awaits this on the loop on which it also calls everything else."""
        write_logs(settings.log, "edge")
        self._edge = Edge(settings, open_membership)
        await self._edge.start()

    async def check_health(self) -> None:
        """Called by Serve; raising has the replica replaced."""
        await self._edge.check()

    async def shown(self) -> dict[str, Any]:
        """See :meth:`Edge.shown`."""
        return await self._edge.shown()

    async def __del__(self) -> None:
        """Called by Serve when the replica is to stop, before it is killed; not by Python, whose call is a no-op."""
        if (edge := getattr(self, "_edge", None)) is not None:
            await edge.aclose()
