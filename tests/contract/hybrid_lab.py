"""The lab of a hybrid store: a real Redis and a real PostgreSQL, beside the labs that each of them has alone."""

from __future__ import annotations

from typing import cast

from actors.model import SessionKey
from actors.settings import SessionSettings, StoreSettings
from actors.stores.hybrid import HybridStore
from actors.stores.postgres_functions import OF_HYBRID
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_membership import PostgresMembership
from actors.stores.redis_pipeline import Pipelines
from tests.contract.lab import PAGE_BYTES_MAX, TOMBSTONE_S, TTL_S, RedisLab
from tests.contract.postgres_lab import SCHEMA, PostgresLab


class HybridLab:
    """Both servers; ``ack`` as in the settings. What is looked at or lost is settled first: one moment for both."""

    def __init__(self, ack: str, redis_url: str, postgres_url: str, timeout_s: float = 2.0) -> None:
        self.kind = f"hybrid-{ack}"
        self.ack = ack
        self.postgres = PostgresLab(postgres_url, timeout_s)
        self.redis = RedisLab("valkey", redis_url)
        # One prefix for both, as where they are named by one URL.
        self.redis.sweep()
        self.redis.settings = self.redis.settings.model_copy(update={"prefix": SCHEMA, "timeout_s": timeout_s})
        self.redis.keys = type(self.redis.keys)(SCHEMA)
        self._stores: list[HybridStore] = []

    def store(
        self,
        ttl_s: float = TTL_S,
        tombstone_s: float = TOMBSTONE_S,
        page_bytes_max: int = PAGE_BYTES_MAX,
        **own: float,
    ) -> HybridStore:
        """``own``: other settings of the store."""
        session = SessionSettings(ttl_s=ttl_s, tombstone_s=tombstone_s)
        update = {"ack": self.ack, "page_bytes_max": page_bytes_max, **own}
        settings = self.redis.settings.model_copy(update=update)
        store = HybridStore(self.pipelines(settings), self.lanes(settings), session, settings)
        self._stores.append(store)
        return store

    def pipelines(self, settings: StoreSettings) -> Pipelines:
        return Pipelines(settings)

    def lanes(self, settings: StoreSettings) -> Lanes:
        return Lanes(settings.model_copy(update={"url": self.postgres.settings.url}), OF_HYBRID)

    async def settle(self) -> None:
        """PostgreSQL has what Redis has acknowledged."""
        for store in self._stores:
            await store.settle()

    def membership(self) -> PostgresMembership:
        return self.postgres.membership()

    def lose_membership(self) -> None:
        self.postgres.lose_membership()

    def age_beats(self) -> None:
        self.postgres.age_beats()

    def keep_for_ever(self, key: SessionKey) -> None:
        self.postgres.keep_for_ever(key)
        self.redis.keep_for_ever(key)

    async def snapshot(self, key: SessionKey) -> object:
        await self.settle()
        return await self.postgres.snapshot(key), await self.redis.snapshot(key)

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        await self.settle()
        postgres, redis = cast(tuple[object, object], snapshot)
        await self.postgres.restore(key, postgres)
        await self.redis.restore(key, redis)

    async def expire(self, key: SessionKey) -> None:
        await self.settle()
        await self.postgres.expire(key)
        await self.redis.expire(key)

    async def ttl_ms(self, key: SessionKey) -> int | None:
        await self.settle()
        return await self.postgres.ttl_ms(key)

    async def pass_ms(self, duration_ms: int) -> None:
        await self.postgres.pass_ms(duration_ms)

    def now_ms(self) -> int:
        return self.postgres.now_ms()

    async def aclose(self) -> None:
        for store in self._stores:
            await store.aclose()
        await self.redis.aclose()
        await self.postgres.aclose()
