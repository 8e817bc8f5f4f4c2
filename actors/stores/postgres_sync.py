"""One blocking connection to PostgreSQL: for beat threads, and for the simulation's runs against a real server.

asyncpg needs an event loop, and the host's own may be blocked by an agent just when a beat is due. So this one has a
loop and a thread of its own, which do nothing else. Threads may share it; their calls queue up. A call is sent once,
waited for up to ``timeout_s``, and never repeated.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from actors.settings import StoreSettings
from actors.stores.postgres_functions import FUNCTIONS, Call, Functions
from actors.stores.postgres_lanes import Lanes

A = TypeVar("A")


class SyncTransport:
    """Sends calls to the server that ``settings.url`` names. Opens nothing, and begins no thread, before the first."""

    def __init__(
        self, settings: StoreSettings, names: Sequence[str], timeout_s: float, functions: Functions = FUNCTIONS
    ) -> None:
        self._settings = settings
        self._names = names
        self._timeout_s = timeout_s
        self._functions = functions
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread, Lanes] | None = None

    def call(self, call: Call[A]) -> A:
        """The decoded answer. StoreUnavailable if there was none: the outcome is then unknown."""
        with self._lock:
            loop, _, lanes = self._running = self._running or self._start()
        return _on(loop, lanes.call(call))

    def close(self) -> None:
        """Free connection and thread. Idempotent; a later call makes others."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            loop, thread, lanes = running
            _on(loop, lanes.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread, Lanes]:
        # A loop of the standard library on purpose: it must not share anything with the one that may be blocked.
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=_serve, args=(loop,), name="rehydra-store", daemon=True)
        thread.start()
        return loop, thread, Lanes(self._settings, self._names, 1, self._timeout_s, self._functions)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, A]) -> A:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
