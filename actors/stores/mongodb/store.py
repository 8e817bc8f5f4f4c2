"""The checkpoint store in MongoDB: one document per session, one conditional write per call.

A commit is one ``find_one_and_update``: its filter is the fence (born, epoch, token), the sequence (turn_seq and last
turn id), that the turn's id isn't in the log, and that the session lives; its update appends the turn and replaces the
state. MongoDB does that to one document in one step. If nothing matched, the document is read, and that moment is the
call's: :mod:`~actors.stores.lease_rules` says what it means. There is no second document that a crash could leave
behind half-written, so there are no races to tell of beyond: somebody else changed the document in between, read again.

Every other change is a read, a decision by the rules, and a write on the condition that ``rev`` is still what was
read. A claim gets state and log in the answer to its write. So: a commit is one request, a claim two, a read one.

Time is the injected ``now_ms``, the host's wall clock; see :mod:`~actors.stores.lease_rules` why that is safe, and
``fit`` for how far it may be off. The server's own clock only clears away what hosts no longer see.

The calls of pymongo block, so each runs in a thread of its own pool. What is tested is this code, against mongomock-ng,
which has no threads, no network and no replica set: see README.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from actors.errors import StoreUnavailable
from actors.model import Checkpoint, HostRef, Lease, SessionKey, Turn
from actors.settings import Settings, StoreSettings
from actors.stores import lease_rules as rules
from actors.stores.base import (
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Deleted,
    Granted,
    Held,
    Missing,
    Ok,
    ReadAnswer,
    ReleaseAnswer,
    Replayed,
    Turns,
)
from actors.stores.codec import decode_turn, decode_turns, encode_turn
from actors.stores.lease_rules import Known, Record
from actors.stores.mongodb import documents, requests
from actors.stores.mongodb.fit import connect, require_fit, require_limits
from actors.stores.mongodb.requests import WITHOUT_LOG, WITHOUT_TURNS
from actors.stores.mongodb.threads import Threads

A = TypeVar("A")
Change = Callable[[Record | None, int, int], tuple[A, Record | None]]
"""(the record as it is, where the caller's last turn stands, where the turn does that is asked about) -> (the answer,
the record to write; None: nothing is)."""

TRIES: Final = 12
"""Looks at a session until it held still. Each that was in vain means that somebody else's write was done."""


