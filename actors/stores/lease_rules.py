"""The rules of a lease as pure functions, for stores that have no scripts: DynamoDB and MongoDB.

Such a store reads the :class:`Record` of a session, asks a function here what becomes of it, and writes that on the
condition that the record is still the one that was read (``rev``); if it isn't, it begins again. So a decision and its
write are one step, as a script's are. What the functions decide is what ``lua/`` decides, sentence by sentence.

Nothing here knows a store, a clock or an event loop. ``now_ms`` is the wall clock of the host that asks: DynamoDB has
no clock that a condition could use, and MongoDB's can't be moved by a test. It decides when a session has expired, and
nothing else does: an epoch is compared with what is stored and never with a clock, so a clock that is wrong may end a
session early or late, but can't let two hosts write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.model import SCHEMA_VERSION, HostRef, Lease, SessionKey, Turn
from actors.stores.base import (
    SUSPECTS_BYTES_MAX,
    Ahead,
    Buried,
    CheckAnswer,
    DeleteAnswer,
    Deleted,
    Fenced,
    Held,
    LogDamaged,
    Mismatch,
    Missing,
    Ok,
    Regressed,
    ReleaseAnswer,
)
from actors.stores.codec import newer_schema


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a session beside its turns, their ids and the agent's state.

    ``rev`` grows by one with every write. ``holder`` None: released; of a tombstone, who had the lease. ``deleted``:
    turn id of the deletion, "" while the session lives. ``expires_ms`` 0: never.
    """

    born: int
    epoch: int
    rev: int = 1
    token: str = ""
    holder: HostRef | None = None
    takeovers: int = 0
    running: str = ""
    suspects: tuple[str, ...] = ()
    deleted: str = ""
    turn_seq: int = 0
    last_turn_id: str = ""
    expires_ms: int = 0
    schema_version: int = SCHEMA_VERSION

    def expired(self, now_ms: int) -> bool:
        """Whether it counts as missing by now, though nobody has cleared it away yet."""
        return 0 < self.expires_ms <= now_ms

    def place(self, turn_id: str) -> int | None:
        """The turn_seq of that turn as far as the record alone can tell: 0 = surely none; None = look it up."""
        if not turn_id or not self.turn_seq:
            return 0
        return self.turn_seq if turn_id == self.last_turn_id else None


@dataclass(frozen=True, slots=True)
class Known:
    """The turn id is in the log already, and whatever stands at ``turn_seq`` is the answer."""

    turn_seq: int


def claimed(
    record: Record | None, token: str, host: HostRef, over: tuple[str, int] | None, now_ms: int, ttl_ms: int
) -> Record | Held | Deleted:
    """The record after the claim, or why it isn't granted. Misconfigured if a newer program wrote the record."""
    assert token, "A lease without a token would look released."
    expires_ms = now_ms + ttl_ms if ttl_ms else 0
    if record is not None and record.schema_version > SCHEMA_VERSION:
        raise newer_schema("A session", record.schema_version)
    if record is None or record.expired(now_ms):
        # Above whatever was, also if this host's clock is behind that of the host that began the life before.
        born = max(now_ms, 1, record.epoch + 1 if record else 1)
        rev = record.rev + 1 if record else 1
        return Record(born, born, rev, token, host, expires_ms=expires_ms)
    if record.deleted:
        return Deleted()
    claim = replace(record, rev=record.rev + 1, token=token, holder=host, expires_ms=expires_ms)
    held = record.holder
    if held is not None and record.token == token:
        return claim
    if held is not None and held.incarnation != host.incarnation:
        if over != (held.incarnation, record.epoch):
            return Held(held, record.epoch)
        suspects = _accused(record) if record.takeovers else ()
        claim = replace(claim, takeovers=record.takeovers + 1, suspects=suspects, running="")
    return replace(claim, epoch=record.epoch + 1)


def _accused(record: Record) -> tuple[str, ...]:
    """The suspects, now that this holder has died too."""
    accused = (*record.suspects, record.running) if record.running else record.suspects
    while sum(len(turn_id) + 1 for turn_id in accused) > SUSPECTS_BYTES_MAX:
        accused = accused[1:]
    return accused


