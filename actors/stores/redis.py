"""The checkpoint store in Redis (7.0 or newer, or Valkey): one script and one round trip per call.

The promises of ``base`` are kept by the scripts in ``lua/``; this module only joins calls (``scripts``) to a
transport. :meth:`RedisStore.open` looks at the server before the first turn, so that what is wrong with it is said in
one sentence at the start and not by lost sessions later.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from actors.errors import Misconfigured, StoreFull, StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn
from actors.settings import Settings
from actors.stores import scripts
from actors.stores.base import CheckAnswer, ClaimAnswer, CommitAnswer, DeleteAnswer, ReadAnswer, ReleaseAnswer
from actors.stores.keys import Keys
from actors.stores.redis_fit import require_fit
from actors.stores.redis_pipeline import Pipelines
from actors.stores.scripts import Call
from actors.stores.url import shown

A = TypeVar("A")


class Transport(Protocol):
    """How calls reach the server."""

    async def call(self, call: Call[A]) -> A:
        """The decoded answer; StoreUnavailable if there was none."""
        ...

    async def aclose(self) -> None:
        """Free connections. Idempotent."""
        ...


class RedisStore:
    """The :class:`~actors.stores.base.SessionStore` on a Redis server.

    ``ttl_s`` and ``tombstone_s`` are those of the session settings, ``page_bytes_max`` of the store's.
    """

    def __init__(
        self, transport: Transport, keys: Keys, ttl_s: float, tombstone_s: float, page_bytes_max: int = 8 << 20
    ) -> None:
        self._transport = transport
        self._keys = keys
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = max(1, int(tombstone_s * 1000))
        self._page_bytes_max = page_bytes_max

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """A store whose server was found fit and runs scripts. Misconfigured says in one sentence what isn't so."""
        await require_fit(settings.store.url, settings.store.timeout_s)
        keys = Keys(settings.store.prefix)
        transport = Pipelines(settings.store)
        try:
            await transport.call(scripts.schema(keys))
        except StoreFull as error:
            await transport.aclose()
            raise Misconfigured(f"The store at {shown(settings.store.url)} can't be used: {error}") from error
        except StoreUnavailable as error:
            await transport.aclose()
            raise Misconfigured(f"The store at {shown(settings.store.url)} doesn't run scripts: {error}") from error
        except BaseException:
            await transport.aclose()
            raise
        session = settings.session
        return cls(transport, keys, session.ttl_s, session.tombstone_s, settings.store.page_bytes_max)

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        return await self._transport.call(scripts.claim(self._keys, key, token, host, over, self._ttl_ms, window))

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        return await self._transport.call(
            scripts.commit(self._keys, key, lease, previous_turn_id, turn, state, self._ttl_ms)
        )

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        return await self._transport.call(scripts.release(self._keys, key, lease, turn_seq, last_turn_id))

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        return await self._transport.call(
            scripts.check(self._keys, key, lease, turn_seq, last_turn_id, running, refused)
        )

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        return await self._transport.call(scripts.delete(self._keys, key, turn_id, self._tombstone_ms))

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        return await self._transport.call(scripts.read(self._keys, key, after, limit, self._page_bytes_max))

    async def aclose(self) -> None:
        await self._transport.aclose()
