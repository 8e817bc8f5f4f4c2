"""MongoDB under the suite: mongomock-ng, or the server that ``TEST_MONGODB_URI`` names.

Every lab has collections of its own, and a clock that stands until it is moved.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import mongomock_ng

from actors.model import SessionKey
from actors.settings import StoreSettings
from actors.stores.mongodb import documents
from actors.stores.mongodb.fit import prepare, require_fit
from actors.stores.mongodb.membership import MongoMembership
from actors.stores.mongodb.store import MongoStore
from tests.contract.lab import PAGE_BYTES_MAX, TOMBSTONE_S, TTL_S

_numbers = itertools.count(1)


class Counted:
    """A collection whose calls are counted, and on mongomock come one after the other.

    MongoDB changes a document in one step; mongomock reads it and then writes it, and another thread may come between.
    """

    def __init__(self, collection: Any, lock: AbstractContextManager[Any], calls: list[str]) -> None:
        self._collection = collection
        self._lock = lock
        self._calls = calls
        # Its client is the lab's, which others go on using when a store has closed it.
        self.database = SimpleNamespace(client=SimpleNamespace(close=lambda: None))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._collection, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._calls.append(name)
                answer = method(*args, **kwargs)
                return list(answer) if name == "find" else answer

        return call


class MongoLab:
    """Collections with a prefix of their own."""

    def __init__(self, kind: str, url: str = "") -> None:
        self.kind = kind
        self.prefix = f"test-{time.time_ns():x}-{next(_numbers)}"
        self.settings = StoreSettings.model_validate({"url": url or "mongodb://mock", "prefix": self.prefix})
        if kind == "mongomock":
            self.database: Any = mongomock_ng.MongoClient()["rehydra"]
            prepare(self.database, self.prefix)
        else:
            self.database = require_fit(self.settings, begin=True)
        self.calls: list[str] = []
        lock: AbstractContextManager[Any] = threading.RLock() if kind == "mongomock" else nullcontext()
        self.sessions = Counted(self.database[documents.sessions(self.prefix)], lock, self.calls)
        self.members = Counted(self.database[documents.members(self.prefix)], lock, self.calls)
        self._stores: list[MongoStore] = []
        # The present: the server clears away what its own clock says has long expired.
        self._now_ms = time.time_ns() // 1_000_000

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> MongoStore:
        settings = self.settings.model_copy(update={"page_bytes_max": page_bytes_max})
        self._stores.append(MongoStore(self.sessions, settings, ttl_s, tombstone_s, now_ms=self.now_ms))
        return self._stores[-1]

    def membership(self) -> MongoMembership:
        return MongoMembership(self.members, self.settings.timeout_s, self.now_ms)

    def lose_membership(self) -> None:
        self._now_ms += 1000
        self.members.delete_many({})

    def age_beats(self) -> None:
        self._now_ms += 3_600_000

    def keep_for_ever(self, key: SessionKey) -> None:
        """Nothing to be done: no lab of this kind looks for what stays."""

    async def snapshot(self, key: SessionKey) -> object:
        return self.sessions.find_one({"_id": documents.id_of(key)})

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        await self.expire(key)
        if snapshot is not None:
            self.sessions.insert_one(dict(cast(documents.Document, snapshot)))

    async def expire(self, key: SessionKey) -> None:
        self.sessions.delete_one({"_id": documents.id_of(key)})

    async def ttl_ms(self, key: SessionKey) -> int | None:
        document = self.sessions.find_one({"_id": documents.id_of(key)})
        return document["expires_ms"] - self._now_ms if document and document["expires_ms"] else None

    async def pass_ms(self, duration_ms: int) -> None:
        self._now_ms += duration_ms

    def now_ms(self) -> int:
        return self._now_ms

    async def aclose(self) -> None:
        for name in (documents.sessions, documents.members, documents.schemas):
            self.database.drop_collection(name(self.prefix))
        for store in self._stores:
            await store.aclose()
        self.database.client.close()
