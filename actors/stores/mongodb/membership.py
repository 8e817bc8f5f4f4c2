"""The membership table in MongoDB, for a host's beat thread and for the edge.

Blocking, with short time-outs and without repeats: the next beat is the repeat. The table is one document, a
:class:`~actors.stores.roster.Roster`, which is written on the condition that it is still the one that was read. Each
host's beats are a document of their own; who is evicted, or has gone, loses them right after the table was written: if
whoever does it dies in between, they are there for some time more, and say of nobody that it lives, as they don't grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

import pymongo
from pymongo.errors import DuplicateKeyError

from actors.errors import StoreUnavailable
from actors.model import Beat, BeatReply, HostState, Member, Table
from actors.settings import StoreSettings
from actors.stores import roster as rosters
from actors.stores.mongodb import documents
from actors.stores.mongodb.errors import FAILURES, as_store_error
from actors.stores.mongodb.fit import connect
from actors.stores.roster import Beats, Roster

A = TypeVar("A")
TRIES: Final = 50
"""Looks at the table until nobody had changed it in between. Each in vain means that another's change was done."""


class MongoMembership:
    """The :class:`~actors.stores.base.MembershipStore` in one collection. Threads may share it."""

    def __init__(
        self,
        members: Any,
        timeout_s: float,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._members = members
        self._timeout_s = timeout_s
        self._now_ms = now_ms

    @classmethod
    def connect(cls, settings: StoreSettings, timeout_s: float) -> Self:
        """Opens nothing yet. ``timeout_s`` bounds one call: shorter than the time a host may be silent."""
        timeout_s = min(timeout_s, settings.timeout_s)
        database = connect(settings.url, timeout_s, 1)
        return cls(database[documents.members(settings.prefix)], timeout_s)

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        host = Member("", incarnation, address, health_port, weight)
        return self._run(
            lambda: self._change(lambda roster, _: rosters.joined(roster, host, slots_max, self._now_ms()))[0]
        )

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        now_ms = self._now_ms()
        fields = {"seen_ms": now_ms, "state": state.value, "address": address}

        def beat() -> BeatReply:
            own = {"_id": documents.BEAT + incarnation}
            if not self._members.update_one(own, {"$inc": {"counter": 1}, "$set": fields}).matched_count:
                # A first count at the clock, so that one who was forgotten never seems to go backwards.
                self._members.insert_one({**own, "counter": now_ms, **fields})
            roster, _, beats = self._look()
            for name in rosters.forgotten(roster, beats, now_ms):
                del beats[name]
                self._forget(name)
            return rosters.reply(roster, incarnation, beats, known_ring_version)

        return self._run(beat)

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        def leave() -> Table:
            table, _ = self._change(lambda roster, beats: rosters.left(roster, incarnation, beats, self._now_ms()))
            if gone:
                self._forget(incarnation)
            return table

        return self._run(leave)

    def evict(self, slot: str, incarnation: str) -> Table:
        def change(roster: Roster, beats: Beats) -> Roster:
            return rosters.evicted(roster, slot, incarnation, beats, self._now_ms())

        def evict() -> Table:
            table, changed = self._change(change)
            if changed:
                self._forget(incarnation)
            return table

        return self._run(evict)

    def table(self) -> Table:
        return self._run(lambda: _roster_in(self._members.find_one({"_id": documents.ROSTER}))[0].table)

    def close(self) -> None:
        self._members.database.client.close()

    def _run(self, work: Callable[[], A]) -> A:
        try:
            with pymongo.timeout(self._timeout_s):
                return work()
        except FAILURES as error:
            raise as_store_error(error) from error

    def _change(self, change: Callable[[Roster, Beats], Roster]) -> tuple[Table, bool]:
        """Write what ``change`` makes of the table, if nobody has written in between, else again.

        Returns the table, and whether it is another.
        """
        for _ in range(TRIES):
            roster, rev, beats = self._look()
            after = change(roster, beats)
            if after == roster:
                return roster.table, False
            fields = {"record": rosters.encode_roster(after), "rev": rev + 1}
            try:
                if not rev:
                    self._members.insert_one({"_id": documents.ROSTER, **fields})
                    return after.table, True
            except DuplicateKeyError:
                continue
            if self._members.update_one({"_id": documents.ROSTER, "rev": rev}, {"$set": fields}).matched_count:
                return after.table, True
        raise StoreUnavailable("Too many change the membership table at one time.")

    def _look(self) -> tuple[Roster, int, dict[str, tuple[Beat, int]]]:
        """The table, its rev (0: there is none yet), and everybody's last beat."""
        roster, rev = Roster(), 0
        beats: dict[str, tuple[Beat, int]] = {}
        for document in self._members.find({}):
            if document["_id"] == documents.ROSTER:
                roster, rev = _roster_in(document)
            else:
                beat = Beat(document["counter"], HostState(document["state"]), document["address"])
                beats[document["_id"].removeprefix(documents.BEAT)] = (beat, document["seen_ms"])
        return roster, rev, beats

    def _forget(self, incarnation: str) -> None:
        self._members.delete_one({"_id": documents.BEAT + incarnation})


def _roster_in(document: documents.Document | None) -> tuple[Roster, int]:
    return (rosters.decode_roster(document["record"]), document["rev"]) if document else (Roster(), 0)
