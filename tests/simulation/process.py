"""One simulated host process: the production ``Host`` and ``HostView``, a beat thread, and its lanes.

The beat thread follows ``actors.beats.Beats`` call by call; only its waiting differs, because threads can't be
simulated. ``main`` is the event loop's thread, ``beats`` the beat thread's: a stalled loop is a frozen ``main``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actors.host import Host
from actors.model import BeatReply, HostRef, Member, Table
from router.membership import Orders
from router.ring import Ring
from router.routing import HostView
from tests.simulation.history import Gauge, Process
from tests.simulation.loop import Lane
from tests.simulation.network import SimPeers
from tests.simulation.store_faults import SimMembership, SimStore

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TICK_S = 0.5
SPACING_S = 0.05


class SimProcess:
    """From start to death. Everything that it does, it does in its own lanes."""

    host: Host
    view: HostView

    def __init__(self, cluster: Cluster, number: int, address: str) -> None:
        self.cluster = cluster
        self.name = self.incarnation = f"host{number}"
        self.address = address
        self.main = Lane(cluster.loop, self.name)
        self.beats = Lane(cluster.loop, f"{self.name}/beats")
        self.crashed = False
        self.frozen = False
        self.stalled = False
        self.buried = False
        """Frozen for good."""
        self.closed = False
        """It no longer listens."""
        self.draining = False
        self.stale = False
        """It doesn't learn of new tables."""
        self.membership = SimMembership(cluster.store, self)
        self._tokens = itertools.count(1)
        self._orders: Orders | None = None
        self._ticked = cluster.loop.time()
        self._woken = asyncio.Event()
        self._stopping = False
        self.main.context.copy().run(self._start)

    def _start(self) -> None:
        cluster = self.cluster
        ref = HostRef(self.incarnation, "", self.address)
        self.view = HostView(
            ref, cluster.settings.ring, cluster.loop.time,
            on_ring=self._ring_changed, on_slot=self._slot_changed, hurry=self._woken.set,
        )  # fmt: skip
        self.host = Host(
            ref, SimStore(cluster.store, self), cluster.agent_of(self), self.view, SimPeers(cluster.network, self),
            cluster.settings, self._new_token, lambda: int(cluster.loop.time() * 1000),
        )  # fmt: skip
        self._keep_ticking()
        self.beats.spawn(self._beat_thread(), "beats")
        self._note("started")

    def _note(self, what: str) -> None:
        self.cluster.history.add(Process(self.name, what))

    def _new_token(self) -> str:
        return f"{self.name}t{next(self._tokens)}"

    def _ring_changed(self) -> None:
        self.host.ring_changed()

    def _slot_changed(self, ref: HostRef) -> None:
        self.host.ref = ref

    # --- the beat thread ----------------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        self._ticked = self.cluster.loop.time()
        self.cluster.loop.call_later(TICK_S, self._keep_ticking)

    def _alive(self) -> bool:
        return self.cluster.loop.time() - self._ticked <= self.cluster.settings.ring.loop_stall_s

    async def _beat_thread(self) -> None:
        clock = self.cluster.loop.time
        interval_s = self.cluster.settings.ring.beat_interval_s
        due = clock()
        while not self._stopping:
            started = clock()
            if self._alive():
                await self._cycle()
            due = max(due + interval_s, clock())
            try:
                async with asyncio.timeout(max(0.0, due - clock())):
                    await self._woken.wait()
                    due = clock()
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, started + SPACING_S - clock()))
            self._woken.clear()
        await self.membership.leave(self.incarnation, gone=True)
        self._note("left")

    async def _cycle(self) -> None:
        orders, self._orders = self._orders, None
        if orders is not None:
            await self._carry_out(orders)
        sent = self.cluster.loop.time()
        reply = await self.membership.beat(self.view.state, self.view.known_ring_version)
        if reply is not None:
            self.main.call(0.0, self._take_answer, reply, sent, self.cluster.loop.time())

    async def _carry_out(self, orders: Orders) -> None:
        clock = self.cluster.loop.time
        for slot, incarnation in orders.evict:
            if clock() <= orders.expires:
                await self.membership.evict(slot, incarnation)
        for incarnation in orders.forget:
            if clock() <= orders.expires:
                await self.membership.leave(incarnation, gone=True)
        if orders.leave:
            await self.membership.leave(self.incarnation)
        elif orders.join and not self.draining:
            await self.membership.join(self.cluster.settings.ring.slots_max)

    def _take_answer(self, reply: BeatReply, sent: float, received: float) -> None:
        if self.stale:
            reply = replace(reply, table=None)
        orders = self.view.replied(reply, sent, received)
        self._orders = orders
        if orders:
            self._woken.set()

    # --- what happens to it -------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        return not (self.crashed or self.frozen or self.stalled)

    def crash(self) -> None:
        """SIGKILL."""
        if self.crashed:
            return
        self.crashed = True
        self._note("crashed")
        self.main.crash()
        self.beats.crash()
        self.cluster.network.broken_by(self)

    def insist(self, owner: SimProcess | None = None) -> None:
        """Its ring has one member: itself, or ``owner``."""
        owner = owner or self
        if not self.crashed and owner.view.ref.slot:
            self.stale = True
            alone = Member(owner.view.ref.slot, owner.incarnation, owner.address, 1)
            ring = Ring.of(Table(self.view.ring_version, {alone.slot: alone}), self.cluster.settings.ring.vnodes)
            self.main.call(0.0, self._use, ring)

    def agree(self) -> None:
        """It learns of tables again, and uses the last that it has heard of."""
        if self.stale and not self.crashed:
            self.stale = False
            ring = Ring.of(self.view.observer.table, self.cluster.settings.ring.vnodes)
            self.main.call(0.0, self._use, ring)

    def _use(self, ring: Ring) -> None:
        self.view.ring = ring
        self.view.on_ring()

    def freeze(self) -> None:
        """SIGSTOP."""
        if not self.crashed and not self.frozen:
            self.frozen = True
            self._note("frozen")
            self.main.freeze()
            self.beats.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if not self.crashed and self.frozen:
            self.frozen = False
            self._note("thawed")
            self.beats.thaw()
            if not self.stalled:
                self.main.thaw()

    def stall(self, duration_s: float) -> None:
        """The agent blocks the event loop; the beat thread goes on."""
        if not self.crashed and not self.stalled:
            self.stalled = True
            self._note("stalled")
            self.main.freeze()
            self.cluster.loop.world.call(duration_s, self._unstall)

    def _unstall(self) -> None:
        self.stalled = False
        if not self.crashed:
            self._note("unstalled")
            if not self.frozen:
                self.main.thaw()

    def drain(self) -> None:
        """SIGTERM: leave the ring, hand everything over, end."""
        if not self.crashed and not self.draining:
            self.draining = True
            self._note("draining")
            self.main.spawn(self._leave(), "drain")

    async def _leave(self) -> None:
        self.view.drain()
        patience_s = self.cluster.settings.session.drain_stream_s
        await self.host.drain(patience_s)
        # The listener closes once its open requests are answered, and what they activated is released as well.
        until = self.cluster.loop.time() + patience_s
        while self.cluster.network.serves(self) and self.cluster.loop.time() < until:
            await asyncio.sleep(0.05)
        self.closed = True
        await self.host.drain(patience_s)
        await self.host.close()
        self._stopping = True
        self._woken.set()
        await asyncio.sleep(2 * self.cluster.settings.ring.beat_interval_s)
        self.cluster.loop.world.call(0.0, self.crash)

    def gauge(self) -> None:
        """Note how much is in memory."""
        activations: list[Any] = list(self.host._residents._activations.values())
        tickets = [ticket for each in activations for ticket in (each.running, *each.mailbox) if ticket is not None]
        self.cluster.history.add(
            Gauge(
                self.name,
                max((len(each.mailbox) for each in activations), default=0),
                max((ticket.attached for ticket in tickets), default=0),
                len(activations),
                sum(not each.idle for each in activations),
            )
        )


Start = Callable[[], SimProcess]
