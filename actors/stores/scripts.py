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
from typing import Any, Final, Generic, TypeVar

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import (
    SCHEMA_VERSION,
    Beat,
    BeatReply,
    Checkpoint,
    HostRef,
    HostState,
    Lease,
    Member,
    SessionKey,
    Table,
    Turn,
)
from actors.stores.base import (
    Ahead,
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    Deleted,
    DeleteAnswer,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Missing,
    Ok,
    ReadAnswer,
    Regressed,
    ReleaseAnswer,
    Replayed,
    Turns,
)
from actors.stores.codec import decode_member, decode_turn, decode_turns, encode_member, encode_turn, newer_schema
from actors.stores.keys import Keys

A = TypeVar("A")
Argument = bytes | str | int

LUA_FOLDER: Final = Path(__file__).with_name("lua")
_INCLUDE: Final = "-- include: "
BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""


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
    """One call, ready to be sent. ``exclusive`` names the session of a commit: one of them per pipeline."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]
    decode: Callable[[Any], A]
    exclusive: str = ""


def compose(name: str, folder: Path = LUA_FOLDER) -> Script:
    """The script ``name`` with each line ``-- include: FILE`` replaced by the text of that file."""
    lines = []
    for line in (folder / f"{name}.lua").read_text("utf-8").splitlines():
        if line.startswith(_INCLUDE):
            line = (folder / line.removeprefix(_INCLUDE)).read_text("utf-8")
        lines.append(line)
    return Script.of(name, "\n".join(lines))


def load(folder: Path = LUA_FOLDER) -> dict[str, Script]:
    """All scripts by name, read from ``folder``."""
    return {name: compose(name, folder) for name in _NAMES}


_NAMES: Final = (
    *("claim", "commit", "release", "check", "delete", "read"),
    *("join", "beat", "leave", "evict", "table"),
)
SCRIPTS: Final = load()
"""The scripts in use. Looked up at every call, so that a test can put a broken one in the place of a good one."""


# --- sessions ---------------------------------------------------------------------------------------------------


def claim(
    keys: Keys, key: SessionKey, token: str, host: HostRef, over: tuple[str, int] | None, ttl_ms: int
) -> Call[ClaimAnswer]:
    """See :meth:`actors.stores.base.SessionStore.claim`."""
    assert token, "A lease without a token would look released."
    over_incarnation, over_epoch = over or ("", 0)
    host_arguments = (host.incarnation, host.slot, host.address)

    def decode(reply: Any) -> ClaimAnswer:
        match reply[0]:
            case b"granted":
                _, epoch, born, takeovers, state, records = reply
                checkpoint = Checkpoint(decode_turns(key.tenant, records), state)
                _require_whole(key, checkpoint)
                return Granted(Lease(epoch, token, born), checkpoint, takeovers)
            case b"held":
                return Held(HostRef(*(part.decode() for part in reply[1:4])), reply[4])
            case b"newer":
                raise newer_schema("A session", reply[1])
        return Deleted()

    return Call(
        SCRIPTS["claim"],
        keys.of_session(key),
        (token, *host_arguments, over_incarnation, over_epoch, ttl_ms, SCHEMA_VERSION),
        decode,
    )


def _require_whole(key: SessionKey, checkpoint: Checkpoint) -> None:
    # Only a hand on the keys, or a server that evicts, can do this. Going on would fork the session silently.
    if any(turn.turn_seq != at for at, turn in enumerate(checkpoint.turns, 1)):
        raise StoreUnavailable(f"The log of session {key.session_id!r} in the store has holes.")
