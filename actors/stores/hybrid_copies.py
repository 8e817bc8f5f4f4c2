"""What a hybrid store knows of its sessions: where PostgreSQL's log ends, and what Redis has beyond.

Two locks guard a :class:`Copy`. ``commits`` is held by whoever may change how turns are confirmed: a commit, a claim, a
release, the healing and the cooling of the copy. ``flushing`` is held by whoever brings its turns to PostgreSQL. Their
order is ``commits``, then ``flushing``; a commit that Redis confirms needs the first alone, so it waits for no flush.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.model import HostRef, Lease, SessionKey, Turn
from actors.stores.base import Fenced


@dataclass(slots=True, eq=False)
class Acknowledged:
    """A turn that Redis has, with the agent's state after it. ``since_s``: loop time at which it was sent to Redis."""

    turn: Turn
    state: bytes | None
    since_s: float
    settled: bool = False


@dataclass(slots=True, eq=False)
class Copy:
    """What this host knows of a session whose lease it has: where PostgreSQL's log ends, and what Redis has beyond."""

    key: SessionKey
    lease: Lease
    host: HostRef
    turn_seq: int
    """Turns in PostgreSQL's log, as far as it has told this host."""
    last_turn_id: str
    renewed_s: float
    """Loop time before PostgreSQL was last asked to renew the session's expiry."""
    in_step: bool = False
    """Redis has the lease and the whole log."""
    hot: bool = False
    """PostgreSQL has noted that turns may be in Redis alone, so the next one may be acknowledged there."""
    noted: bool = False
    """PostgreSQL says, or may say, that turns may be in Redis alone."""
    doubtful: bool = False
    """A commit may still be on its way to Redis, and PostgreSQL doesn't have its turn."""
    lost: bool = False
    """Redis has lost what it may have acknowledged under an earlier lease, and nobody has been told."""
    told: bool = False
    """Somebody has been told."""
    refused_s: float | None = None
    """Loop time at which PostgreSQL first took no more turns, while it was open who has them."""
    handed_over: Fenced | None = None
    """Redis had all of its turns when it was given the next lease, which is this one."""
    waiting: deque[Acknowledged] = field(default_factory=deque)
    commits: asyncio.Lock = field(default_factory=asyncio.Lock)
    flushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    queued: bool = False

    @property
    def end(self) -> int:
        """Turns in the log, wherever they are."""
        return self.turn_seq + len(self.waiting)

    @property
    def last(self) -> str:
        """Id of the last of them, "" if there is none."""
        return self.waiting[-1].turn.turn_id if self.waiting else self.last_turn_id

    def note(self, turn: Turn, asked_s: float) -> None:
        """PostgreSQL has this turn at the end of its log."""
        self.turn_seq, self.last_turn_id, self.renewed_s = turn.turn_seq, turn.turn_id, asked_s


class Copies:
    """The copies of one host, by session."""

    def __init__(self) -> None:
        self._copies: dict[SessionKey, Copy] = {}

    def __iter__(self) -> Iterator[Copy]:
        return iter(list(self._copies.values()))

    def get(self, key: SessionKey) -> Copy | None:
        """This host's lease of the session, if it has one."""
        return self._copies.get(key)

    def has(self, copy: Copy) -> bool:
        """Whether no other claim has replaced it, and it wasn't dropped."""
        return self._copies.get(copy.key) is copy

    @asynccontextmanager
    async def held(self, key: SessionKey) -> AsyncIterator[Copy | None]:
        """The same; as long as this lasts no commit or claim changes it."""
        while (copy := self._copies.get(key)) is not None:
            async with copy.commits:
                if self.has(copy):
                    yield copy
                    return
        yield None

    def keep(self, copy: Copy) -> None:
        """A lease was granted. Of two claims that end in the wrong order the later lease stays."""
        before = self._copies.get(copy.key)
        if before is None or before.lease.epoch <= copy.lease.epoch:
            self._copies[copy.key] = copy

    def drop(self, copy: Copy) -> None:
        """The lease has gone. Idempotent."""
        if self.has(copy):
            del self._copies[copy.key]
