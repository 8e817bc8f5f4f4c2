"""Every call to Redis as a typed function: its script, its keys and arguments, and how its reply is read.

Nothing here talks to a server. A function returns a :class:`Call`; a transport (``redis_pipeline`` for the hosts,
``redis_sync`` for beat threads and the simulation) sends ``EVALSHA call.script.sha`` with the keys and arguments and
gives the raw reply to ``call.decode``. Replies are read as bytes, RESP 2 or 3.

The scripts themselves stand in ``lua/``; each one's header names its keys, arguments and answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, Final, Generic, TypeVar

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import (
    SCHEMA_VERSION,
    Checkpoint,
    HostRef,
    Lease,
    SessionKey,
    Turn,
)
from actors.record import packed_id
from actors.stores.base import (
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
from actors.stores.keys import Keys

A = TypeVar("A")
Argument = bytes | str | int

LUA_FOLDER: Final = Path(__file__).with_name("lua")
_INCLUDE: Final = "-- include: "


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it. ``sha`` is its name in EVALSHA."""

    name: str
    source: bytes
    sha: str

    @classmethod
    def of(cls, name: str, source: str) -> Script:
        """Named by the digest that the server will compute."""
        packed = source.encode("utf-8")
        return cls(name, packed, hashlib.sha1(packed, usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One call, ready to be sent. ``exclusive`` names the session of a commit: one of them per pipeline. ``loads``: its
    answer may be as long as a session's log."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]
    decode: Callable[[Any], A]
    exclusive: str = ""
    loads: bool = False


def compose(name: str, folder: Path = LUA_FOLDER) -> Script:
    """The script ``name`` with each line ``-- include: FILE`` replaced by the text of that file."""

    def text(line: str) -> str:
        included = line.startswith(_INCLUDE)
        return (folder / line.removeprefix(_INCLUDE)).read_text("utf-8") if included else line

    return Script.of(name, "\n".join(map(text, (folder / f"{name}.lua").read_text("utf-8").splitlines())))


def load(folder: Path = LUA_FOLDER) -> dict[str, Script]:
    """All scripts by name, read from ``folder``."""
    return {name: compose(name, folder) for name in _NAMES}


_NAMES: Final = (
    *("claim", "commit", "release", "check", "delete", "read"),
    *("join", "beat", "leave", "evict", "table"),
    *("install", "fill", "archive", "page"),
    *("newest", "schema"),
)
SCRIPTS: Final = load()
"""The scripts in use. Looked up at every call, so that a test can put a broken one in the place of a good one."""


# --- sessions ---------------------------------------------------------------------------------------------------


def claim(
    keys: Keys,
    key: SessionKey,
    token: str,
    host: HostRef,
    over: tuple[str, int] | None,
    ttl_ms: int,
    window: int | None,
) -> Call[ClaimAnswer]:
    """:meth:`actors.stores.base.SessionStore.claim`."""
    assert token, "A lease without a token would look released."
    assert window is None or window > 0, "Whoever commits must know the last turn."

    def decode(reply: Any) -> ClaimAnswer:
        match reply[0]:
            case b"granted":
                _, epoch, born, takeovers, suspects, turn_seq, state, records = reply
                turns = decode_turns(key.tenant, records)
                wanted = turn_seq if window is None else min(window, turn_seq)
                if len(turns) != wanted or (turns and turns[-1].turn_seq != turn_seq):
                    raise _damaged(key)
                accused = tuple(suspects.decode().split("\n")) if suspects else ()
                return Granted(Lease(epoch, token, born), Checkpoint(turns, state), takeovers, accused)
            case b"held":
                return Held(_host(reply[1:4]), reply[4])
            case b"newer":
                raise newer_schema("A session", reply[1])
            case b"deleted":
                return Deleted()
        raise _strange("claim", reply)

    return Call(
        SCRIPTS["claim"],
        keys.of_session(key),
        (token, host.incarnation, host.slot, host.address, *(over or ("", 0)), ttl_ms, SCHEMA_VERSION, window or 0),
        decode,
        loads=True,
    )


def commit(
    keys: Keys, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None, ttl_ms: int
) -> Call[CommitAnswer]:
    """:meth:`actors.stores.base.SessionStore.commit`. ValueError if a text of the turn isn't UTF-8."""
    assert turn.turn_id and turn.turn_seq >= 1, "A turn has an id and counts from 1."
    assert (turn.turn_seq == 1) == (previous_turn_id == ""), "Only the first turn has no predecessor."

    def decode(reply: Any) -> CommitAnswer:
        match reply[0]:
            case b"ok":
                return _OK
            case b"replayed":
                return _recorded(key, reply)
            case b"mismatch":
                return Mismatch()
            case b"ahead":
                return Ahead(reply[1])
        return _refusal("commit", reply)

    lease_key, log_key, ids_key = keys.of_session(key)
    arguments: tuple[Argument, ...] = (
        _LEASE.pack(lease.epoch, lease.born) + lease.token.encode(),
        packed_id(previous_turn_id) if previous_turn_id else b"",
        encode_turn(key.tenant, turn),
        ttl_ms,
    )
    if state is not None:
        arguments += (state,)
    return Call(SCRIPTS["commit"], (lease_key, log_key, ids_key), arguments, decode, exclusive=lease_key)


def release(keys: Keys, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> Call[ReleaseAnswer]:
    """:meth:`actors.stores.base.SessionStore.release`."""

    def decode(reply: Any) -> ReleaseAnswer:
        return _OK if reply[0] == b"ok" else _refusal("release", reply)

    return Call(SCRIPTS["release"], keys.of_session(key), _shown(lease, turn_seq, last_turn_id), decode)


def check(
    keys: Keys, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str, running: str, refused: str
) -> Call[CheckAnswer]:
    """:meth:`actors.stores.base.SessionStore.check`."""
    assert not (running and refused), "A turn that is refused doesn't run."

    def decode(reply: Any) -> CheckAnswer:
        match reply[0]:
            case b"ok":
                return _OK
            case b"replayed":
                return _recorded(key, reply)
        return _refusal("check", reply)

    arguments = (*_shown(lease, turn_seq, last_turn_id), running, refused)
    return Call(SCRIPTS["check"], keys.of_session(key), arguments, decode)


def delete(keys: Keys, key: SessionKey, turn_id: str, tombstone_ms: int) -> Call[DeleteAnswer]:
    """:meth:`actors.stores.base.SessionStore.delete`."""

    def decode(reply: Any) -> DeleteAnswer:
        if reply[0] == b"missing":
            return Missing()
        return Buried(_host(reply[1:4]) if reply[1] else None)

    return Call(SCRIPTS["delete"], keys.of_session(key), (turn_id, tombstone_ms, SCHEMA_VERSION), decode)


def read(keys: Keys, key: SessionKey, after: int, limit: int, bytes_max: int) -> Call[ReadAnswer]:
    """:meth:`actors.stores.base.SessionStore.read`."""
    assert after >= 0 and limit >= 0, "Turns count from 1."

    def decode(reply: Any) -> ReadAnswer:
        match reply[0]:
            case b"turns":
                return Turns(decode_turns(key.tenant, reply[2]), reply[1])
            case b"deleted":
                return Deleted()
            case b"missing":
                return Missing()
        raise _strange("read", reply)

    return Call(SCRIPTS["read"], keys.of_session(key), (after, limit, bytes_max), decode, loads=True)


_OK: Final = Ok()
_LEASE: Final = Struct("<qq")


def _shown(lease: Lease, turn_seq: int, last_turn_id: str) -> tuple[Argument, ...]:
    assert (turn_seq == 0) == (last_turn_id == ""), "A log has a last turn if, and only if, it has turns."
    return (lease.epoch, lease.token, lease.born, turn_seq, last_turn_id)


def _recorded(key: SessionKey, reply: Any) -> Replayed:
    if reply[1] is None:
        raise _damaged(key)
    return Replayed(decode_turn(key.tenant, reply[1]))


def _refusal(name: str, reply: Any) -> Fenced | Regressed | Deleted:
    match reply[0]:
        case b"fenced":
            return Fenced(_host(reply[1:4]) if reply[1] else None, reply[4], reply[5])
        case b"regressed":
            return Regressed(reply[1])
        case b"deleted":
            return Deleted()
    raise _strange(name, reply)


def _host(parts: Sequence[bytes]) -> HostRef:
    incarnation, slot, address = parts
    return HostRef(incarnation.decode(), slot.decode(), address.decode())


def _damaged(key: SessionKey) -> LogDamaged:
    return LogDamaged(f"The log of session {key.session_id!r} in the store is damaged: turns are missing.")


def _strange(name: str, reply: Any) -> StoreUnavailable:
    return StoreUnavailable(f"The script {name!r} gave an answer that isn't in its header: {reply[0]!r}.")


# --- the deployment ---------------------------------------------------------------------------------------------


def schema(keys: Keys) -> Call[None]:
    """Note that this program's ``schema_version`` is in use here. Misconfigured if a newer one is, or a foreign key."""

    def decode(reply: Any) -> None:
        match reply[0]:
            case b"newer":
                raise newer_schema("Something", reply[1])
            case b"foreign":
                raise Misconfigured(
                    f"The key {reply[1].decode()!r} in the store isn't Rehydra's: choose another store.prefix."
                )

    return Call(SCRIPTS["schema"], (keys.schema, keys.table, keys.beats), (SCHEMA_VERSION,), decode)
