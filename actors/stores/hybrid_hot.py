"""The Redis of a hybrid store: there, or gone for the moment.

A call that isn't answered puts Redis out of use for this host: no further call waits for it, until a probe in the
background has been answered. Whoever depends on it is told after each probe that was not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from actors.errors import Misconfigured, StoreFull, StoreUnavailable
from actors.stores import scripts
from actors.stores.base import LogDamaged
from actors.stores.keys import Keys
from actors.stores.scripts import Call

A = TypeVar("A")
log = logging.getLogger(__name__)
PROBE_S: Final = 0.5
"""Time between two probes of a Redis that is gone."""


class Transport(Protocol):
    """How calls reach Redis."""

    async def call(self, call: Call[A]) -> A:
        """The decoded answer; StoreUnavailable if there was none."""
        ...

    async def aclose(self) -> None:
        """Free connections. Idempotent."""
        ...


class Hot:
    """Calls Redis while it is ``up``. ``on_gone`` is awaited as long as it is gone, again and again."""

    def __init__(self, transport: Transport, keys: Keys, on_gone: Callable[[], Awaitable[None]]) -> None:
        self.keys = keys
        self._transport = transport
        self._on_gone = on_gone
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""
        return self._probing is None

    async def call(self, call: Call[A]) -> A:
        """The decoded answer. StoreFull: nothing was written. StoreUnavailable: unknown."""
        try:
            return await self._transport.call(call)
        except (StoreFull, LogDamaged):
            raise
        except StoreUnavailable as error:
            self.gone(error.detail)
            raise

    async def ask(self, call: Call[A]) -> A | None:
        """The decoded answer; None if there was none, or if Redis is gone: for what can be done without it."""
        if not self.up:
            return None
        try:
            return await self.call(call)
        except StoreUnavailable:
            return None

    def gone(self, why: str) -> None:
        """It doesn't answer: don't ask it before a probe was answered."""
        if self._probing is None and not self._closed:
            log.warning("Redis is gone, and sessions go on in PostgreSQL alone: %s", why)
            self._probing = asyncio.create_task(self._probe(), name="store-probe")

    async def aclose(self) -> None:
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._transport.aclose()

    async def _probe(self) -> None:
        while True:
            try:
                # It writes, if Redis has come back empty, under which schema_version; and needs all that a turn needs.
                await self._transport.call(scripts.schema(self.keys))
            except (StoreUnavailable, Misconfigured) as error:
                log.debug("Redis is still gone: %s", error.detail)
            else:
                break
            await self._on_gone()
            await asyncio.sleep(PROBE_S)
        log.warning("Redis is back")
        self._probing = None
