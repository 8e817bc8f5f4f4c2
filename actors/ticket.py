"""One turn on its way through this host, and everybody here who waits for it.

A ticket belongs to at most one activation at a time; requests attach to it and may go away again without any effect on
the turn. Everything here runs on the event loop; nothing awaits while it changes a ticket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.errors import RehydraError
from actors.model import HostRef, TurnRequest
from actors.ports import Done

if TYPE_CHECKING:
    from actors.session import Activation

log = logging.getLogger("rehydra.turn")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Not to be answered here: ``to`` holds the lease, or is about to."""

    to: HostRef


class Ticket:
    """A waiting or running turn. ``pieces`` are what the running attempt has said so far."""

    __slots__ = (
        "_enders",
        "_made",
        "_pausing",
        "_waiters",
        "activation",
        "attached",
        "end",
        "epoch",
        "generation",
        "handed_over",
        "pieces",
        "request",
        "restarts",
        "shared",
    )

    def __init__(self, request: TurnRequest, activation: Activation) -> None:
        self.request = request
        self.activation = activation
        """Whose turn it is now."""
        self.attached = 0
        """Requests of this host that wait for it now."""
        self.restarts = 0
        """How often its turn was run anew because its commit stayed unknown."""
        self.shared = False
        """Another host has, or may have, this turn too: what happens here no longer tells that it isn't done."""
        self.handed_over = 0
        """It came in a batch, to be run under this epoch: a holder has accepted it, and its requesters are still on
        their way here. Under any later epoch they may have had another answer (I10). 0: they are here, or have been."""
        self.epoch = 0
        """Epoch of the running attempt; 0 while none runs."""
        self.generation = 0
        """Grows when an attempt is voided: what was streamed before counts no longer."""
        self.pieces: list[str] = []
        self.end: Done | RehydraError | Elsewhere | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._pausing: list[asyncio.Future[None]] = []
        self._enders: list[asyncio.Future[None]] = []
        self._made = asyncio.get_running_loop().time()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it, or is about to."""
        return self.attached > 0 or self.handed_over > 0

    def attach(self) -> None:
        """One more request of this host waits for it."""
        self.attached += 1
        self.handed_over = 0

    def detach(self) -> None:
        """A request has its answer, or has gone; the turn goes on."""
        self.attached -= 1

    def begin(self, epoch: int) -> None:
        """An attempt starts to run."""
        self.epoch = epoch
        self.notify()

    def say(self, piece: str) -> None:
        """The running attempt says something, not yet durable."""
        self.pieces.append(piece)
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            _wake(waiters)

    def void(self, activation: Activation) -> None:
        """The attempt came to nothing and another will follow, by ``activation``."""
        self.activation = activation
        self.generation += 1
        self.epoch = 0
        self.pieces = []
        self.notify()

    def finish(self, end: Done | RehydraError | Elsewhere) -> None:
        """The one end of this ticket; a second one is a bug."""
        assert self.end is None, f"turn {self.request.turn_id} ended twice"
        self.end = end
        self.notify()
        _wake(self._enders)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("turn", extra=self._told(end))

    def _told(self, end: Done | RehydraError | Elsewhere) -> dict[str, object]:
        """For the log: what became of it, and none of its words."""
        told = {"session": str(self.request.key), "turn_id": self.request.turn_id, "waiting": self.attached}
        told["ms"] = round((asyncio.get_running_loop().time() - self._made) * 1000, 1)
        if isinstance(end, Done):
            return told | {
                "end": "done",
                "turn_seq": end.turn.turn_seq,
                "epoch": end.turn.epoch,
                "replayed": end.replayed,
            }
        if isinstance(end, Elsewhere):
            return told | {"end": "elsewhere", "to": end.to.slot}
        return told | {"end": end.code, "outcome": end.outcome.value}

    def notify(self) -> None:
        """Wake everybody who waits for a change."""
        waiting, self._waiters, self._pausing = self._waiters + self._pausing, [], []
        _wake(waiting)

    async def changed(self) -> None:
        """Wait for the next change. The caller looks at the ticket again before it waits again, without an await
        in between: that is what makes a missed wake-up impossible."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def pause(self, seconds: float) -> None:
        """Wait so long, or for a change other than that more is said. What is said meanwhile wakes nobody, which is
        most of what a piece would cost."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._pausing.append(waiter)
        over = loop.call_later(seconds, _wake, (waiter,))
        try:
            await waiter
        finally:
            over.cancel()
            if waiter in self._pausing:
                self._pausing.remove(waiter)

    async def ended(self) -> Done | RehydraError | Elsewhere:
        """Wait for the end alone; how it ended."""
        if self.end is None:
            waiter = asyncio.get_running_loop().create_future()
            self._enders.append(waiter)
            await waiter
        assert self.end is not None
        return self.end


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
