"""Ways 4 and 7: one row of JSON for each talk in PostgreSQL, alone or behind a cache in Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg  # type: ignore[import-not-found, import-untyped, unused-ignore]
from redis.asyncio import Redis

from loadtest.baselines.chat import Message, Said, Turn, Way, next_turn

POOL_MIN, POOL_MAX = 4, 20
CACHE_S = 300

MAKE = "CREATE TABLE IF NOT EXISTS talks (id text PRIMARY KEY, turns jsonb NOT NULL, updated_at timestamptz NOT NULL)"
READ = "SELECT turns FROM talks WHERE id = $1"
WRITE = """
INSERT INTO talks (id, turns, updated_at) VALUES ($1, $2::jsonb, now())
ON CONFLICT (id) DO UPDATE SET turns = excluded.turns, updated_at = now()
"""


class PostgresJson(Way):
    """SELECT, append, INSERT ... ON CONFLICT DO UPDATE: whoever writes last has the talk."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        async with pool_of(stores[0]) as pool:
            yield cls(pool)

    async def say(self, message: Message) -> Said:
        talk = await self.talk(message.session_id, "")
        turn, known = await next_turn(talk, message)
        if not known:
            await self.write(message.session_id, json.dumps([*talk, turn]))
        return Said(turn, known)

    async def write(self, session_id: str, talk: str) -> None:
        """The whole talk, as JSON."""
        await self._pool.execute(WRITE, session_id, talk)

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        value = await self._pool.fetchval(READ, session_id)
        return list(json.loads(value)) if value else []


class HybridCache(PostgresJson):
    """A talk of the last five minutes is read from Redis, any other from PostgreSQL; both are written, Redis first."""

    def __init__(self, pool: Any, redis: Redis) -> None:
        super().__init__(pool)
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        async with pool_of(stores[1]) as pool, Redis.from_url(stores[0]) as redis:
            yield cls(pool, redis)

    async def write(self, session_id: str, talk: str) -> None:
        await self._redis.setex(f"talk:{session_id}", CACHE_S, talk)
        await super().write(session_id, talk)

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        value: Any = await self._redis.get(f"talk:{session_id}")
        if value:
            return list(json.loads(value))
        talk = await super().talk(session_id, client_state)
        if talk:
            await self._redis.setex(f"talk:{session_id}", CACHE_S, json.dumps(talk))
        return talk


@asynccontextmanager
async def pool_of(url: str) -> AsyncIterator[Any]:
    """Connections to a database that has the table."""
    async with asyncpg.create_pool(url, min_size=POOL_MIN, max_size=POOL_MAX) as pool:
        await pool.execute(MAKE)
        yield pool
