"""The pulse of a host: a thread that beats, and a thread that answers the edge's health check.

Three things run at the same time and must not wait for each other: the event loop (sessions; an agent may block it for
seconds), the beat thread (the membership store; a hanging Redis may block it for its time-out) and the health thread
(one tiny listener on a port of its own). So an agent that blocks the loop loses no lease and no connection, and a
store that hangs doesn't make the edge drop the host.

The beat thread decides nothing: it carries the store's answers to the policy, which lives on the loop, and carries
the policy's orders to the store. While the loop is blocked, beats go on and answers wait for it, in order. When the
loop has not ticked for ``loop_stall_s`` both threads say so: no more beats, and 503.

What is deliberately absent: retries (the next beat is the retry) and any reading of other hosts' clocks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from actors.errors import RehydraError
from actors.health import Health
from actors.model import BeatReply, HostState
from actors.settings import RingSettings
from actors.stores.base import MembershipStore

log = logging.getLogger(__name__)

_TICK_S = 0.1
"""How often the loop proves that it runs."""
_SPACING_S = 0.05
"""Least time between two beats, however many ask for one at once."""
_SPARES_BEATS = 4
"""How often a host without a slot beats in others' interval: it inherits one, with its requests, between two beats."""


class Orders(Protocol):
    """What to ask of the store before the next beat; see ``router.membership.Orders``."""

    @property
    def expires(self) -> float: ...
    @property
    def join(self) -> bool: ...
    @property
    def leave(self) -> bool: ...
    @property
    def evict(self) -> Sequence[tuple[str, str]]: ...
    @property
    def forget(self) -> Sequence[str]: ...
    def __bool__(self) -> bool: ...


class Policy(Protocol):
    """Who decides: ``router.routing.HostView``. ``replied`` and ``drain`` are called on the loop only."""

    @property
    def known_ring_version(self) -> int: ...
    @property
    def state(self) -> HostState: ...
    @property
    def crowded_out(self) -> bool: ...
    def replied(self, reply: BeatReply, sent: float, received: float) -> Orders: ...
    def drain(self) -> None: ...


class Beats:
    """The beat thread and the health listener of one incarnation. Made and used on the event loop's thread."""

    def __init__(
        self,
        store: MembershipStore,
        policy: Policy,
        incarnation: str,
        address: str,
        settings: RingSettings,
        *,
        health_bind: str = "127.0.0.1",
        health_port: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._policy = policy
        self._incarnation = incarnation
        self._address = address
        self._settings = settings
        self._clock = clock
        self._health = Health(health_bind, health_port, self.alive, self.heard)
        self._thread = threading.Thread(target=self._run, name="rehydra-beats", daemon=True)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._orders: Orders | None = None
        self._ticked = self._accepted = clock()
        self._tick: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._first: asyncio.Event = asyncio.Event()
        self._unanswered = 0
        # Answers on their way to the loop. One that blocks until loop_stall_s fills it at most once: then beats stop.
        self._answers: deque[tuple[BeatReply, float, float]] = deque(
            maxlen=8 + int(settings.loop_stall_s / min(settings.beat_interval_s, settings.loop_stall_s))
        )

    # --- on the loop --------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Answer health checks, then beat; the host joins with its second beat. Returns the health port."""
        self._loop = asyncio.get_running_loop()
        self._keep_ticking()
        port = self._health.open()
        self._thread.start()
        return port

    @property
    def health_port(self) -> int:
        return self._health.port

    async def wait_listed(self, *, or_spare: bool = False) -> None:
        """Return once the host has a slot; ``or_spare``: or is known to have none. Otherwise that may be for ever."""
        while self._policy.state is not HostState.SERVING and not (or_spare and self._policy.crowded_out):
            self._first.clear()
            await self._first.wait()

    def hurry(self) -> None:
        """Beat at once (but not more often than every 50 ms): somebody waits for news. Safe from any thread."""
        self._wake.set()

    def drain(self) -> None:
        """Say so with every beat and give the slot back. Beats and health checks go on until ``stop``."""
        self._policy.drain()
        self.hurry()

    async def stop(self, patience_s: float = 5.0) -> None:
        """Leave for good and end both threads; waits ``patience_s`` at most for a store that hangs. Idempotent."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._stopping.set()
        self._wake.set()
        self._health.close()
        if self._loop is not None:
            await asyncio.to_thread(self._join, patience_s)

    def alive(self) -> bool:
        """Whether the event loop has run within ``loop_stall_s``. Safe from any thread."""
        return self._clock() - self._ticked <= self._settings.loop_stall_s

    def heard(self) -> bool:
        """Whether a beat sent within ``beat_ttl_s`` was accepted, or there was no time for one. From any thread."""
        return self._clock() - self._accepted <= self._settings.beat_ttl_s

    def _join(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        for thread in (self._thread, self._health):
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            log.warning("the beat thread still waits for the store; it ends with the process")

    def _keep_ticking(self) -> None:
        assert self._loop is not None
        self._ticked = self._clock()
        self._tick = self._loop.call_later(_TICK_S, self._keep_ticking)

    def _take_answers(self) -> None:
        while self._answers:
            reply, sent, received = self._answers.popleft()
            orders = self._policy.replied(reply, sent, received)
            self._orders = orders
        self._first.set()
        if self._orders:
            self._wake.set()

    # --- on the beat thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = self._clock()
        while not self._stopping.is_set():
            started = self._clock()
            if self.alive():
                self._cycle()
            # An answer that took long is followed by the next beat at once, not after another interval.
            often = _SPARES_BEATS if self._policy.state is HostState.SPARE else 1
            due = max(due + self._settings.beat_interval_s / often, self._clock())
            if self._wake.wait(due - self._clock()):
                due = self._clock()
            self._stopping.wait(max(0.0, started + _SPACING_S - self._clock()))
            self._wake.clear()
        self._guarded(lambda: self._store.leave(self._incarnation, gone=True))
        self._guarded(self._store.close)

    def _cycle(self) -> None:
        if (orders := self._orders) is not None:
            self._orders = None
            self._guarded(lambda: self._carry_out(orders))
        self._guarded(self._beat)

    def _carry_out(self, orders: Orders) -> None:
        for slot, incarnation in orders.evict:
            if self._clock() <= orders.expires:
                log.warning("evicting %s from %s: it is dead", incarnation, slot)
                self._store.evict(slot, incarnation)
        for incarnation in orders.forget:
            if self._clock() <= orders.expires:
                self._store.leave(incarnation, gone=True)
        if orders.leave:
            self._store.leave(self._incarnation)
        elif orders.join and self._policy.state is not HostState.DRAINING:
            settings = self._settings
            self._store.join(
                self._incarnation, self._address, self._health.port, settings.host_weight, settings.slots_max
            )

    def _beat(self) -> None:
        assert self._loop is not None
        policy = self._policy
        sent = self._clock()
        reply = self._store.beat(self._incarnation, self._address, policy.state, policy.known_ring_version)
        self._accepted = sent
        self._answers.append((reply, sent, self._clock()))
        try:
            self._loop.call_soon_threadsafe(self._take_answers)
        except RuntimeError:
            self._stopping.set()  # The loop is closed: nobody is left to speak for.

    def _guarded(self, call: Callable[[], object]) -> None:
        """One call of the store. Its failure is this thread's everyday life: the next beat tries again."""
        try:
            call()
        except RehydraError as error:
            self._unanswered += 1
            if self._unanswered == 1:
                log.warning("the membership store doesn't answer: %s", error)
        except Exception:
            log.exception("the beat thread goes on after an error that it didn't expect")
        else:
            self._unanswered = 0
