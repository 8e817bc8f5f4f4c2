"""Way 17 on Redis: ``langgraph-checkpoint-redis``, which needs a Redis with RedisJSON and RediSearch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from langgraph.checkpoint.redis.aio import AsyncRedisSaver  # type: ignore[import-not-found, unused-ignore]

from loadtest.baselines.ways.graph import LangGraph

ROOMY = {"max_connections": 1_000}
"""By default the client's pool has 100 connections and raises beyond them, which would be counted as its errors."""


class LangGraphRedis(LangGraph):
    """One saver for each server, as its documentation has it; it makes its indices itself."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        async with AsyncRedisSaver.from_conn_string(stores[0], connection_args=ROOMY) as saver:
            yield cls(saver)
