"""The calls that only a hybrid store makes, beside those of the two stores that it is made of.

Nothing here talks to a server, as in :mod:`actors.stores.scripts` and :mod:`actors.stores.postgres_calls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import StoreUnavailable
from actors.model import SCHEMA_VERSION, HostRef, Lease, SessionKey, Turn
from actors.stores import postgres_functions as sql
from actors.stores import scripts as lua
from actors.stores.base import SUSPECTS_BYTES_MAX, Deleted, Fenced, Held, Missing, Ok, Regressed, Turns
from actors.stores.codec import decode_turns, encode_turn, newer_schema
from actors.stores.keys import Keys
from actors.stores.scripts import SCRIPTS


@dataclass(frozen=True, slots=True)
class Head:
    """What PostgreSQL says of a session: how long its log is there, and whether Redis may have more of it."""

    lease: Lease
    turn_seq: int
    last_turn_id: str
    hot: bool
    state: bytes = b""
    takeovers: int = 0
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """The turns are in PostgreSQL. ``hot``: whether it still says so of the session."""

    hot: bool


@dataclass(frozen=True, slots=True)
class Newer:
    """Redis has a lease of that epoch already, which isn't older."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Installed:
    """The lease stands in Redis. ``turns``: the last ones of the session, as many as were asked for and at least all
    that PostgreSQL doesn't have, with ``state`` after them; None: the copy is empty. ``turn_seq``: that of the last.

    ``lost``: turns may have been acknowledged that Redis no longer has.
    """

    turns: Sequence[Turn] | None
    state: bytes
    lost: bool
    turn_seq: int = 0


# --- to PostgreSQL ------------------------------------------------------------------------------------------------


def claim(
    key: SessionKey, token: str, host: HostRef, over: tuple[str, int] | None, ttl_ms: int
) -> sql.Call[Head | Held | Deleted]:
    """:meth:`actors.stores.base.SessionStore.claim`, without the log."""
    assert token, "A lease without a token would look released."

    def decode(row: sql.Answer) -> Head | Held | Deleted:
        match row["answer"]:
            case "granted":
                lease = Lease(row["epoch"], token, row["born"])
                suspects = tuple(suspect.decode() for suspect in row["suspects"])
                end = (row["turn_seq"], row["last_turn_id"].decode(), row["hot"])
                return Head(lease, *end, row["state"], row["takeovers"], suspects)
            case "held":
                return Held(_host(row), row["epoch"])
            case "newer":
                raise newer_schema("A session", row["schema_version"])
            case "deleted":
                return Deleted()
        raise _strange("claim", row["answer"])

    arguments = (
        *(key.tenant, key.session_id, token, host.incarnation, host.slot, host.address),
        *(over or ("", 0)),
        *(ttl_ms, SCHEMA_VERSION, SUSPECTS_BYTES_MAX, 0, True),
    )
    return sql.Call("claim", arguments, decode)


def append(
    key: SessionKey,
    lease: Lease,
    previous_turn_id: str,
    turns: Sequence[Turn],
    turn_seq: int,
    state: bytes | None,
    ttl_ms: int,
    hot: bool,
) -> sql.Call[Appended | Fenced | Regressed | Deleted]:
    """Turns that follow on ``previous_turn_id``; the log then has ``turn_seq``. See ``sql/append.sql``."""

    def decode(row: sql.Answer) -> Appended | Fenced | Regressed | Deleted:
        match row["answer"]:
            case "ok":
                return Appended(row["hot"])
            case "fenced":
                return _fenced(row)
            case "regressed":
                return Regressed(row["turn_seq"])
            case "deleted":
                return Deleted()
        raise _strange("append", row["answer"])

    ids = [turn.turn_id.encode() for turn in turns]
    arguments = (
        *(key.tenant, key.session_id, lease.epoch, lease.token, lease.born),
        *(turn_seq, ids[-1] if ids else previous_turn_id.encode(), previous_turn_id.encode()),
        *(ids, [turn.fingerprint for turn in turns], [encode_turn(key.tenant, turn) for turn in turns]),
        *(ttl_ms, state, hot),
    )
    return sql.Call("append", arguments, decode)


def surpass(key: SessionKey, lease: Lease, found: int) -> sql.Call[Lease | Fenced]:
    """The lease with an epoch above ``found``; Fenced if it isn't current. See ``sql/surpass.sql``."""

    def decode(row: sql.Answer) -> Lease | Fenced:
        if row["answer"] == "ok":
            return Lease(row["epoch"], lease.token, lease.born)
        return _fenced(row)

    return sql.Call("surpass", (key.tenant, key.session_id, lease.epoch, lease.token, found), decode)


