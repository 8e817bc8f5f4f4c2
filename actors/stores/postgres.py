"""The checkpoint store in PostgreSQL (14 or newer): one function and one round trip per call.

The promises of ``base`` are kept by the functions in ``sql/``; this module only joins calls (``postgres_calls``) to a
transport. :meth:`PostgresStore.open` looks at the server, makes the tables if there are none, and says in one sentence
what is wrong with either.

Expiry is judged by the functions, by the server's clock, to the millisecond. That what has expired is also deleted
takes somebody who does it: each host sweeps, every ``store.sweep_s``, in small pieces.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, Self, TypeVar

from actors.errors import StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn
from actors.settings import Settings
from actors.stores import postgres_calls as calls
from actors.stores.base import CheckAnswer, ClaimAnswer, CommitAnswer, DeleteAnswer, ReadAnswer, ReleaseAnswer
from actors.stores.postgres_fit import fit_connection
from actors.stores.postgres_functions import OF_SESSIONS, Call
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_schema import prepare

A = TypeVar("A")
log = logging.getLogger(__name__)


class Transport(Protocol):
    """How calls reach the server."""

    async def call(self, call: Call[A]) -> A:
        """The decoded answer; StoreUnavailable if there was none."""
        ...

    async def aclose(self) -> None:
        """Free connections. Idempotent."""
        ...


class PostgresStore:
    """The :class:`~actors.stores.base.SessionStore` on a PostgreSQL server.

    ``ttl_s`` and ``tombstone_s`` are those of the session settings, ``page_bytes_max`` and ``sweep_s`` of the store's
    (0: it doesn't sweep by itself).
    """

    def __init__(
        self,
        transport: Transport,
        ttl_s: float,
        tombstone_s: float,
        page_bytes_max: int = 8 << 20,
        sweep_s: float = 0.0,
    ) -> None:
        self._transport = transport
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = max(1, int(tombstone_s * 1000))
        self._page_bytes_max = page_bytes_max
        self._sweeper = asyncio.create_task(self._sweep_on(sweep_s), name="store-sweeper") if sweep_s else None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """A store whose server was found fit and has the tables. Misconfigured says in one sentence what isn't so."""
        async with fit_connection(settings.store.url, settings.store.timeout_s) as connection:
            await prepare(connection, settings.store)
        session, own = settings.session, settings.store
        lanes = Lanes(own, OF_SESSIONS)
        return cls(lanes, session.ttl_s, session.tombstone_s, own.page_bytes_max, own.sweep_s)

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        return await self._transport.call(calls.claim(key, token, host, over, self._ttl_ms, window))

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        return await self._transport.call(calls.commit(key, lease, previous_turn_id, turn, state, self._ttl_ms))

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        return await self._transport.call(calls.release(key, lease, turn_seq, last_turn_id))

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        return await self._transport.call(calls.check(key, lease, turn_seq, last_turn_id, running, refused))

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        return await self._transport.call(calls.delete(key, self._tombstone_ms))

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        return await self._transport.call(calls.read(key, after, limit, self._page_bytes_max))

    async def sweep(self) -> None:
        """Take away all that has expired or was deleted by now, as far as no other host does it already."""
        while await self._transport.call(calls.sweep()):
            pass

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._transport.aclose()

    async def _sweep_on(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.sweep()
            except StoreUnavailable as error:
                log.info("what has expired wasn't swept: %s", error.detail)
