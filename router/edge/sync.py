"""The Edge's control loop: HAProxy's servers and map follow the membership table.

Two tasks at the same time: one looks at the table every ``poll_s`` (in a thread: the store may hang), the other looks
after HAProxy itself, so that a store that hangs doesn't delay the restart of a HAProxy that died. Whoever changes
HAProxy holds one lock. The order of a change is what keeps requests whole: servers are added before the map names
them, and taken away only after the map has stopped to.

Servers that leave are drained, not stopped: what runs on a host that leaves may end there. That a host is dead is found
out by HAProxy's own checks, which are quicker than any table, and that it is cut off by asking it; what hangs on it
then is ended (``hung``), and repeated elsewhere. An empty table changes nothing: hosts that were there a moment ago
are a better guess than none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from actors.errors import RehydraError
from actors.model import Member, Table
from actors.settings import Settings
from actors.stores.base import MembershipStore
from router.edge.admin import Admin, Admission, ServerState
from router.edge.config import Server, render, server_of, shard_map
from router.edge.hung import Hung
from router.edge.process import Haproxy
from router.ring import EMPTY, Ring

log = logging.getLogger(__name__)

_VERIFY_EVERY = 8
"""Looks at HAProxy's own state, in polls: somebody else may have changed it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What HAProxy lacks. ``place``: servers to point elsewhere; ``ready`` and ``drain``: slots; ``rest``: slots of
    drained servers that have died, which needn't be checked any more."""

    place: tuple[Server, ...]
    ready: tuple[str, ...]
    drain: tuple[str, ...]
    rest: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.place or self.ready or self.drain or self.rest)


def change_of(states: Mapping[str, ServerState], servers: Mapping[str, Server], reborn: frozenset[str]) -> Change:
    """From HAProxy's servers to those of the ring. ``reborn``: slots whose host is another than before."""
    known = [server for server in servers.values() if server.slot in states]
    place = tuple(server for server in known if server.slot in reborn or _differs(server, states[server.slot]))
    placed = {server.slot for server in place}
    ready = tuple(s.slot for s in known if s.slot in placed or states[s.slot].admission is not Admission.READY)
    others = [state for state in states.values() if state.slot not in servers]
    drain = tuple(state.slot for state in others if state.admission is Admission.READY)
    rest = tuple(state.slot for state in others if state.admission is Admission.DRAIN and not state.up)
    return Change(place, ready, drain, rest)


def _differs(server: Server, state: ServerState) -> bool:
    return (server.address, server.port, server.check_port) != (state.address, state.port, state.check_port)


