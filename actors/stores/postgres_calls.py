"""Every call of a session to PostgreSQL as a typed function: what it sends, and how its answer is read.

Nothing here talks to a server, as in :mod:`actors.stores.scripts`, whose siblings these are. A transport
(``postgres_lanes`` for the hosts, ``postgres_sync`` for beat threads and the simulation) sends a :class:`Call`.
"""

from __future__ import annotations

from typing import Final

from actors.errors import StoreUnavailable
from actors.model import SCHEMA_VERSION, Checkpoint, HostRef, Lease, SessionKey, Turn
from actors.stores.base import (
    SUSPECTS_BYTES_MAX,
    Ahead,
    Buried,
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Deleted,
    Fenced,
    Granted,
    Held,
    LogDamaged,
    Mismatch,
    Missing,
    Ok,
    ReadAnswer,
    Regressed,
    ReleaseAnswer,
    Replayed,
    Turns,
)
from actors.stores.codec import decode_turn, decode_turns, encode_turn, newer_schema
from actors.stores.postgres_functions import Answer, Argument, Call

SWEEP_SESSIONS_MAX: Final = 200
SWEEP_TURNS_MAX: Final = 2_000
"""One piece of sweeping: some 20 ms of the server's time, and no lock that a host would wait for."""


def claim(
    key: SessionKey,
    token: str,
    host: HostRef,
    over: tuple[str, int] | None,
    ttl_ms: int,
    window: int | None = None,
) -> Call[ClaimAnswer]:
    """:meth:`actors.stores.base.SessionStore.claim`."""
    assert token, "A lease without a token would look released."
    assert window is None or window > 0, "Whoever commits must know the last turn."

    def decode(row: Answer) -> ClaimAnswer:
        match row["answer"]:
            case "granted":
                turns = decode_turns(key.tenant, row["records"])
                wanted = row["turn_seq"] if window is None else min(window, row["turn_seq"])
                if len(turns) != wanted or (turns and turns[-1].turn_seq != row["turn_seq"]):
                    raise _damaged(key)
                lease = Lease(row["epoch"], token, row["born"])
                accused = tuple(suspect.decode() for suspect in row["suspects"])
                return Granted(lease, Checkpoint(turns, row["state"]), row["takeovers"], accused)
            case "held":
                return Held(_host(row), row["epoch"])
            case "newer":
                raise newer_schema("A session", row["schema_version"])
            case "hot":
                raise _hot(key)
        return _deleted("claim", row)

    arguments = (
        *_of(key),
        *(token, host.incarnation, host.slot, host.address),
        *(over or ("", 0)),
        *(ttl_ms, SCHEMA_VERSION, SUSPECTS_BYTES_MAX, window or 0, False),
    )
    return Call("claim", arguments, decode, loads=True)


def commit(
    key: SessionKey,
    lease: Lease,
    previous_turn_id: str,
    turn: Turn,
    state: bytes | None,
    ttl_ms: int,
    hot: bool = False,
) -> Call[CommitAnswer]:
    """:meth:`actors.stores.base.SessionStore.commit`. ValueError if a text of the turn isn't UTF-8.

    ``hot``, as below: what a hybrid store notes for the session; see ``sql/layout_2.sql``.
    """
    assert turn.turn_id and turn.turn_seq >= 1, "A turn has an id and counts from 1."
    assert (turn.turn_seq == 1) == (previous_turn_id == ""), "Only the first turn has no predecessor."

    def decode(row: Answer) -> CommitAnswer:
        match row["answer"]:
            case "ok":
                return _OK
            case "replayed":
                return Replayed(decode_turn(key.tenant, row["record"]))
            case "mismatch":
                return Mismatch()
            case "ahead":
                return Ahead(row["turn_seq"])
        return _refusal("commit", row)

    arguments = (
        *_of(key),
        *_shown(lease, turn.turn_seq - 1, previous_turn_id),
        *(turn.turn_id.encode(), turn.fingerprint, encode_turn(key.tenant, turn)),
        *(ttl_ms, state, hot),
    )
    return Call("commit", arguments, decode)


