"""Careless agents, for experiments. They get what every agent gets and import nothing of the runtime."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from functools import cache
from typing import Any

from loadtest.chain import Chain

CALLS = "LOADTEST_CALLS"
"""Environment variable: a file that gets a byte for every call of the agent ``counted``, from whichever process. It
doesn't begin as Rehydra's settings do: an unknown one of those is refused."""


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


async def witness(conversation: Any) -> AsyncIterator[str]:
    """Says who computed each word and when: ``pid@microseconds`` of the machine's monotonic clock, in
    ``metadata.words`` words over ``metadata.over_s`` seconds. One word before them says what it was computed from:
    the number of turns before, and a digest of the last reply.

    ``metadata.stop`` (``{"pid": n, "after": word}``): that process stops itself, once for a turn, when it has said so
    many words; after the last one it is between the agent and the commit.
    """
    metadata, turns = conversation.metadata or {}, conversation.turns
    words, over_s = int(metadata.get("words", 5)), float(metadata.get("over_s", 0))
    last = hashlib.blake2b(turns[-1].reply.encode(), digest_size=8).hexdigest() if turns else "-"
    stop = metadata.get("stop") or {}
    yield f"{len(turns)}:{last}"
    for word in range(1, words + 1):
        await asyncio.sleep(over_s / words)
        yield f" {os.getpid()}@{time.monotonic_ns() // 1000}"
        if stop.get("after") == word and stop.get("pid") == os.getpid() and conversation.turn_id not in _stopped_in:
            _stopped_in.add(conversation.turn_id)
            # The others have time to take what was said so far.
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGSTOP)


_stopped_in: set[str] = set()
"""Turns in which this process has stopped itself."""


async def lasting(conversation: Any) -> AsyncIterator[str]:
    """A word a second for ``metadata.over_s`` seconds, however long that is; then the message."""
    for second in range(int((conversation.metadata or {}).get("over_s", 0))):
        await asyncio.sleep(1.0)
        yield f"{second} "
    yield str(conversation.message)


async def counted(conversation: Any) -> str:
    """Replies what ``chained`` replies, after ``metadata.over_s`` seconds, and counts how often it is asked."""
    past = ((turn.message, turn.reply) for turn in conversation.turns)
    return await counted_reply(past, conversation.message, float((conversation.metadata or {}).get("over_s", 0)))


async def counted_reply(past: Iterable[tuple[str, str]], message: str, over_s: float) -> str:
    """The same for whoever has no conversation: ``past`` are the messages and replies before."""
    if path := os.environ.get(CALLS):
        os.write(_opened(path), b".")
    chain = Chain()
    for said, replied in past:
        chain.follow(said, replied)
    await asyncio.sleep(over_s)
    return chain.reply_to(message)


@cache
def _opened(path: str) -> int:
    """To append to: a byte of one process never stands over one of another."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