class Sync:
    """Keeps one HAProxy true. ``run`` it until it is cancelled."""

    def __init__(self, settings: Settings, store: MembershipStore, haproxy: Haproxy) -> None:
        self.ring: Ring = EMPTY
        self.restarts = 0
        self.failure = "the table hasn't been applied yet"
        """Why HAProxy isn't true at the moment; "" while it is."""
        self._settings = settings
        self._store = store
        self._haproxy = haproxy
        self._admin = Admin(haproxy.paths.socket)
        self._hung = Hung(self._admin, settings.edge.connect_timeout_ms / 1000, self._reads)
        self._read_at = -math.inf
        self._changing = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._mapped: tuple[str, ...] | None = None
        self._incarnations: dict[str, str] = {}
        self._pid: int | None = None
        self._polls = 0

    async def start(self) -> None:
        """Have a HAProxy that runs, with as much of the table as the store tells at once. Misconfigured, EdgeFailed."""
        await self._read_table()
        async with self._changing:
            await self._ensure()
            if self.ring.members:
                await self._attempt(self._apply)

    async def run(self) -> None:
        """Follow the table and look after HAProxy, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._guard())

    def hurry(self) -> None:
        """Look at the table at once: somebody knows that it has changed."""
        self._hurry.set()

    # --- the two tasks ------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            changed = await self._read_table()
            self._polls += 1
            if changed or self.failure or self._polls % _VERIFY_EVERY == 0:
                async with self._changing:
                    if self.ring.members:
                        await self._attempt(self._apply)
            await self._pause()

    async def _guard(self) -> None:
        while True:
            await asyncio.sleep(self._settings.edge.poll_s)
            if await asyncio.to_thread(self._haproxy.pid) != self._pid:
                async with self._changing:
                    await self._attempt(self._revive)
            async with self._changing:
                await self._end_hung()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._settings.edge.poll_s):
                await self._hurry.wait()
        except TimeoutError:
            pass  # Nobody was in a hurry.
        self._hurry.clear()

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """A failure is told once and tried again at the next poll."""
        try:
            await step()
        except (RehydraError, OSError) as error:
            if self.failure != str(error):
                log.warning("the edge isn't true: %s", error)
            self.failure = str(error) or type(error).__name__
        else:
            self.failure = ""

    # --- the table ----------------------------------------------------------------------------------------------

    async def _read_table(self) -> bool:
        """Whether the ring has changed. A store that doesn't answer changes nothing."""
        asked = time.monotonic()
        try:
            table = await asyncio.to_thread(self._store.table)
        except RehydraError as error:
            log.debug("the table can't be read: %s", error)
            return False
        self._read_at = asked
        return self._take(table)

    def _reads(self) -> bool:
        # A host calls itself unheard ``beat_ttl_s`` after its last beat, and beats are at most a third of that apart.
        return time.monotonic() - self._read_at <= self._settings.ring.beat_ttl_s / 2

    def _take(self, table: Table) -> bool:
        if not table.members or _same(table, self.ring):
            return False
        self.ring = Ring.of(table, self._settings.ring.vnodes)
        return True

    # --- HAProxy, under the lock --------------------------------------------------------------------------------

    async def _ensure(self, *, replace: bool = True) -> bool:
        servers = await self._servers()
        config = render(self._settings, self._haproxy.paths, servers.values())
        ring = self.ring
        lines = partial(shard_map, ring.slot_of_shard)
        started = await asyncio.to_thread(self._haproxy.ensure, config, lines, replace=replace)
        self._pid = await asyncio.to_thread(self._haproxy.pid)
        # One that ran already may hold any map: it is swapped once. One that was started has read ours.
        self._mapped = ring.slot_of_shard if started else None
        self._incarnations = {m.slot: m.incarnation for m in ring.members} if started else {}
        return started

    async def _revive(self) -> None:
        # Dead; or another Edge, with other settings, has put another one in its place: that Edge is the newer one, and
        # this one about to end, so that one is adopted, or the two would replace each other's for ever.
        if await self._ensure(replace=False):
            self.restarts += 1
            log.warning("HAProxy had died and was started anew, pid %s", self._pid)
        if self.ring.members:
            await self._apply()

    async def _end_hung(self) -> None:
        try:
            await self._hung.note(await self._admin.servers())
        except (RehydraError, OSError) as error:
            log.debug("HAProxy's servers can't be looked at: %s", error)

    async def _apply(self) -> None:
        ring, admin = self.ring, self._admin
        servers, states = await self._servers(), await admin.servers()
        await self._hung.note(states)
        change = change_of(states, servers, self._reborn(ring))
        for server in change.place:
            await self._hung.leave(states[server.slot])
            await admin.place(server.slot, server.address, server.port, server.check_port)
        for slot in change.ready:
            await admin.admit(slot, Admission.READY)
        for server in change.place:
            await admin.trust(server.slot)
        self._incarnations = {member.slot: member.incarnation for member in ring.members}
        if self._mapped != ring.slot_of_shard:
            await admin.swap_map(self._haproxy.paths.map, list(shard_map(ring.slot_of_shard)))
            self._mapped = ring.slot_of_shard
        for slot in change.drain:
            await admin.admit(slot, Admission.DRAIN)
        for slot in change.rest:
            await self._hung.leave(states[slot])
            await admin.admit(slot, Admission.MAINT)
        if change:
            placed = {server.slot: server.address for server in change.place}
            log.info("ring", extra={"ring_version": ring.ring_version, "placed": placed, "drained": list(change.drain)})

    def _reborn(self, ring: Ring) -> frozenset[str]:
        known = self._incarnations
        return frozenset(m.slot for m in ring.members if known.get(m.slot, m.incarnation) != m.incarnation)

    async def _servers(self) -> dict[str, Server]:
        """slot -> server; HAProxy takes addresses, not names. Whose name can't be found, is left out."""
        found = {}
        for member in self.ring.members:
            try:
                address = await _address_of(member)
            except OSError as error:
                log.warning("%s's address %s can't be found: %s", member.slot, member.address, error)
            else:
                found[member.slot] = server_of(member, address)
        return found


def _same(table: Table, ring: Ring) -> bool:
    return table.ring_version == ring.ring_version and set(table.members.values()) == set(ring.members)


async def _address_of(member: Member) -> str:
    host = member.address.rpartition(":")[0].strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
