"""One host from its first beat to its last: the store, the agent, the sessions, the listener and the beats, joined.

:class:`HostLife` needs no Ray: ``deploy.host`` runs it as a plain process. :class:`SessionHost` is the same life as
the replica of a Ray Serve deployment, which ``deploy.app`` makes of it.

On the event loop: requests, sessions, and the policy of the beats. In threads of their own: the beats, the health
check, and agents that are plain functions. The order of the end is what clients notice: the host leaves the table,
then its sessions leave it, then the listener closes, and only then do the beats fall silent. Nobody needs that end
(I9): a host that is killed has its sessions taken over.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from actors.agent import load_agent
from actors.api import Api
from actors.asgi import AsgiApp
from actors.beats import Beats, Policy
from actors.errors import RehydraError
from actors.host import Host
from actors.listener import Listener
from actors.logs import write_logs
from actors.model import HostRef, HostState, Table, incarnation_of
from actors.peers import HttpPeers
from actors.ports import Placement
from actors.settings import RingSettings, Settings, of_this_host
from actors.stores import open_guard, open_store, unfit_store
from actors.stores.guard import Guard

log = logging.getLogger("rehydra.replica")

_JOIN_S = 10.0
"""How long a start waits for a place on the ring. Without one the host goes on as a spare."""
_LISTENER_GRACE_S = 5.0
"""How long requests that are still being answered may take once the sessions have left."""
_RELEASE_S = 5.0
"""How long sessions that were asked for while the host left may take to leave it, too."""
_BEATS_GRACE_S = 5.0


class View(Placement, Policy, Protocol):
    """The ring and the membership as one host sees them, and whom to tell when they change: ``router.routing``."""

    ref: HostRef
    on_ring: Callable[[], None]
    on_slot: Callable[[HostRef], None]
    hurry: Callable[[], None]

    @property
    def table(self) -> Table: ...


FIT_S: Final = 1.0
"""How long it is believed that the store is fit, or isn't."""
MakeView = Callable[[HostRef, RingSettings, Callable[[], float]], View]
"""``router.routing.HostView``: handed in, because the runtime doesn't import the router."""


class HostLife:
    """Everything of one host. ``start`` it once and ``end`` it once, on the same event loop."""

    def __init__(self, settings: Settings, make_view: MakeView) -> None:
        """``settings`` are everybody's; Misconfigured if this environment's own weight is none."""
        self.settings = settings = of_this_host(settings, os.environ)
        self.host: Host
        self.guard: Guard | None = None
        self.app: AsgiApp = Api(self)
        self._make_view = make_view
        self._left = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._look: asyncio.Task[str] | None = None
        self._looked_at = 0.0

    async def start(self) -> None:
        """Open the store, listen, beat, and wait a while for a place on the ring. Misconfigured says why not."""
        settings = self.settings
        agent = load_agent(settings.agent.path)
        self._store, membership = await open_store(settings)
        self.guard = await open_guard(settings)
        self._listener = Listener(self.app, settings.http, own_address())
        ref = HostRef(incarnation_of(os.getpid(), secrets.token_hex(6)), "", self._listener.bind())
        self.view = self._make_view(ref, settings.ring, time.monotonic)
        self._threads = ThreadPoolExecutor(settings.agent.threads_max, "rehydra-agent")
        self._peers = HttpPeers(settings)
        self.host = Host(
            ref,
            self._store,
            agent,
            self.view,
            self._peers,
            settings,
            new_token=lambda: secrets.token_hex(8),
            now_ms=lambda: time.time_ns() // 1_000_000,
            threads=self._threads,
        )
        self._beats = Beats(
            membership, self.view, ref.incarnation, ref.address, settings.ring, health_bind=_host_of(ref.address)
        )
        self.view.on_slot, self.view.on_ring, self.view.hurry = self._take_slot, self._take_ring, self._beats.hurry
        await self._listener.start()
        await self._beats.start()
        await self._wait_listed()
        spare_the_collector()

    async def _wait_listed(self) -> None:
        try:
            async with asyncio.timeout(_JOIN_S):
                # Serve's own proxy hears of the slot once, after the start. The edge hears of every change.
                await self._beats.wait_listed(or_spare=self.settings.edge.kind == "haproxy")
        except TimeoutError:
            log.warning("no word from the store yet on a place on the ring")
        if not self.host.ref.slot:
            log.warning("no slot is free; this host waits as a spare")

    # --- actors.service.Service -------------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        table = self.view.table
        return table if table.ring_version >= 0 else Table(0)

    async def not_ready(self) -> Sequence[str]:
        """Why this host can't run turns now, one sentence each; empty if it can."""
        reasons = []
        if self._ending is not None:
            reasons.append("The host is leaving.")
        elif self.view.state is not HostState.SERVING:
            reasons.append("The host has no slot on the ring.")
        if not self.view.trusted():
            reasons.append("The store hasn't accepted the host's beats lately.")
        elif unfit := await self._unfit_store():
            reasons.append(unfit)
        if not self.table.members:
            reasons.append("The ring is empty.")
        if stuck := self.host.overdue():
            reasons.append(f"{stuck} sessions are stuck: their turns are overdue.")
        return reasons

    async def _unfit_store(self) -> str:
        """The last look at the store, or one for all who ask now: each is a connection, and anybody may ask."""
        now = asyncio.get_running_loop().time()
        if self._look is None or (self._look.done() and now - self._looked_at >= FIT_S):
            self._looked_at = now
            self._look = asyncio.create_task(unfit_store(self.settings))
        return await asyncio.shield(self._look)

    def ailing(self) -> str:
        """Why this host should be replaced; "" if it needn't. A store that is away is no reason: it is away for all."""
        return "" if self._beats.alive() else "its event loop has stalled"

    def shown(self) -> dict[str, Any]:
        """Where this host is, for whoever started it."""
        ref = self.host.ref
        return {
            "address": ref.address,
            "health_port": self._beats.health_port,
            "incarnation": ref.incarnation,
            "slot": ref.slot,
        }

    # --- end --------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Leave: table, sessions, listener, beats, in that order, within :func:`end_s`. Idempotent."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        self._beats.drain()
        await self._wait_left()
        await self.host.drain(self.settings.session.drain_stream_s)
        # The edge may send requests here until it has seen the new table; they are passed on, not refused.
        await asyncio.sleep(2 * self.settings.edge.poll_s)
        await self._listener.aclose(_LISTENER_GRACE_S)
        # What came by until then may have brought sessions here once more.
        await self.host.drain(_RELEASE_S)
        await self._beats.stop(_BEATS_GRACE_S)
        await self.host.close()
        for each in (self._peers, self._store, self.guard):
            if each is not None:
                await each.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_left(self) -> None:
        """Until the ring no longer names this host; or its store hangs, and the others find out by themselves."""
        try:
            async with asyncio.timeout(self.settings.ring.beat_ttl_s):
                if self.host.ref.slot:
                    await self._left.wait()
        except TimeoutError:
            log.warning("the host leaves without the table having said so")

    # --- the ring has changed ---------------------------------------------------------------------------------------

    def _take_slot(self, ref: HostRef) -> None:
        log.info("slot", extra={"slot": ref.slot, "incarnation": ref.incarnation, "address": ref.address})
        self.host.ref = ref
        if ref.slot:
            self._left.clear()
        else:
            self._left.set()

    def _take_ring(self) -> None:
        self.host.ring_changed()


