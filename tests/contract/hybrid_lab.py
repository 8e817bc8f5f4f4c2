"""The lab of a hybrid store: a real Redis and a real PostgreSQL, beside the labs that each of them has alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from actors.errors import StoreUnavailable
from actors.model import SessionKey
from actors.settings import SessionSettings
from actors.stores.hybrid import HybridStore
from actors.stores.postgres_functions import OF_HYBRID
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_membership import PostgresMembership
from actors.stores.redis_pipeline import Pipelines
from tests.contract.lab import PAGE_BYTES_MAX, TOMBSTONE_S, TTL_S, RedisLab
from tests.contract.postgres_lab import SCHEMA, PostgresLab

READS = ("read", "page", "check")


@dataclass
class Host:
    """A host's life and its two wires: what it has asked of the stores, and when it can't any more."""

    writes_left: int | None = None
    """It dies after so many writes; None: it doesn't."""
    cut: set[str] = field(default_factory=set)
    """Stores that it can't reach: "redis", "postgres"."""
    asked: list[str] = field(default_factory=list)
    pauses: dict[str, asyncio.Event] = field(default_factory=dict)
    """What is asked, such as "redis.commit", waits on its way until its event is set."""

    @property
    def dead(self) -> bool:
        return self.writes_left is not None and self.writes_left < 0

    def die(self) -> None:
        self.writes_left = -1

    async def ask(self, store: str, what: str) -> None:
        """StoreUnavailable if it can't any more. A dead host hears nothing, which is the same to whoever looks."""
        if self.writes_left is not None and what not in READS:
            self.writes_left -= 1
        if self.dead or store in self.cut:
            raise StoreUnavailable(f"{store} can't be reached")
        self.asked.append(f"{store}.{what}")
        if (pause := self.pauses.get(self.asked[-1])) is not None:
            await pause.wait()


class Wire:
    """A transport between a host and one of its stores."""

    def __init__(self, inner: Any, host: Host, store: str) -> None:
        self._inner, self._host, self._store = inner, host, store

    async def call(self, call: Any) -> Any:
        await self._host.ask(self._store, call.function if self._store == "postgres" else call.script.name)
        return await self._inner.call(call)

    async def aclose(self) -> None:
        await self._inner.aclose()


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
        host: Host | None = None,
        **own: float,
    ) -> HybridStore:
        """``host``: which runs it; ``own``: other settings of the store."""
        session = SessionSettings(ttl_s=ttl_s, tombstone_s=tombstone_s)
        update = {"ack": self.ack, "page_bytes_max": page_bytes_max, **own}
        settings = self.redis.settings.model_copy(update=update)
        lanes = Lanes(settings.model_copy(update={"url": self.postgres.settings.url}), OF_HYBRID)
        host = host or Host()
        store = HybridStore(Wire(Pipelines(settings), host, "redis"), Wire(lanes, host, "postgres"), session, settings)
        self._stores.append(store)
        return store

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
