"""How many calls of one host are with a store at one time, and how many wait for that: both are bounded (I6)."""

from __future__ import annotations

import asyncio

from actors.errors import StoreUnavailable
from actors.settings import StoreSettings


class Places:
    """``connections_max`` places; ``waiting_max`` calls at most wait for one, ``timeout_s`` each. Of one event loop."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._free = asyncio.Semaphore(settings.connections_max)
        self._waiting = 0
        self._closed = False

    async def take(self) -> None:
        """A place, to be given back. StoreUnavailable if there was none in time: nothing was sent then."""
        if self._closed:
            raise StoreUnavailable("The connection to the checkpoint store is closed.")
        if self._waiting >= self._settings.waiting_max:
            raise StoreUnavailable("Too many calls wait for the checkpoint store (store.waiting_max).")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable("No answer of the checkpoint store: calls are queueing up.") from None
        finally:
            self._waiting -= 1

    def give_back(self) -> None:
        self._free.release()

    def close(self) -> None:
        """Nobody gets a place any more."""
        self._closed = True
