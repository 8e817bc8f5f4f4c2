"""The membership table in memory, beside :mod:`actors.stores.memory`. Beat threads call it, so it holds a lock.

It keeps the same contract as Redis and passes the same suite. Time is the injected ``now_ms`` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Final

from actors.model import Beat, BeatReply, HostState, Member, Table

BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""


class MemoryMembership:
    """The :class:`~actors.stores.base.MembershipStore` of one process; may be called from many threads."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._ring_version = 0
        self._members: dict[str, Member] = {}
        self._beats: dict[str, tuple[Beat, int]] = {}
        """incarnation -> (its last beat, when it came in ms)"""
        self._spares: dict[str, tuple[Member, int]] = {}
        """incarnation -> (itself, without a slot; its slots_max)"""

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        with self._lock:
            if self._table().slot_of(incarnation) is None:
                self._spares[incarnation] = (Member("", incarnation, address, health_port, weight), slots_max)
                for slot in (f"slot-{number}" for number in range(slots_max)):
                    if slot not in self._members:
                        self._members[slot] = replace(self._spares.pop(incarnation)[0], slot=slot)
                        self._changed()
                        break
            return self._table()

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        with self._lock:
            now_ms = self._now_ms()
            last = self._beats.get(incarnation)
            # A first count at the clock, so that one who was forgotten never seems to go backwards.
            counter = last[0].counter + 1 if last else now_ms
            self._beats[incarnation] = (Beat(counter, state, address), now_ms)
            table = self._table()
            self._prune(table, now_ms)
            return BeatReply(
                table.ring_version,
                table.slot_of(incarnation) is not None,
                incarnation in self._spares,
                {name: beat for name, (beat, _) in self._beats.items()},
                table if table.ring_version != known_ring_version else None,
            )

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        with self._lock:
            slot = self._table().slot_of(incarnation)
            if slot is not None:
                del self._members[slot]
                self._hand_on(slot)
                self._changed()
            self._spares.pop(incarnation, None)
            if gone:
                self._beats.pop(incarnation, None)
            return self._table()

    def evict(self, slot: str, incarnation: str) -> Table:
        with self._lock:
            member = self._members.get(slot)
            if member is not None and member.incarnation == incarnation:
                del self._members[slot]
                self._beats.pop(incarnation, None)
                self._hand_on(slot)
                self._changed()
            return self._table()

    def table(self) -> Table:
        with self._lock:
            return self._table()

    def close(self) -> None:
        return None

    # --- for tests and the simulation ---------------------------------------------------------------------------

    def snapshot(self) -> object:
        """All that is stored now, to be given to :meth:`restore`."""
        with self._lock:
            return (self._ring_version, dict(self._members), dict(self._beats), dict(self._spares))

    def restore(self, snapshot: object) -> None:
        """Forget all that happened since ``snapshot``."""
        assert isinstance(snapshot, tuple)
        with self._lock:
            self._ring_version, self._members, self._beats, self._spares = deepcopy(snapshot)

    def _changed(self) -> None:
        # From the clock after a loss of all data, so that nobody who knew the old table takes the new for older.
        self._ring_version = self._ring_version + 1 if self._ring_version else max(self._now_ms(), 1)

    def _hand_on(self, slot: str) -> None:
        number = int(slot.rpartition("-")[2])
        self._spares = {name: spare for name, spare in self._spares.items() if name in self._beats}
        heirs = [
            (self._beats[name][1], name)
            for name, (_, slots_max) in self._spares.items()
            if number < slots_max and self._beats[name][0].state is HostState.SPARE
        ]
        if heirs:
            self._members[slot] = replace(self._spares.pop(max(heirs)[1])[0], slot=slot)

    def _table(self) -> Table:
        return Table(self._ring_version, dict(self._members))

    def _prune(self, table: Table, now_ms: int) -> None:
        listed = {member.incarnation for member in table.members.values()}
        for name, (_, seen_ms) in list(self._beats.items()):
            if seen_ms + BEATS_KEEP_MS < now_ms and name not in listed:
                del self._beats[name]
