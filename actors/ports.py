"""What a host needs from outside: who is where, how to reach them, and whoever waits for an answer.

Structural types only, so that the production parts (``router.routing``, ``actors.peers``, ``actors.api``) and the
simulation's can stand in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from actors.errors import RehydraError
from actors.model import HostRef, Sealed, SessionKey, Turn, TurnRequest


class Residence(StrEnum):
    """How a turn found its session: the ``X-Session-State`` of the answer."""

    NEW = "new"
    RESIDENT = "resident"
    REHYDRATED = "rehydrated"


@dataclass(frozen=True, slots=True)
class Done:
    """A committed turn, ready to be told. ``replayed``: it was committed by an earlier request. ``sealed``: what its
    client keeps, of a sealed conversation."""

    turn: Turn
    replayed: bool
    residence: Residence
    sealed: Sealed | None = None


Final = Done | RehydraError
"""How a request ends for its client."""


class Requester(Protocol):
    """Whoever waits for one turn: an HTTP request, or a client of the simulation.

    ``stream``: it wants ``turn`` and ``delta`` as they come; otherwise only ``finish`` is called. Nothing may be
    repeated elsewhere silently once ``begun`` is true: a new ``turn`` then voids what was streamed before.
    """

    stream: bool

    @property
    def begun(self) -> bool:
        """Whether bytes have been sent."""
        ...

    async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None:
        """The turn starts (or starts again) under ``epoch``, in a session that was found so."""
        ...

    async def delta(self, text: str) -> None:
        """A piece of the reply, not yet durable."""
        ...

    def quiet_s(self) -> float:
        """For how long, from now on, it needn't be told of further pieces; then it is told all of them at once."""
        ...

    async def finish(self, final: Final) -> None:
        """The one and only final answer."""
        ...


class Passed(StrEnum):
    """How passing a request on to another host ended."""

    FINISHED = "finished"
    """The requester has its final answer."""
    REFUSED = "refused"
    """Nobody listens at that address: the connection was refused. The request was not taken."""
    STRANGER = "stranger"
    """Another incarnation listens at that address: the one that was asked for is dead."""
    BROKEN = "broken"
    """The connection broke before the final answer: whether the request was taken is unknown."""


class Peers(Protocol):
    """The other hosts."""

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        """Have ``to`` serve the request and hand its answer through, deltas included. ``hops`` counts this one."""
        ...

    async def hand_off(self, to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        """Give ``to`` the waiting turns, in order, to be run under the epoch ``under`` and no other. True: it has them.
        False: it may or may not have them."""
        ...

    async def tell_deleted(self, to: HostRef, key: SessionKey) -> bool:
        """Have ``to`` forget what it has of a session that was deleted. False: it may or may not have."""
        ...


class Placement(Protocol):
    """The ring and the membership as this host sees them. A hint, save for ``is_dead``, which costs work if wrong."""

    @property
    def ring_version(self) -> int: ...

    def owner(self, session_id: str) -> HostRef | None:
        """Whom the ring names, or None while the ring is empty or unknown."""
        ...

    def heir(self, session_id: str) -> HostRef | None:
        """Whom the ring will name once the owner is off it, if the owner is known to be dead; else None."""
        ...

    def is_dead(self, host: HostRef) -> bool:
        """Known to be dead: see DESIGN §3, "Dead means". Never true of a host that says it is draining."""
        ...

    def heard(self, ring_version: int) -> None:
        """Another host goes by that ring: news, if it is newer than this one's."""
        ...

    def refused(self, host: HostRef, stranger: bool = False) -> None:
        """Its address refused a connection (or a stranger answered there): evidence, weighed with its beats."""
        ...

    async def wait_dead(self, host: HostRef) -> None:
        """Return once ``is_dead(host)``; else wait for ever."""
        ...

    async def surely_dead(self, host: HostRef) -> bool:
        """``is_dead`` by news that was asked for after this call: what may be acted on against a lease. A verdict of
        silence is as old as the last beat, and its host may have come back, and claimed, since."""
        ...

    def trusted(self) -> bool:
        """Whether this host's own last accepted beat was sent within ``beat_ttl_s``: if not, it may be a ghost (I8)."""
        ...

    @property
    def lapses(self) -> int:
        """How often this host has not been trusted so far: two accepted beats were sent more than ``beat_ttl_s``
        apart. Whoever saw another number must ask the store whether its lease still stands."""
        ...

    async def wait_trusted(self) -> None:
        """Return once ``trusted()``."""
        ...
