"""The agents of all measurements: a reply of 1 kB for a message of 200 B, at once. They import nothing of the runtime.

Between two pieces it gives the event loop one turn, as an agent does that awaits a model: what an agent says without
any await is one delta.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

TIMES = 5
DELTAS = 50
PIECES = "p"
"""A message that begins so is answered in ``DELTAS`` pieces, any other in one."""


async def answer(conversation: Any) -> AsyncIterator[str]:
    """The message ``TIMES`` times over."""
    reply = str(conversation.message) * TIMES
    if not reply.startswith(PIECES):
        yield reply
        return
    size = -(-len(reply) // DELTAS)
    for begin in range(0, len(reply), size):
        yield reply[begin : begin + size]
        await asyncio.sleep(0)


class Last:
    """The same, by an agent that declares that it needs the last turns only."""

    window = 50

    async def __call__(self, conversation: Any) -> AsyncIterator[str]:
        async for piece in answer(conversation):
            yield piece