class MongoStore:
    """The :class:`~actors.stores.base.SessionStore` in one collection.

    ``ttl_s`` and ``tombstone_s`` are those of the session settings, the limits those of the store's. ``now_ms`` is this
    host's wall clock in ms. Belongs to one event loop.
    """

    def __init__(
        self,
        sessions: Any,
        settings: StoreSettings,
        ttl_s: float,
        tombstone_s: float,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = max(1, int(tombstone_s * 1000))
        self._now_ms = now_ms
        self._threads = Threads(settings)

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """A store whose server was found fit. Misconfigured says in one sentence what isn't so."""
        require_limits(settings)
        fit = await asyncio.to_thread(require_fit, settings.store, begin=True)
        store = settings.store
        database = connect(store.url, store.timeout_s, store.connections_max)
        sessions = database.with_options(read_concern=fit.read_concern)[documents.sessions(store.prefix)]
        return cls(sessions, store, settings.session.ttl_s, settings.session.tombstone_s)

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        rules.require_window(window)

        def change(record: Record | None, *_: int) -> tuple[Held | Deleted | None, Record | None]:
            after = rules.claimed(record, token, host, over, self._now_ms(), self._ttl_ms)
            return (None, after) if isinstance(after, Record) else (after, None)

        def claim() -> ClaimAnswer:
            refusal, document = self._change(key, change, window=window, expired_too=True)
            return refusal if refusal is not None else _granted(key, document, window)

        return await self._threads.run(claim)

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        assert turn.turn_id and turn.turn_seq >= 1, "A turn has an id and counts from 1."
        rules.require_shown(turn.turn_seq - 1, previous_turn_id)
        encoded = encode_turn(key.tenant, turn)

        def commit() -> CommitAnswer:
            for _ in range(TRIES):
                if self._append(key, lease, previous_turn_id, turn, encoded, state):
                    return Ok()
                answer = self._judged(key, lease, previous_turn_id, turn)
                if isinstance(answer, Known):
                    recorded = self._recorded(key, lease.born, answer.turn_seq)
                    if recorded is not None:
                        return Replayed(recorded)
                elif answer is not None:
                    return answer
            raise _contended(key)

        return await self._threads.run(commit)

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        rules.require_shown(turn_seq, last_turn_id)

        def change(record: Record | None, place: int, _: int) -> tuple[ReleaseAnswer, Record | None]:
            return rules.released(record, lease, turn_seq, place)

        return await self._threads.run(lambda: self._change(key, change, last_turn_id)[0])

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        rules.require_shown(turn_seq, last_turn_id)
        rules.require_one_of(running, refused)

        def change(record: Record | None, place: int, known: int) -> tuple[CheckAnswer | Known, Record | None]:
            return rules.checked(record, lease, turn_seq, place, running, known)

        def check() -> CheckAnswer:
            for _ in range(TRIES):
                answer, _document = self._change(key, change, last_turn_id, running or refused)
                if not isinstance(answer, Known):
                    return answer
                if (recorded := self._recorded(key, lease.born, answer.turn_seq)) is not None:
                    return Replayed(recorded)
            raise _contended(key)

        return await self._threads.run(check)

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        def change(record: Record | None, *_: int) -> tuple[DeleteAnswer, Record | None]:
            return rules.buried(record, turn_id, self._now_ms(), self._tombstone_ms)

        return await self._threads.run(lambda: self._change(key, change)[0])

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        assert after >= 0 and limit >= 0, "Turns count from 1."
        projection = {"state": 0, "log": {"$slice": [after, limit]}} if limit else WITHOUT_LOG

        def read() -> ReadAnswer:
            document = self._living(self._sessions.find_one({"_id": documents.id_of(key)}, projection))
            if document is None:
                return Missing()
            if document["deleted"]:
                return Deleted()
            page, size_bytes = list[bytes](), 0
            for turn in document.get("log", ()):
                size_bytes += len(turn["record"])
                if page and size_bytes > self._settings.page_bytes_max:
                    break
                page.append(turn["record"])
            return Turns(decode_turns(key.tenant, page), document["turn_seq"])

        return await self._threads.run(read)

    async def aclose(self) -> None:
        await self._threads.aclose()
        self._sessions.database.client.close()

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _change(
        self,
        key: SessionKey,
        change: Change[A],
        last_turn_id: str = "",
        about: str = "",
        window: int | None = None,
        expired_too: bool = False,
    ) -> tuple[A, documents.Document]:
        """Read, decide, and write if nobody has in between, else again. The answer, and what stands there then."""
        for _ in range(TRIES):
            found, place, at = None, None, 0
            if not about:
                document = self._sessions.find_one({"_id": documents.id_of(key)}, WITHOUT_LOG)
                found = documents.record_in(document) if document else None
                place = found.place(last_turn_id) if found else 0
            if place is None:  # The record alone doesn't tell: all ids are needed.
                document = self._sessions.find_one({"_id": documents.id_of(key)}, WITHOUT_TURNS)
                found = documents.record_in(document) if document else None
                place, at = requests.place(document, last_turn_id), requests.place(document, about)
            living = found if found and not found.expired(self._now_ms()) else None
            answer, after = change(found if expired_too else living, place, at)
            if after is None:
                return answer, {}
            written = self._write(key, found, after, window)
            if written is not None:
                return answer, written
        raise _contended(key)

    def _write(
        self, key: SessionKey, found: Record | None, after: Record, window: int | None
    ) -> documents.Document | None:
        """``after`` in the place of ``found``, and the document then; None if ``found`` stands there no more."""
        if found is None:
            document = documents.begun(key, after)
            try:
                self._sessions.insert_one(dict(document))
            except DuplicateKeyError:
                return None
            return document
        unchanged = {"_id": documents.id_of(key), "born": found.born, "rev": found.rev}
        fields = documents.fields_of(after)
        if after.born != found.born or after.deleted:
            fields |= {"state": b"", "log": []}
        written: documents.Document | None = self._sessions.find_one_and_update(
            unchanged,
            {"$set": fields},
            projection=requests.last_turns(after.turn_seq, window),
            return_document=ReturnDocument.AFTER,
        )
        return written

    def _append(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, record: bytes, state: bytes | None
    ) -> bool:
        """The turn is in the log, or nothing was changed."""
        now_ms = self._now_ms()
        expires_ms = now_ms + self._ttl_ms if self._ttl_ms else 0
        append = requests.append_turn(key, lease, previous_turn_id, turn, record, state, now_ms, expires_ms)
        return self._sessions.find_one_and_update(*append, projection={"_id": 1}) is not None

    def _judged(self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn) -> CommitAnswer | Known | None:
        """What the document says at one moment; None: that the commit would be accepted."""
        document = self._living(self._sessions.find_one({"_id": documents.id_of(key)}, WITHOUT_TURNS))
        record = documents.record_in(document) if document else None
        known = None
        if document is not None and (at := requests.place(document, turn.turn_id)):
            known = (at, document["log"][at - 1]["fingerprint"])
        return rules.refused(record, lease, turn, requests.place(document, previous_turn_id), known)

    def _recorded(self, key: SessionKey, born: int, turn_seq: int) -> Turn | None:
        """The turn that stands there; None if that life has ended since."""
        one = {"state": 0, "log": {"$slice": [turn_seq - 1, 1]}}
        document = self._living(self._sessions.find_one({"_id": documents.id_of(key), "born": born}, one))
        if document is None or not document["log"]:
            return None
        return decode_turn(key.tenant, document["log"][0]["record"])

    def _living(self, document: documents.Document | None) -> documents.Document | None:
        return None if document is None or documents.record_in(document).expired(self._now_ms()) else document


def _granted(key: SessionKey, document: documents.Document, window: int | None) -> Granted:
    record = documents.record_in(document)
    turns = decode_turns(key.tenant, [turn["record"] for turn in document["log"]])
    wanted = min(window or record.turn_seq, record.turn_seq)
    if len(turns) != wanted or (turns and turns[-1].turn_seq != record.turn_seq):
        raise rules.damaged(key)
    suspects = record.suspects if record.takeovers else ()
    return Granted(
        Lease(record.epoch, record.token, record.born), Checkpoint(turns, document["state"]), record.takeovers, suspects
    )


def _contended(key: SessionKey) -> StoreUnavailable:
    return StoreUnavailable(f"Too many write to session {key.session_id!r} at one time.")
