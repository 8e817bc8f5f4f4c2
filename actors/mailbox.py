"""The order in which the messages of one session wait. Pure: no asyncio, no clock.

First in, first out, bounded, one entry per turn id. The one exception to first-in-first-out is a batch that another
host hands over: those turns were accepted earlier, so they go before this host's own arrivals, in their own order, and
the limit doesn't apply to them: the sender has accepted them already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_NOBODY: Final[dict[str, Any]] = {}
"""Shared by all mailboxes in which nothing waits, as in most: a dict of its own costs each 184 bytes. Never changed."""


class Mailbox(Generic[T]):
    """Waiting entries by turn id, oldest first. ``limit`` counts arrivals only when they are offered."""

    __slots__ = ("_limit", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[str, T] = _NOBODY

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return iter(self._waiting.values())

    def find(self, turn_id: str) -> T | None:
        """The entry waiting under that id."""
        return self._waiting.get(turn_id)

    def offer(self, turn_id: str, entry: T) -> bool:
        """Put last. False, and nothing changes, if the mailbox is full. The id must not be waiting already."""
        assert turn_id not in self._waiting, "find() comes before offer()"
        if len(self._waiting) >= self._limit:
            return False
        if self._waiting:
            self._waiting[turn_id] = entry
        else:
            self._waiting = {turn_id: entry}
        return True

    def put_first(self, batch: Iterable[tuple[str, T]]) -> None:
        """Put the batch, in its order, before everything that waits; beyond the limit.

        An id that waits already keeps its entry (somebody is attached to it) and takes the batch's place.
        """
        rest = self._waiting
        self._waiting = {turn_id: rest.pop(turn_id, entry) for turn_id, entry in batch}
        self._waiting.update(rest)

    def take(self) -> T | None:
        """Remove and return the oldest entry."""
        if not self._waiting:
            return None
        entry = self._waiting.pop(next(iter(self._waiting)))
        self._waiting = self._waiting or _NOBODY
        return entry

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Forget every entry that isn't ``wanted``; the others keep their order."""
        self._waiting = {turn_id: entry for turn_id, entry in self._waiting.items() if wanted(entry)} or _NOBODY

    def take_all(self) -> list[T]:
        """Remove and return everything, oldest first."""
        entries = list(self._waiting.values())
        self._waiting = _NOBODY
        return entries
