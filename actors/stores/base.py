"""The store contract: who may write, what is durable, who is on the ring.

The store decides, never the ring (DESIGN §3). Every call is one atomic step, and a commit one round trip (in Redis
every call is). A repeat of the same call gets an answer that means the same: a commit whose reply was lost answers
``Replayed`` with the very turn that it wrote. A store raises only :class:`~actors.errors.StoreUnavailable`, which means
**unknown**: the call may or may not have been applied.

What a store deliberately does not do: compare clocks of machines, expire leases by time, or retry by itself.
``tests/contract`` is the executable form of this page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from actors.errors import StoreUnavailable
from actors.model import BeatReply, Checkpoint, HostRef, HostState, Lease, Member, SessionKey, Table, Turn

SUSPECTS_BYTES_MAX = 8192
"""Ids of suspects that a store keeps, with a separator each; beyond it the older ones are forgotten."""

# --- answers ----------------------------------------------------------------------------------------------------


class LogDamaged(StoreUnavailable):
    """What the store has of one session can't be its log. Only a hand on its data, or a server that evicts, can do
    this; to go on would fork the session silently. To a client it is a store that can't be reached."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease is yours.

    ``takeovers``: how often it was taken from a dead holder since the last commit or release. ``suspects``: ids of the
    turns that those holders had noted as running (``check``), one for each of them, in the order of the takeovers.
    """

    lease: Lease
    checkpoint: Checkpoint
    takeovers: int = 0
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else holds the lease: pass the request on to ``holder``, or prove it dead and claim ``over`` it."""

    holder: HostRef
    epoch: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """The session was deleted; its tombstone still stands."""


@dataclass(frozen=True, slots=True)
class Buried:
    """The session is deleted, now or by an earlier call. ``holder`` had the lease then, and what memory it has of the
    session is void; None: nobody had."""

    holder: HostRef | None


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such session: never made, or expired."""


@dataclass(frozen=True, slots=True)
class Ok:
    """Done, durably."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """This turn id is in the log already; ``turn`` is what was recorded, which is the answer to give."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Mismatch:
    """This turn id is in the log with another fingerprint."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Epoch or token are not current. ``holder`` is None when nobody holds it (released, or expired: epoch 0)."""

    holder: HostRef | None
    epoch: int
    turn_seq: int


@dataclass(frozen=True, slots=True)
class Regressed:
    """The store has lost what it had confirmed: its log, now ``turn_seq`` long, doesn't begin with the caller's."""

    turn_seq: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """The lease is current but the log has turns that the holder doesn't know: drop the activation, claim again."""

    turn_seq: int


@dataclass(frozen=True, slots=True)
class Turns:
    """A page of committed turns. ``turn_seq`` is that of the session's last turn, whatever the page."""

    turns: Sequence[Turn]
    turn_seq: int


ClaimAnswer = Granted | Held | Deleted
CommitAnswer = Ok | Replayed | Mismatch | Fenced | Regressed | Ahead | Deleted
ReleaseAnswer = Ok | Fenced | Regressed | Deleted
CheckAnswer = Ok | Fenced | Regressed | Deleted | Replayed
DeleteAnswer = Buried | Missing
ReadAnswer = Turns | Deleted | Missing


class SessionStore(Protocol):
    """Leases, logs and states of sessions. Every method may raise ``StoreUnavailable`` (the outcome is unknown)."""

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        """Take the lease and load the session, in one step: all of its turns, or the last ``window`` (1 or more) of
        them. Neither the work nor the answer then depends on how many there are before those.

        Granted when the lease is free, when the session doesn't exist (it then begins: ``epoch`` = ``born`` = the
        store's TIME in ms), when ``host.incarnation`` holds it already (an earlier claim of this host whose
        activation is gone), or when ``over`` = (incarnation, epoch) names the very holder and epoch that stand in
        the lease; only the last counts as a takeover. The new epoch is the old one + 1. The same ``token`` again
        gets the same grant again, with the checkpoint as it is now. Renews the expiry.
        """
        ...

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        """Append ``turn`` and, unless None, replace the state; the only way into the log (I1, I3).

        Checks in this order: deleted; fence (epoch and token); turn id known (same fingerprint: Replayed, other:
        Mismatch); ``turn.turn_seq`` is the next and ``previous_turn_id`` (``""`` before the first) the last. Resets
        ``takeovers``, renews the expiry of all keys of the session. A missing lease answers ``Fenced(None, 0, 0)``:
        the session expired.

        Regressed: the caller's epoch is above the store's; or, within one ``born``, the caller's log (turn_seq - 1
        turns, the last of them ``previous_turn_id``) is not a prefix of the store's.
        """
        ...

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        """Holder := nobody, ``takeovers`` := 0; the epoch stays. A repeat, and a session that expired, answer ``Ok``.

        ``turn_seq`` and ``last_turn_id`` ("" and 0 for none) let the store notice that it regressed.
        """
        ...

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        """Does the lease still stand? Asked before a host speaks of a turn that it did not commit (I8).

        ``running``, unless empty: with the Ok, note that the holder runs this turn now. A takeover finds the note and
        adds the turn to the ``suspects``, if it was noted after an earlier takeover: before the first one nobody needs
        to note anything, and what was noted before a commit or a release is forgotten. Only this writes.

        ``refused``, unless empty: the holder is about to say that this turn is not done (I10). Whichever of the two is
        in the log: Replayed, whatever its fingerprint, and nothing is noted. A holder that has loaded the last turns
        only can't know by itself. At most one of the two is given.
        """
        ...

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        """Log, state and index go, epoch + 1, a tombstone stays as long as a repeat may come.

        A repeat gets the same answer: whoever deletes tells the holder, and may have died before it did.
        """
        ...

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        """Up to ``limit`` committed turns with turn_seq > ``after``, in order. No lease needed: any host may ask.

        Fewer, but one at least, if their records have more than ``store.page_bytes_max``: whoever wants all of them
        asks again, until it has the one with the page's ``turn_seq``.
        """
        ...

    async def aclose(self) -> None:
        """Free connections. Idempotent."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A store that has something to say of itself, for ``/healthz``."""

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and how things are now."""
        ...


class MembershipStore(Protocol):
    """The membership table and the beats. Synchronous: it is called from the beat thread, which may block.

    Every change is a compare-and-set on the table and raises ``ring_version`` by one if, and only if, it changed it.
    """

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        """Take the lowest free slot of ``slots_max``; one held already: no change. None free: the table stays, and the
        host waits as a spare, as long as it beats, for the first slot that ``leave`` or ``evict`` frees."""
        ...

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        """I am alive. ``known_ring_version`` -1 always brings the table."""
        ...

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        """Give the slot back: in the same step it is the spare's that beat last, if one waits. The beats may go on
        (draining) until ``gone``, which forgets them too."""
        ...

    def evict(self, slot: str, incarnation: str) -> Table:
        """Take the slot from that very incarnation, if it still holds it, and forget its beats. A spare inherits it."""
        ...

    def table(self) -> Table:
        """The table as it is now."""
        ...

    def close(self) -> None:
        """Free connections. Idempotent."""
        ...


__all__ = [
    "Ahead",
    "Buried",
    "CheckAnswer",
    "ClaimAnswer",
    "CommitAnswer",
    "DeleteAnswer",
    "Deleted",
    "Fenced",
    "Granted",
    "Held",
    "Member",
    "MembershipStore",
    "Mismatch",
    "Missing",
    "Ok",
    "ReadAnswer",
    "Regressed",
    "ReleaseAnswer",
    "Replayed",
    "SessionStore",
    "Turns",
    "Watched",
]
