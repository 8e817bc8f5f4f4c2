"""Ways 3 and 9: the whole talk is one JSON value in Redis, read before a turn and written after it, by any server."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.asyncio import Redis

from loadtest.baselines.chat import Message, Said, Turn, Way, next_turn

EXPIRE_S = 3600
CONNECTIONS_MAX = 100


class RedisJson(Way):
    """GET, append, SETEX: whoever writes last has the talk."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        async with Redis.from_url(stores[0], max_connections=CONNECTIONS_MAX) as redis:
            yield cls(redis)

    async def say(self, message: Message) -> Said:
        talk = await self.talk(message.session_id, "")
        turn, known = await next_turn(talk, message)
        if not known:
            await self._redis.setex(_key(message.session_id), EXPIRE_S, json.dumps([*talk, turn]))
        return Said(turn, known)

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        value: Any = await self._redis.get(_key(session_id))
        return list(json.loads(value)) if value else []


class ProcessLocks(RedisJson):
    """The same under a lock for each session, in this process. Locks are never removed, as in the guide."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def say(self, message: Message) -> Said:
        async with self._locks[message.session_id]:
            return await super().say(message)


def _key(session_id: str) -> str:
    return f"talk:{session_id}"
