"""The values that travel between api, host, session, store and ring.

Frozen, slotted, without behaviour beyond derived properties; no asyncio and no clock, so that the
simulation and the checker can use them. The words are those of the glossary in README.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pydantic_core import to_json

SCHEMA_VERSION: Final = 2
"""Of what the stores keep of sessions. A store that finds a newer one refuses to start. 2: turns are packed bytes; 1:
they were JSON."""
MEMBERS_VERSION: Final = 1
"""Of what the stores keep of the membership table: counted by itself, so that hosts of two programs that differ in
their sessions' records only can still see each other in it."""

DEFAULT_TENANT: Final = "-"
_X: Final = "[A-Za-z0-9._~:@-]"
_NO_DOT: Final = "[A-Za-z0-9_~:@-]"
SESSION_ID_PATTERN: Final = re.compile(rf"(?:{_NO_DOT}{_X}{{0,127}}|\.{_NO_DOT}{_X}{{0,126}}|\.\.{_X}{{1,126}})")
"""1 to 128 plain characters: the edge hashes the same bytes that the hosts do, unescaped (DESIGN: shards). Neither
``.`` nor ``..``: in a path these are steps (RFC 3986), which clients take before they send it."""

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Names one session in the store: ``tenant`` (default ``-``) and ``session_id``."""

    session_id: str
    tenant: str = DEFAULT_TENANT

    def __str__(self) -> str:
        return f"{self.tenant}:{self.session_id}"


@dataclass(frozen=True, slots=True)
class HostRef:
    """One life of one host: a new process is a new ``incarnation``, even in the same slot and on the same port.

    ``slot`` is ``slot-N``, or ``""`` for a host that has none (a spare, or one that has left).
    ``address`` is ``host:port`` of its HTTP listener.
    """

    incarnation: str
    slot: str
    address: str


def incarnation_of(pid: int, digits: str) -> str:
    """The name of one life of a host. It begins with the pid for people, who see it in GET /ring."""
    return f"{pid}-{digits}"


def pid_of(incarnation: str) -> int | None:
    """The process id in that name; None if it was named otherwise."""
    pid, dash, _ = incarnation.partition("-")
    return int(pid) if dash and pid.isascii() and pid.isdigit() else None


class _Packed:
    """Where ``record.pack`` keeps what it has made of a turn. No field: no copy and nobody who compares has it."""

    __slots__ = ("packed",)


@dataclass(frozen=True, slots=True)
class Turn(_Packed):
    """One committed turn: what the log keeps and every reader sees. ``turn_seq`` counts from 1."""

    turn_seq: int
    turn_id: str
    fingerprint: str
    message: str
    reply: str
    metadata: JsonObject | None = None
    epoch: int = 0
    committed_ms: int = 0
    """Wall clock of the host that committed, milliseconds since 1970: for readers, never for decisions."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A message on its way to become a turn.

    ``turn_id`` is ``k:<Idempotency-Key>`` or ``r:<the edge's request id>``: two namespaces, so that no
    client can hit an id that the edge has made. ``if_match`` is the turn_seq the client wants to build on.
    ``named_by`` is the ring_version of the other host whose ring named this one as the owner; -1: no ring did.
    """

    key: SessionKey
    turn_id: str
    fingerprint: str
    message: str
    metadata: JsonObject | None = None
    if_match: int | None = None
    named_by: int = -1


def fingerprint_of(message: str, metadata: JsonObject | None) -> str:
    """32 hex digits that tell two messages under one turn id apart.

    Only the message and its metadata count: how the client wants the answer delivered does not.
    """
    digest = hashlib.blake2b(message.encode("utf-8"), digest_size=16)
    if metadata:
        digest.update(b"\x00" + to_json(_sorted(metadata)))
    return digest.hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Lease:
    """What an activation must show at every write. ``epoch`` is the fencing token, ``token`` tells two claims
    of one epoch apart (they exist after the store lost its tail), ``born`` is the epoch at which this life of
    the session began: another ``born`` means that the session expired in between, not that it regressed.
    """

    epoch: int
    token: str
    born: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is durable of a session: all of its turns, or the last ones. ``state`` is the agent's own JSON object as
    bytes (``b""`` = none yet)."""

    turns: Sequence[Turn] = ()
    state: bytes = b""

    @property
    def turn_seq(self) -> int:
        """That of the last turn; 0 if there is none."""
        return self.turns[-1].turn_seq if self.turns else 0

    @property
    def last_turn_id(self) -> str:
        """Empty if there is none."""
        return self.turns[-1].turn_id if self.turns else ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A conversation as its client keeps it: ``text``. ``state_id`` names this very state, 32 hex digits.
    ``expires_ms``: from when on it isn't taken any more, milliseconds since 1970; None: never."""

    text: str
    state_id: str
    expires_ms: int | None


# --- membership -------------------------------------------------------------------------------------------------


class HostState(StrEnum):
    """What a host says of itself with every beat."""

    SERVING = "serving"
    SPARE = "spare"
    DRAINING = "draining"


UNHEARD: Final = "unheard"
"""What a live host answers to a health check, with 200, while its own beats are not accepted. The edge asks for it
where the others have taken the host for dead: nothing that runs there can be committed."""


@dataclass(frozen=True, slots=True)
class Member:
    """A host in a slot. ``weight`` multiplies its share of the ring; ``health_port`` answers the edge's check."""

    slot: str
    incarnation: str
    address: str
    health_port: int
    weight: int = 1

    @property
    def ref(self) -> HostRef:
        return HostRef(self.incarnation, self.slot, self.address)


@dataclass(frozen=True, slots=True)
class Table:
    """The membership table: who holds which slot. ``ring_version`` is its change counter; it only grows."""

    ring_version: int
    members: Mapping[str, Member] = field(default_factory=dict)
    """slot -> member"""

    def slot_of(self, incarnation: str) -> str | None:
        for member in self.members.values():
            if member.incarnation == incarnation:
                return member.slot
        return None


@dataclass(frozen=True, slots=True)
class Beat:
    """The last beat of one host: ``counter`` grows by one with each, so that no clocks need comparing."""

    counter: int
    state: HostState
    address: str


@dataclass(frozen=True, slots=True)
class BeatReply:
    """The store's answer to a beat: the table's version now, and everybody's last beat by incarnation.

    ``listed``: the asking incarnation holds a slot; ``waits``: it is known as a spare, and inherits the next that
    falls free. ``table`` comes only if its version differs from the one that the asker said it knows.
    """

    ring_version: int
    listed: bool
    waits: bool
    beats: Mapping[str, Beat]
    table: Table | None