def fence(record: Record, lease: Lease, turn_seq: int, place: int) -> Fenced | Regressed | None:
    """None if ``lease`` is current, else what to tell its owner.

    Its log has ``turn_seq`` turns, and the last of them stands at ``place`` in the store's (0: nowhere).
    """
    if record.born == lease.born:
        if lease.epoch > record.epoch:
            return Regressed(record.turn_seq)
        if record.holder is not None and (lease.epoch, lease.token) == (record.epoch, record.token):
            return None
        if not begins_with(turn_seq, place):
            return Regressed(record.turn_seq)
    return Fenced(record.holder, record.epoch, record.turn_seq)


def begins_with(turn_seq: int, place: int) -> bool:
    """Whether a log of ``turn_seq`` turns, the last of which stands at ``place`` in the store's, is a prefix of it."""
    return turn_seq in (0, place)


def refused(
    record: Record | None,
    lease: Lease,
    turn: Turn,
    place: int,
    known: tuple[int, str] | None,
) -> Fenced | Regressed | Deleted | Mismatch | Known | Ahead | None:
    """Why a commit isn't accepted, in the contract's order; None if it would be, as things stand.

    ``place``: of the caller's last turn, as in :func:`fence`. ``known``: (turn_seq, fingerprint) under the turn's id.
    """
    before = turn.turn_seq - 1
    if record is None:
        return Fenced(None, 0, 0)
    if record.deleted:
        return Deleted()
    if (refusal := fence(record, lease, before, place)) is not None:
        return refusal
    if known is not None:
        return Known(known[0]) if known[1] == turn.fingerprint else Mismatch()
    if not begins_with(before, place):
        return Regressed(record.turn_seq)
    return Ahead(record.turn_seq) if record.turn_seq > before else None


def released(record: Record | None, lease: Lease, turn_seq: int, place: int) -> tuple[ReleaseAnswer, Record | None]:
    """The answer, and the record to be written; None: nothing is to be."""
    if record is None:
        return Ok(), None
    if record.deleted:
        return Deleted(), None
    answer = Ok() if begins_with(turn_seq, place) else Regressed(record.turn_seq)
    if record.holder is None and (record.born, record.epoch) == (lease.born, lease.epoch):
        return answer, None
    if (refusal := fence(record, lease, turn_seq, place)) is not None:
        return refusal, None
    return answer, replace(record, rev=record.rev + 1, token="", holder=None, takeovers=0)


def checked(
    record: Record | None, lease: Lease, turn_seq: int, place: int, running: str, known: int
) -> tuple[CheckAnswer | Known, Record | None]:
    """The answer, and the record to be written; None: nothing is to be.

    ``known``: where the turn stands in the log that is going to run or to be refused (0: nowhere).
    """
    if record is None:
        return Fenced(None, 0, 0), None
    if record.deleted:
        return Deleted(), None
    if (refusal := fence(record, lease, turn_seq, place)) is not None:
        return refusal, None
    if not begins_with(turn_seq, place):
        return Regressed(record.turn_seq), None
    if known:
        return Known(known), None
    return Ok(), replace(record, rev=record.rev + 1, running=running) if running else None


def buried(record: Record | None, turn_id: str, now_ms: int, tombstone_ms: int) -> tuple[DeleteAnswer, Record | None]:
    """The answer, and the tombstone to be written; None: it stands already, and keeps its expiry."""
    if record is None:
        return Missing(), None
    if record.deleted:
        return Buried(record.holder), None
    tombstone = Record(
        record.born,
        record.epoch + 1,
        record.rev + 1,
        holder=record.holder,
        deleted=turn_id,
        expires_ms=now_ms + tombstone_ms,
    )
    return Buried(record.holder), tombstone


def require_shown(turn_seq: int, last_turn_id: str) -> None:
    """AssertionError unless the two can be the end of one log."""
    assert (turn_seq == 0) == (last_turn_id == ""), "A log has a last turn if, and only if, it has turns."


def require_window(window: int | None) -> None:
    """AssertionError unless it is all turns, or one at least."""
    assert window is None or window > 0, "Whoever commits must know the last turn."


def require_one_of(running: str, refused: str) -> None:
    """AssertionError if both are named."""
    assert not (running and refused), "A turn that is refused doesn't run."


def damaged(key: SessionKey) -> LogDamaged:
    """The refusal to go on with a log that lacks turns."""
    return LogDamaged(f"The log of session {key.session_id!r} in the store is damaged: turns are missing.")
