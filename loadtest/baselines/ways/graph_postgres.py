"""Way 17 on PostgreSQL: ``langgraph-checkpoint-postgres`` over a pool of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # type: ignore[import-not-found, unused-ignore]
from psycopg.rows import dict_row  # type: ignore[import-not-found, unused-ignore]
from psycopg_pool import AsyncConnectionPool  # type: ignore[import-not-found, unused-ignore]

from loadtest.baselines.ways.graph import LangGraph

POOL_MIN, POOL_MAX = 4, 20
SETTINGS = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
"""What the saver's documentation asks of its connections."""


class LangGraphPostgres(LangGraph):
    """One saver for each server, which it makes the tables with."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        pool = AsyncConnectionPool(stores[0], min_size=POOL_MIN, max_size=POOL_MAX, kwargs=SETTINGS, open=False)
        async with pool:
            saver = AsyncPostgresSaver(pool)
            await saver.setup()
            yield cls(saver)
