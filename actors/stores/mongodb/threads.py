"""Calls of pymongo block, so each runs in a thread: as many at one time as there are connections, the others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pymongo

from actors.settings import StoreSettings
from actors.stores.mongodb.errors import FAILURES, as_store_error
from actors.stores.places import Places

A = TypeVar("A")


class Threads:
    """Of one event loop, which they serve."""

    def __init__(self, settings: StoreSettings) -> None:
        self._timeout_s = settings.timeout_s
        self._places = Places(settings)
        self._pool = ThreadPoolExecutor(settings.connections_max, "rehydra-mongodb")

    async def run(self, work: Callable[[], A]) -> A:
        """What ``work`` returns, within ``timeout_s`` once it has begun. StoreFull: nothing was written.
        StoreUnavailable: unknown. A caller that is cancelled doesn't stop it; its place is free when it has ended."""
        await self._places.take()
        loop = asyncio.get_running_loop()

        def bounded() -> A:
            try:
                with pymongo.timeout(self._timeout_s):
                    return work()
            except FAILURES as error:
                raise as_store_error(error) from error

        def ended(_: Future[A]) -> None:
            loop.call_soon_threadsafe(self._places.give_back)

        future = self._pool.submit(bounded)
        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    async def aclose(self) -> None:
        """Wait for what is under way, each of which has a time-out. Idempotent."""
        self._places.close()
        await asyncio.to_thread(self._pool.shutdown)
