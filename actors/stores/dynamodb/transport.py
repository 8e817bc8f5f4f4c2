"""Requests to DynamoDB: each is sent once, waits for its place and its answer, and is never repeated here.

What runs at the same time: up to ``connections_max`` requests of one host, on connections that are kept open; the
others wait for a place, ``waiting_max`` of them at most, for ``timeout_s`` at most. There is no pipeline: DynamoDB has
none, and each commit is a request of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import aiohttp
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from actors.settings import StoreSettings
from actors.stores.dynamodb.address import Address
from actors.stores.dynamodb.errors import as_store_error
from actors.stores.places import Places


@cache
def _session() -> Any:
    # One a process: it keeps the description of the service, which takes a good part of a second to read.
    return get_session()


class Transport:
    """One host's way to one table. Belongs to one event loop, which begins it with the first call."""

    def __init__(self, address: Address, settings: StoreSettings) -> None:
        self.table = address.table
        self._address = address
        self._settings = settings
        self._places = Places(settings)
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> Any:
        """Make the client, which connects with its first call. The first one of a process takes a while: it reads the
        description of the service, and blocks the loop for so long."""
        async with self._opening:
            if self._client is None:
                options = self._address.client_options(self._settings.timeout_s, self._settings.connections_max)
                self._client = await self._stack.enter_async_context(_session().create_client("dynamodb", **options))
            return self._client

    async def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """The answer. Contested: nothing was written. StoreFull: nor will it be. StoreUnavailable: unknown."""
        await self._places.take()
        try:
            client = self._client or await self.open()
            async with asyncio.timeout(self._settings.timeout_s):
                answer: dict[str, Any] = await getattr(client, operation)(**request)
                return answer
        except (BotoCoreError, ClientError, aiohttp.ClientError, OSError) as error:  # A time-out is an OSError.
            raise as_store_error(error) from error
        finally:
            self._places.give_back()

    async def aclose(self) -> None:
        """Close the connections; later calls are StoreUnavailable. Idempotent."""
        self._places.close()
        await self._stack.aclose()
