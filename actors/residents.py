"""The map of the activations in a host's memory, and the way out of it.

The map is ordered by use, so that what is idle, or too much, is found without a search. What is to leave is queued
and released by at most ``releases_max`` tasks. There is no await between a look at the map and a change of it (I5).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from actors.lifecycle import Reason
from actors.model import SessionKey
from actors.session import Activation
from actors.settings import SessionSettings

REVIEW_SLICE: Final = 256
"""Sessions looked at between two looks at everything else: under 1 ms."""


class Residents:
    """Activations by key, least recently used first.

    ``must_leave``: why the session with this key shouldn't stay here, if so. ``spawn``: runs a release in a task of the
    host's.
    """

    def __init__(
        self,
        limits: SessionSettings,
        must_leave: Callable[[SessionKey], Reason | None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._limits = limits
        self._must_leave = must_leave
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._activations: OrderedDict[SessionKey, Activation] = OrderedDict()
        self._bytes = 0
        self._to_release: OrderedDict[SessionKey, Reason] = OrderedDict()
        """What is to passivate, in this order; a session stands in it once, however often it is asked for. A plain
        dict's first entry is found by walking over all that were taken before it: 4.5 s for 100,000."""
        self._releasing = 0
        self._reviews = 0
        self._passivated = dict.fromkeys(Reason, 0)
        self._sweeper = self._loop.call_later(self._sweep_interval_s(), self._sweep)

    def __len__(self) -> int:
        return len(self._activations)

    def __iter__(self) -> Iterator[SessionKey]:
        return iter(self._activations)

    def get(self, key: SessionKey) -> Activation | None:
        """The activation that new arrivals of this session go to."""
        return self._activations.get(key)

    def add(self, activation: Activation) -> None:
        """It is used now. Others leave, least recently used first, if the host holds too many."""
        assert activation.key not in self._activations
        self._activations[activation.key] = activation
        activation.last_used = self._loop.time()
        self._shrink()

    def touch(self, key: SessionKey) -> None:
        """It is the most recently used."""
        self._activations.move_to_end(key)

    def remove(self, activation: Activation, reason: Reason) -> None:
        """Out of the map, now; its successor, if there is one already, stays."""
        if self._activations.get(activation.key) is activation:
            del self._activations[activation.key]
        self._bytes -= activation.transcript.size_bytes
        self._passivated[reason] += 1

    def resized(self, delta_bytes: int) -> None:
        """An activation has grown (or shrunk). Others leave, least recently used first, if that is too much."""
        self._bytes += delta_bytes
        if delta_bytes > 0:
            self._shrink()

    def let_go(self, key: SessionKey) -> None:
        """Release it, if it still must leave and is idle when its turn comes."""
        if (reason := self._must_leave(key)) is not None:
            self._passivate(key, reason)

    def review(self) -> None:
        """Something has changed that decides who must leave: queue them, hottest first. Busy sessions notice by
        themselves at the end of their turn.

        A slice of them at a time: each is looked up on the ring, and nobody is answered meanwhile. A session that comes
        in between is judged by itself when it becomes idle; a change in between begins anew.
        """
        self._reviews += 1
        self._spawn(self._review(self._reviews, list(reversed(self._activations))))

    async def _review(self, number: int, keys: Sequence[SessionKey]) -> None:
        for at in range(0, len(keys), REVIEW_SLICE):
            if number != self._reviews:
                return
            for key in keys[at : at + REVIEW_SLICE]:
                if key in self._activations:
                    self.let_go(key)
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop the timer. Idempotent."""
        self._sweeper.cancel()

    def stats(self) -> dict[str, Any]:
        """What is in memory, and what has left it, by reason."""
        return {
            "passivated": {reason.value: count for reason, count in self._passivated.items()},
            "resident": len(self._activations),
            "busy": sum(each.task is not None for each in self._activations.values()),
            "resident_bytes": self._bytes,
            "releasing": len(self._to_release) + self._releasing,
        }

    def overdue(self, limit_s: float) -> int:
        """Sessions whose task has been at one and the same claim or turn for longer than that."""
        before = self._loop.time() - limit_s
        return sum(each.task is not None and each.step_since < before for each in self._activations.values())

    # --- the way out -------------------------------------------------------------------------------------------------

    def _passivate(self, key: SessionKey, reason: Reason) -> None:
        self._to_release.setdefault(key, reason)
        if self._releasing < self._limits.releases_max:
            self._releasing += 1
            self._spawn(self._release_queued())

    async def _release_queued(self) -> None:
        """Release what is queued, one after the other. A session stays in the map, and answers, until its turn comes;
        by then it may be busy again, or gone, or belong here after all."""
        try:
            while self._to_release:
                key, reason = self._to_release.popitem(last=False)
                activation = self._activations.get(key)
                if activation is not None and self._still(reason, activation) and activation.passivate(reason):
                    await activation.release()
        finally:
            self._releasing -= 1

    def _still(self, reason: Reason, activation: Activation) -> bool:
        """Whether what was true when the session was queued is true yet."""
        if reason is Reason.HANDOFF:
            return self._must_leave(activation.key) is not None
        if reason is Reason.IDLE:
            return activation.last_used <= self._loop.time() - self._limits.idle_s
        return True

    def _shrink(self) -> None:
        """Passivate the least recently used idle sessions while the host holds more than it may."""
        surplus = len(self._activations) - self._limits.resident_max - len(self._to_release) - self._releasing
        surplus_bytes = self._bytes - self._limits.resident_bytes_max
        if surplus <= 0 and surplus_bytes <= 0:
            return
        for key, activation in self._activations.items():
            if surplus <= 0 and surplus_bytes <= 0:
                break
            if activation.idle:
                surplus -= 1
                surplus_bytes -= activation.transcript.size_bytes
                self._passivate(key, Reason.CAPACITY)

    def _sweep_interval_s(self) -> float:
        return min(max(self._limits.idle_s / 4, 0.01), 5.0)

    def _sweep(self) -> None:
        """Passivate what has been idle for too long. The map is ordered by use: the first young one ends the look."""
        idle_since = self._loop.time() - self._limits.idle_s
        for key, activation in self._activations.items():
            if activation.last_used > idle_since:
                break
            if activation.idle:
                self._passivate(key, Reason.IDLE)
        self._sweeper = self._loop.call_later(self._sweep_interval_s(), self._sweep)
