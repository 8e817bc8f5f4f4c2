"""Careless agents, for experiments. They get what every agent gets and import nothing of the runtime."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any


async def blocking(conversation: Any) -> AsyncIterator[str]:
    """Says the message, before and after it has blocked the host's event loop for ``metadata.block_s`` seconds.

    ``metadata.over_s`` is waited first, as a well-behaved agent would.
    """
    metadata = conversation.metadata or {}
    yield "before "
    await asyncio.sleep(float(metadata.get("over_s", 0)))
    time.sleep(float(metadata.get("block_s", 0)))  # noqa: ASYNC251 - that is the experiment
    yield f"after {conversation.message}"


async def deadly(conversation: Any) -> str:
    """Ends its process at the message ``die``, as a bug in a native library would; says any other message back."""
    if conversation.message == "die":
        os._exit(1)
    return str(conversation.message)


async def lasting(conversation: Any) -> AsyncIterator[str]:
    """A word a second for ``metadata.over_s`` seconds, however long that is; then the message."""
    for second in range(int((conversation.metadata or {}).get("over_s", 0))):
        await asyncio.sleep(1.0)
        yield f"{second} "
    yield str(conversation.message)