FULL_COLLECTION_AFTER = 100
"""Middle collections between two full ones of Python's garbage collector; its own default is 10."""


class SessionHost:
    """The replica of a Ray Serve deployment: one :class:`HostLife`, made and ended as Serve asks."""

    async def __init__(self, settings: Settings, make_view: MakeView, *_companions: Any) -> None:  # type: ignore[misc]
        """Serve awaits this on the loop on which it also calls everything else.

        ``_companions``: handles of deployments that belong to the application and that hosts have no use for.
        """
        write_logs(settings.log, "host")
        life = HostLife(settings, make_view)
        await life.start()
        # Not before: what hasn't begun has nothing to end.
        self._life = life

    def __serve_build_asgi_app__(self) -> AsgiApp:
        """Serve's own proxy gets the same application as the host's listener."""
        return self._life.app

    def record_replica_metadata(self) -> dict[str, Any]:
        """Called by Serve once, after the start: what ``router.serve_adapter`` makes its ring of."""
        life = self._life
        ref = life.host.ref
        return {
            "incarnation": ref.incarnation,
            "slot": ref.slot,
            "address": ref.address,
            "weight": life.settings.ring.host_weight,
            "ring_version": life.view.table.ring_version,
        }

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve every ``metrics_interval_s`` where it autoscales: what ``deploy.autoscale`` decides by."""
        stats = self._life.host.stats()
        return {"resident": stats["resident"], "busy": stats["busy"]}

    async def check_health(self) -> None:
        """Called by Serve; raising has the replica replaced."""
        if ailing := self._life.ailing():
            raise RehydraError(f"The host is no longer of use: {ailing}.")

    async def __del__(self) -> None:
        """Called by Serve when the replica is to stop, before it is killed; not by Python, whose call is a no-op."""
        if (life := getattr(self, "_life", None)) is not None:
            await life.end()


def spare_the_collector() -> None:
    """Call it once everything that lives as long as the process is there: it isn't looked at again and again.

    And full collections become ten times rarer. One walks over all that is resident, 3 µs for each session, while
    nobody is answered; a host that takes over thousands would have several. What is garbage goes at once if nothing in
    it points back, as in all of a session, and otherwise in a young collection; an older cycle, such as an agent may
    make in a long turn, waits for a full one: 700,000 further objects at most.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)


def end_s(settings: Settings) -> float:
    """The longest that :meth:`HostLife.end` takes, seconds."""
    leaving_s = settings.ring.beat_ttl_s + settings.session.drain_stream_s + 2 * settings.edge.poll_s
    return leaving_s + 2 * _LISTENER_GRACE_S + _RELEASE_S + _BEATS_GRACE_S


def own_address() -> str:
    """The address under which other nodes reach this one; 127.0.0.1 without a network. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