def release(key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str, hot: bool = False) -> Call[ReleaseAnswer]:
    """:meth:`actors.stores.base.SessionStore.release`."""

    def decode(row: Answer) -> ReleaseAnswer:
        return _OK if row["answer"] == "ok" else _refusal("release", row)

    return Call("release", (*_of(key), *_shown(lease, turn_seq, last_turn_id), hot), decode)


def check(
    key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str, running: str, refused: str
) -> Call[CheckAnswer]:
    """:meth:`actors.stores.base.SessionStore.check`."""
    assert not (running and refused), "A turn that is refused doesn't run."

    def decode(row: Answer) -> CheckAnswer:
        match row["answer"]:
            case "ok":
                return _OK
            case "replayed":
                return Replayed(decode_turn(key.tenant, row["record"]))
        return _refusal("check", row)

    arguments = (*_of(key), *_shown(lease, turn_seq, last_turn_id), running.encode(), refused.encode())
    return Call("check", arguments, decode)


def delete(key: SessionKey, tombstone_ms: int) -> Call[DeleteAnswer]:
    """:meth:`actors.stores.base.SessionStore.delete`."""

    def decode(row: Answer) -> DeleteAnswer:
        if row["answer"] == "missing":
            return Missing()
        return Buried(_host(row) if row["incarnation"] else None)

    return Call("delete", (*_of(key), tombstone_ms, SCHEMA_VERSION), decode)


def read(key: SessionKey, after: int, limit: int, bytes_max: int) -> Call[ReadAnswer]:
    """:meth:`actors.stores.base.SessionStore.read`."""
    assert after >= 0 and limit >= 0, "Turns count from 1."

    def decode(row: Answer) -> ReadAnswer:
        match row["answer"]:
            case "turns":
                return Turns(decode_turns(key.tenant, row["records"]), row["turn_seq"])
            case "missing":
                return Missing()
        return _deleted("read", row)

    return Call("read", (*_of(key), after, limit, bytes_max), decode, loads=True)


def sweep() -> Call[bool]:
    """Take away a piece of what has expired. Whether there may be more."""
    return Call("sweep", (SWEEP_SESSIONS_MAX, SWEEP_TURNS_MAX), lambda row: bool(row["more"]))


_OK: Final = Ok()


def _of(key: SessionKey) -> tuple[str, str]:
    return (key.tenant, key.session_id)


def _shown(lease: Lease, turn_seq: int, last_turn_id: str) -> tuple[Argument, ...]:
    assert (turn_seq == 0) == (last_turn_id == ""), "A log has a last turn if, and only if, it has turns."
    return (lease.epoch, lease.token, lease.born, turn_seq, last_turn_id.encode())


def _refusal(function: str, row: Answer) -> Fenced | Regressed | Deleted:
    match row["answer"]:
        case "fenced":
            return Fenced(_host(row) if row["incarnation"] else None, row["epoch"], row["turn_seq"])
        case "regressed":
            return Regressed(row["turn_seq"])
    return _deleted(function, row)


def _host(row: Answer) -> HostRef:
    return HostRef(row["incarnation"], row["slot"], row["address"])


def _damaged(key: SessionKey) -> LogDamaged:
    return LogDamaged(f"The log of session {key.session_id!r} in the store is damaged: turns are missing.")


def _hot(key: SessionKey) -> StoreUnavailable:
    return StoreUnavailable(
        f"Session {key.session_id!r} was kept by a host with store.ack=hot, so its last turns may be in Redis alone:"
        " give this host the same store.url."
    )


def _deleted(function: str, row: Answer) -> Deleted:
    """The answer that is left. StoreUnavailable if it is none that the function's header names."""
    if row["answer"] == "deleted":
        return Deleted()
    raise StoreUnavailable(f"The function {function!r} gave an answer that isn't in its header: {row['answer']!r}.")
