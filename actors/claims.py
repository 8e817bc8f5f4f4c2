"""How many sessions one host loads at one time: claims wait for a place, in the order in which they came.

A claim brings a session's whole log. After the death of a host thousands are wanted at once; were all of them asked
for at once, every commit of the sessions that didn't move would wait behind their logs.
"""

from __future__ import annotations

import asyncio


class Claims:
    """Use it as an ``async with`` around one call of the store's ``claim``. ``most``: at one time so far."""

    __slots__ = ("_places", "_running", "most")

    def __init__(self, at_one_time_max: int) -> None:
        self._places = asyncio.Semaphore(at_one_time_max)
        self._running = 0
        self.most = 0

    async def __aenter__(self) -> None:
        await self._places.acquire()
        self._running += 1
        self.most = max(self.most, self._running)

    async def __aexit__(self, *error: object) -> None:
        self._running -= 1
        self._places.release()
