"""The ring and the membership as one host sees them: ``Placement`` for the session runtime.

Lives on one thread (the event loop's; in the simulation the simulator's) and never waits: the beat thread feeds it
with the store's answers by ``replied`` and takes the returned orders away. Everything it says is a hint but for
``is_dead``, which costs work if wrong. It reads no clock of its own: ``now`` is given, and must be the clock of the
times that ``replied`` gets.

What it deliberately does not do: talk to the store, decide who may write, or keep sessions' addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from actors.model import BeatReply, HostRef, HostState, Table
from actors.settings import RingSettings
from router.membership import Observer, Orders
from router.ring import EMPTY, Ring


def _nothing(*_: object) -> None:
    pass


class HostView:
    """What one host knows of the others. ``on_slot`` and ``on_ring`` are called when its slot or the ring changed."""

    def __init__(
        self,
        ref: HostRef,
        settings: RingSettings,
        now: Callable[[], float],
        *,
        on_ring: Callable[[], None] = _nothing,
        on_slot: Callable[[HostRef], None] = _nothing,
        hurry: Callable[[], None] = _nothing,
    ) -> None:
        """``hurry`` asks for a beat at once, because somebody waits for news."""
        self.ref = ref
        self.ring: Ring = EMPTY
        self._heirs: Ring = EMPTY
        """The ring without those of it who are dead, as it was last asked for."""
        self.observer: Final = Observer(ref.incarnation, settings)
        self.on_ring = on_ring
        self.on_slot = on_slot
        self.hurry = hurry
        self._vnodes = settings.vnodes
        self._now = now
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._due: asyncio.TimerHandle | None = None
        self._asking: list[asyncio.Future[None]] = []

    # --- for the session runtime (actors.ports.Placement) ---------------------------------------------------------

    @property
    def ring_version(self) -> int:
        """Of the ring in use; -1 before the table was read."""
        return self.ring.ring_version

    def owner(self, session_id: str) -> HostRef | None:
        """Whom the ring names, or None while it is empty or unknown."""
        return self.ring.owner(session_id)

    def heir(self, session_id: str) -> HostRef | None:
        """Whom the ring will name once those who are dead are off it; None if its owner isn't one of them."""
        owner = self.ring.owner(session_id)
        if owner is None or not self.is_dead(owner):
            return None
        living = {member.slot: member for member in self.ring.members if not self.is_dead(member.ref)}
        if self._heirs.members != tuple(living.values()):
            self._heirs = Ring.of(Table(self.ring.ring_version, living), self._vnodes)
        return self._heirs.owner(session_id)

    @property
    def table(self) -> Table:
        """The membership table that the ring was made of."""
        return self.observer.table

    def is_dead(self, host: HostRef) -> bool:
        """See DESIGN §3, "Dead means". False while this host's own beats are not accepted: it may be the ghost."""
        return self.observer.is_dead(host.incarnation, self._now())

    def heard(self, ring_version: int) -> None:
        """Another host goes by that ring: the table is looked at at once if it is newer than this one's."""
        if ring_version > self.ring_version:
            self.hurry()

    def refused(self, host: HostRef, stranger: bool = False) -> None:
        """Its address refused a connection, or a stranger answered there."""
        self.observer.refused(host.incarnation, self._now(), stranger)
        self._wake()
        self.hurry()

    async def wait_dead(self, host: HostRef) -> None:
        """Return once ``is_dead(host)``; else wait for ever."""
        while not self.is_dead(host):
            # Nobody becomes dead by the mere passing of time: only an answer or a refusal changes the verdict.
            await self._answer_for(host.incarnation)

    async def surely_dead(self, host: HostRef) -> bool:
        """``is_dead`` by the answer to a beat that was sent after this call; at once if its address refused."""
        asked = self._now()
        while self.is_dead(host) and not self.observer.is_refused(host.incarnation):
            if self.observer.sent > asked:
                return True
            await self._next_answer()
        return self.is_dead(host)

    def trusted(self) -> bool:
        """Whether an own beat sent within ``beat_ttl_s`` was accepted."""
        return self.observer.trusted(self._now())

    @property
    def lapses(self) -> int:
        """How often trust was lost so far, or this host evicted: whoever saw another number must ask the store."""
        return self.observer.lapses

    async def wait_trusted(self) -> None:
        """Return once ``trusted()``."""
        while not self.trusted():
            await self._answer_for("")

    # --- for the beat thread (actors.beats.Policy) ----------------------------------------------------------------

    @property
    def known_ring_version(self) -> int:
        """What the next beat says it knows. Safe to read from any thread.

        -1, which brings the table, when the store's word on this host contradicts it: a store that lost its tail may
        have come to the same number with other members.
        """
        table = self.observer.table
        agreed = self.observer.listed == (table.slot_of(self.ref.incarnation) is not None)
        return table.ring_version if agreed else -1

    @property
    def state(self) -> HostState:
        """What the next beat says of this host. Safe to read from any thread."""
        if self.observer.draining:
            return HostState.DRAINING
        return HostState.SERVING if self.observer.listed else HostState.SPARE

    @property
    def crowded_out(self) -> bool:
        """Whether all slots are others', so that this host waits as a spare."""
        return self.observer.crowded_out

    def drain(self) -> None:
        """This host is leaving: it says so with every beat, gives its slot back and takes none any more."""
        self.observer.draining = True
        self.hurry()

    def replied(self, reply: BeatReply, sent: float, received: float) -> Orders:
        """The store accepted the beat sent at ``sent``. Applies what it says, then tells the host."""
        before = self.observer.table
        orders = self.observer.replied(reply, sent, received)
        if reply.table is not None and reply.table != before:
            self._change(Ring.of(reply.table, self._vnodes))
        self._wake()
        self._watch()
        asking, self._asking = self._asking, []
        for answered in asking:
            if not answered.done():
                answered.set_result(None)
        return orders

    # --- inside -------------------------------------------------------------------------------------------------

    def _change(self, ring: Ring) -> None:
        self.ring = ring
        slots = (member.slot for member in ring.members if member.incarnation == self.ref.incarnation)
        ref = HostRef(self.ref.incarnation, next(slots, ""), self.ref.address)
        if ref != self.ref:
            # The slot first: whoever moves sessions must already speak under the new name.
            self.ref = ref
            self.on_slot(ref)
        self.on_ring()

    async def _answer_for(self, incarnation: str) -> None:
        """Return when the verdict on that host may have changed; ``""`` stands for the trust in this one."""
        woken = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(incarnation, set())
        waiting.add(woken)
        self.hurry()
        self._watch()
        try:
            await woken
        finally:
            waiting.discard(woken)
            if not waiting and self._waiting.get(incarnation) is waiting:
                del self._waiting[incarnation]

    async def _next_answer(self) -> None:
        answered = asyncio.get_running_loop().create_future()
        self._asking.append(answered)
        self.hurry()
        await answered

    def _watch(self) -> None:
        """Have a beat at the very moment at which somebody who is waited for can be found dead: the regular one would
        come up to a beat's interval later, and just before the silence was long enough."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = min((self.observer.dead_from(name) for name in self._waiting if name), default=float("inf"))
        if due < float("inf"):
            self._due = asyncio.get_running_loop().call_later(max(0.0, due - self._now()) + 0.001, self.hurry)

    def _wake(self) -> None:
        now = self._now()
        for incarnation, waiting in list(self._waiting.items()):
            if self.observer.is_dead(incarnation, now) if incarnation else self.observer.trusted(now):
                for woken in waiting:
                    if not woken.done():
                        woken.set_result(None)
