"""What a checker remembers of a session while it goes through a history: values only, no judgement."""

from __future__ import annotations

import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

Turn = tuple[int, str, str, str, int]
"""turn_seq, turn_id, digest of the message, digest of the reply, epoch."""

Told = tuple[int, str, str, int]
"""What an acknowledgement said: turn_seq, turn_id, digest of the reply, epoch (0 = not told)."""

NEVER = sys.maxsize
"""The floor of a message of which no attempt can have been done."""


@dataclass(slots=True)
class Sent:
    """One message that somebody wanted to become one turn, however often it was sent under its key."""

    message: str
    floor: int = NEVER
    """The turn stands after this turn_seq: the session had shown that many turns when the first of the attempts began
    that may have done it. Attempts that were reported as not done don't count."""
    open: int = 0
    unknown: bool = False
    acknowledged: Told | None = None
    """As the first acknowledgement said it; with the epoch of a later one if only that told it."""
    host: str = ""
    """The life of a host that said it had run it: the first one; empty if nobody did, or it wasn't told which."""

    @property
    def not_done(self) -> bool:
        return self.acknowledged is None and not self.unknown and self.open == 0


@dataclass(frozen=True, slots=True)
class Read:
    """A whole read: how many turns, and a value that stands for all of them."""

    length: int
    value: int


@dataclass(slots=True)
class SessionSeen:
    """``shown``: the highest turn_seq that an operation which has ended showed, be it acknowledged or read."""

    sent: dict[str, Sent] = field(default_factory=dict)
    """By key, or by ``#op`` where the client gave none; in the order in which they were first sent."""
    shown: int = 0
    changes: int = 0
    """How often a message was sent or acknowledged."""
    reads: list[Read] = field(default_factory=list)
    last: list[Turn] | None = None
    """The last read, if nothing was sent or acknowledged after it began: the final log, should nothing more come."""
    unchained: list[int] = field(default_factory=list)
    """turn_seq of that read's turns that weren't computed from exactly their predecessors."""

    def change(self) -> None:
        """What was read so far, or is being read just now, isn't final."""
        self.changes += 1
        self.last = None


def may_be_called(key: str, turn_id: str, keys: Container[str]) -> bool:
    """Whether the turn of the message with this key can have that id: the key's own (``k:`` and the key, says the
    documentation), or, without a key (``#op``), any that is none of the session's ``keys``: a proxy before several
    edges gives such a message a key of its own."""
    if key.startswith("#"):
        return turn_id not in keys and turn_id.removeprefix("k:") not in keys
    return turn_id in (key, f"k:{key}")


def value_of(before: int, turns: Sequence[Turn]) -> int:
    """A number for a log that begins with what ``before`` stands for (0: nothing) and goes on with ``turns``."""
    for turn in turns:
        before = hash((before, *turn))
    return before