def head(key: SessionKey) -> sql.Call[Head | Deleted | Missing]:
    """The end of the log, for whoever reads it elsewhere."""

    def decode(row: sql.Answer) -> Head | Deleted | Missing:
        match row["answer"]:
            case "turns":
                end = (row["turn_seq"], row["last_turn_id"].decode(), row["hot"])
                return Head(Lease(row["epoch"], "", row["born"]), *end)
            case "deleted":
                return Deleted()
            case "missing":
                return Missing()
        raise _strange("read", row["answer"])

    return sql.Call("read", (key.tenant, key.session_id, 0, 0, 1), decode)


def delete(key: SessionKey, tombstone_ms: int) -> sql.Call[tuple[HostRef | None, bool] | None]:
    """Who had the lease, and whether turns may be in Redis; None: there is no such session."""

    def decode(row: sql.Answer) -> tuple[HostRef | None, bool] | None:
        if row["answer"] == "missing":
            return None
        return (_host(row) if row["incarnation"] else None, row["hot"])

    return sql.Call("delete", (key.tenant, key.session_id, tombstone_ms, SCHEMA_VERSION), decode)


def _host(row: sql.Answer) -> HostRef:
    return HostRef(row["incarnation"], row["slot"], row["address"])


def _fenced(row: sql.Answer) -> Fenced:
    return Fenced(_host(row) if row["incarnation"] else None, row["epoch"], row["turn_seq"])


def _strange(name: str, answer: object) -> StoreUnavailable:
    return StoreUnavailable(f"{name!r} gave an answer that isn't in its header: {answer!r}.")


# --- to Redis -----------------------------------------------------------------------------------------------------


def install(
    keys: Keys, key: SessionKey, head: Head, host: HostRef, ttl_ms: int, window: int | None = None
) -> lua.Call[Installed | Newer]:
    """The lease of ``head`` into Redis, and what is there of the session, or the last ``window`` turns of it. See
    ``lua/install.lua``."""

    def decode(reply: Any) -> Installed | Newer:
        match reply[0]:
            case b"newer":
                return Newer(reply[1])
            case b"empty":
                return Installed(None, b"", bool(reply[1]))
            case b"loaded":
                return Installed(decode_turns(key.tenant, reply[4]), reply[3], bool(reply[1]), reply[2])
        raise _strange("install", reply[0])

    lease = head.lease
    arguments = (
        *(lease.epoch, lease.token, lease.born, host.incarnation, host.slot, host.address),
        *(head.turn_seq, head.last_turn_id, int(head.hot), ttl_ms, SCHEMA_VERSION, window or 0),
    )
    return lua.Call(SCRIPTS["install"], keys.of_session(key), arguments, decode, loads=True)


def fill(
    keys: Keys, key: SessionKey, lease: Lease, before: int, turns: Sequence[Turn], state: bytes, ttl_ms: int
) -> lua.Call[bool]:
    """Turns after the first ``before`` into Redis; False if they don't follow on what is there."""
    arguments: list[lua.Argument] = [lease.epoch, lease.token, before, ttl_ms, state]
    for turn in turns:
        arguments += (turn.turn_id, turn.fingerprint, encode_turn(key.tenant, turn))
    return lua.Call(SCRIPTS["fill"], keys.of_session(key), arguments, lambda reply: bool(reply[0] == b"ok"))


def archive(keys: Keys, key: SessionKey, lease: Lease, ttl_ms: int) -> lua.Call[Ok]:
    """The lease has been given back; the copy stays for ``ttl_ms``."""
    return lua.Call(SCRIPTS["archive"], keys.of_session(key), (lease.epoch, lease.token, ttl_ms), lambda reply: Ok())


def page(keys: Keys, key: SessionKey, after: int, limit: int, bytes_max: int, head: Head) -> lua.Call[Turns | None]:
    """:meth:`actors.stores.base.SessionStore.read` from Redis; None if its copy doesn't begin with PostgreSQL's log."""

    def decode(reply: Any) -> Turns | None:
        return None if reply[0] == b"stale" else Turns(decode_turns(key.tenant, reply[2]), reply[1])

    arguments = (after, limit, bytes_max, head.lease.born, head.turn_seq, head.last_turn_id, int(head.hot))
    return lua.Call(SCRIPTS["page"], keys.of_session(key), arguments, decode, loads=True)
