"""What happened, in order: the only thing that the checker sees.

Every event gets a number (``seq``) and the virtual time (``at``, seconds). The simulation appends, nobody changes. The
digest of all events is the trace hash: two runs of one seed must have the same. Epochs are the store's TIME on a real
server, so they enter the trace relative to the birth of their session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors.model import BeatReply, Lease, SessionKey, Table, Turn
from actors.ports import Final


@dataclass(slots=True)
class Event:
    """Base of all events."""

    seq: int = field(default=0, init=False)
    at: float = field(default=0.0, init=False)


@dataclass(slots=True)
class StoreCall(Event):
    """One application of a call at the store (a duplicated request has two). ``sent``: when the host sent it."""

    number: int
    process: str
    call: str
    key: SessionKey
    sent: float
    lease: Lease | None = None
    token: str = ""
    over: tuple[str, int] | None = None
    turn_seq: int = 0
    last_turn_id: str = ""
    turn: Turn | None = None
    running: str = ""
    refused: str = ""
    window: int | None = None
    answer: Any = None
    again: bool = False


@dataclass(slots=True)
class Told(Event):
    """The host has got the answer of the call with that number."""

    number: int
    process: str
    key: SessionKey
    answer: Any


@dataclass(slots=True)
class Expired(Event):
    key: SessionKey


@dataclass(slots=True)
class Snapshot(Event):
    """The store's state of now is kept."""


@dataclass(slots=True)
class Restored(Event):
    """The store has forgotten everything since the last snapshot."""


@dataclass(slots=True)
class RunStarted(Event):
    run: int
    process: str
    key: SessionKey
    turn_id: str
    attempt: int
    turns: int
    digest: str


@dataclass(slots=True)
class RunEnded(Event):
    run: int
    how: str


@dataclass(slots=True)
class Arrived(Event):
    """A request reached a host's ``chat`` (``via`` edge, peer or ghost), or came in a hand-off (``via`` batch).

    A ghost is a duplicate that the network made: nobody waits for its answer.
    """

    process: str
    key: SessionKey
    turn_id: str
    via: str
    exchange: int = 0
    batch: int = 0
    hops: int = 0


@dataclass(slots=True)
class HandedOver(Event):
    """A host knows that ``to`` has the batch."""

    process: str
    key: SessionKey
    to: str
    turn_ids: tuple[str, ...]


@dataclass(slots=True)
class PassedOn(Event):
    """A host began to pass a request on to another."""

    process: str
    key: SessionKey
    turn_id: str
    to: str


@dataclass(slots=True)
class Said(Event):
    """A host said something to a requester. ``exchange`` is the connection; ``to_edge``: a client is behind it."""

    process: str
    exchange: int
    to_edge: bool
    key: SessionKey
    turn_id: str
    what: str
    epoch: int = 0
    text: str = ""
    final: Final | None = None


@dataclass(slots=True)
class Invoked(Event):
    """A client begins one attempt at an operation: chat, read or delete."""

    op: int
    client: str
    kind: str
    key: SessionKey
    turn_id: str = ""
    fingerprint: str = ""
    if_match: int | None = None


@dataclass(slots=True)
class Completed(Event):
    """``status`` ok, fail (answered with a problem) or info (no answer: anything may have happened)."""

    op: int
    status: str
    final: Any = None


@dataclass(slots=True)
class Process(Event):
    """``what``: started, crashed, frozen, thawed, stalled, unstalled, draining, left, cut, joined again."""

    process: str
    what: str


@dataclass(slots=True)
class Beaten(Event):
    """The store accepted a beat, by a host that knew the table ``known``."""

    process: str
    known: int
    reply: BeatReply


@dataclass(slots=True)
class TableCall(Event):
    """The store answered a join, a leave or an evict. ``incarnation``: whom it concerns; ``slot``: of an evict."""

    process: str
    call: str
    incarnation: str
    slot: str
    table: Table


@dataclass(slots=True)
class Evicted(Event):
    """The store took ``victim`` off the table, or forgot its beats, because ``process`` called it dead at ``sent``."""

    process: str
    victim: str
    sent: float


@dataclass(slots=True)
class Gauge(Event):
    """Largest numbers in one host's memory at one moment."""

    process: str
    waiting: int
    attached: int
    resident: int
    busy: int


@dataclass(slots=True)
class Fault(Event):
    """The nemesis did something (``what``), or ended: ``healed``."""

    what: str


@dataclass(slots=True)
class Log(Event):
    """A session's whole log at the end, ``source`` store or host. None: deleted or missing."""

    key: SessionKey
    source: str
    turns: tuple[Turn, ...] | None


@dataclass(slots=True)
class Problem(Event):
    """Something broke that no client sees: an exception nobody retrieved, a logged internal error."""

    process: str
    what: str


class History:
    """The list of events and the digest over them."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.closed = False
        self.watcher: Callable[[Event], None] | None = None
        """Is told of every event as it happens; may change the world, but runs nobody's code."""
        self._births: dict[SessionKey, list[int]] = {}

    def add(self, event: Event) -> None:
        if self.closed:
            return  # The coroutines of the dead, when they are collected at the end.
        event.seq = len(self.events) + 1
        event.at = self._clock()
        self.events.append(event)
        if self.watcher is not None:
            self.watcher(event)

    def trace(self) -> list[str]:
        """All events as text, the same in every run of their seed."""
        self._births = {}
        return [self.line(event) for event in self.events]

    def trace_hash(self) -> str:
        return hashlib.blake2b("".join(self.trace()).encode(), digest_size=12).hexdigest()

    def line(self, event: Event) -> str:
        """One event as text, the same in every run of its seed."""
        parts = [f"{event.at:.6f}", type(event).__name__]
        key = getattr(event, "key", None)
        for name in event.__dataclass_fields__:
            if name not in ("seq", "at"):
                parts.append(f"{name}={self._plain(getattr(event, name), key)}")
        return " ".join(parts) + "\n"

    def _plain(self, value: Any, key: SessionKey | None) -> str:
        if isinstance(value, Lease):
            self._birth(key, value.born)
            return f"lease({self._epoch(value.epoch, key)},{value.token})"
        if isinstance(value, Turn):
            return f"turn({value.turn_seq},{value.turn_id},{value.reply},{self._epoch(value.epoch, key)})"
        if isinstance(value, bool | str | None):
            return str(value)
        if isinstance(value, float):
            return f"{value:.6f}"
        if isinstance(value, int):
            return self._epoch(value, key)
        if isinstance(value, tuple | list):
            return "(" + ",".join(self._plain(item, key) for item in value) + ")"
        fields = getattr(value, "__dataclass_fields__", None)
        if fields is not None:
            inner = ",".join(self._plain(getattr(value, name), key) for name in fields)
            return f"{type(value).__name__}({inner})"
        if isinstance(value, BaseException):
            return f"{type(value).__name__}({getattr(value, 'outcome', '')},{self._plain_extra(value)})"
        return type(value).__name__

    def _plain_extra(self, problem: BaseException) -> str:
        return ",".join(f"{name}={value}" for name, value in sorted(getattr(problem, "extra", {}).items()))

    def _birth(self, key: SessionKey | None, born: int) -> None:
        births = self._births.setdefault(key or SessionKey(""), [])
        if born not in births:
            births.append(born)
            births.sort()

    def _epoch(self, value: int, key: SessionKey | None) -> str:
        """Numbers as large as an epoch are told relative to the last birth before them."""
        if value < 1_000_000:
            return str(value)
        births = [born for born in self._births.get(key or SessionKey(""), []) if born <= value + 1]
        return f"b{len(births)}+{value - births[-1]}" if births else "b?"
