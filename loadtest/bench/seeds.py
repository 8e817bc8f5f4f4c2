"""Talks of a wanted length, many of them, without saying every turn: one is led, or written, and the store copies it.

A copy of Rehydra's has no holder, as a released session's, so whoever is asked claims it and loads it. The names of the
keys and of the lease's fields are as documented in the product (``keys.py``, ``fence.lua``); whoever changes them
there finds every history here at turn 1, which no measurement takes for an answer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from loadtest.bench.agents import TIMES
from loadtest.bench.load import Spec, load
from loadtest.bench.traffic import MESSAGE_BYTES
from loadtest.redis_wire import ask

CONNECTIONS = 64
BATCH = 500
"""Copies in one script: the store does nothing else meanwhile, and hosts want to beat."""
TALK = "seed-talk"

COPY = """
local from, to, parts, holder = ARGV[1], ARGV[2], {}, {'token', 'incarnation', 'slot', 'address', 'takeovers'}
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  for part = 5, #ARGV do
    local pattern = ARGV[part]
    local target = string.gsub(pattern, 'NAME', to .. '-' .. number)
    redis.call('COPY', string.gsub(pattern, 'NAME', from) .. '', target, 'REPLACE')
    if string.sub(pattern, -6) == ':lease' then
      redis.call('HDEL', target, unpack(holder))
    end
  end
end
return 'done'
"""


class Seeds(Protocol):
    """How one system's talks are made."""

    async def prepare(self, histories: Sequence[int]) -> None:
        """Have one talk of each of these lengths, in turns."""

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        """``prefix-0``, ``prefix-1``, ... have so many turns."""


class NoSeeds:
    """Of handlers that know no sessions."""

    async def prepare(self, histories: Sequence[int]) -> None:
        """Nothing to do."""

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        """Nothing to do."""


class RehydraSeeds:
    """One talk is led over HTTP, and a copy kept at each length on the way."""

    def __init__(self, url: str, redis_url: str, prefix: str = "rehydra") -> None:
        self._url = url
        self._redis_url = redis_url
        self._patterns = [f"{prefix}:{{-:NAME}}:{part}" for part in ("lease", "log", "ids")]

    async def prepare(self, histories: Sequence[int]) -> None:
        reached = 0
        for history in sorted({history for history in histories if history}):
            spec = Spec(self._url, 1, 1, TALK, history=reached, warm_turns=history - reached)
            async with load(spec) as talking:
                await talking.warm()
            await copied(self._redis_url, f"{TALK}-0", f"seed-{history}", 1, self._patterns)
            reached = history

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        if history:
            await copied(self._redis_url, f"seed-{history}-0", prefix, sessions, self._patterns)


class LedSeeds:
    """Every talk is led over HTTP, where no store can be given a copy."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def prepare(self, histories: Sequence[int]) -> None:
        """Nothing to do."""

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        if history:
            spec = Spec(self._url, min(sessions, CONNECTIONS), sessions, prefix, warm_turns=history)
            async with load(spec) as leading:
                await leading.warm()


class RewritingSeeds:
    """The talk is one JSON value; it is written as the rival writes it."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    async def prepare(self, histories: Sequence[int]) -> None:
        for history in sorted({history for history in histories if history}):
            await ask(self._redis_url, "SET", f"talk:seed-{history}-0", json.dumps(talk(history)))

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        if history:
            await copied(self._redis_url, f"seed-{history}-0", prefix, sessions, ["talk:NAME"])


def talk(turns: int) -> list[dict[str, object]]:
    """Turns as ``baselines.rewriting`` keeps them."""
    texts = (f"m{number:09d} {TALK} ".ljust(MESSAGE_BYTES, "x") for number in range(1, turns + 1))
    return [
        {"turn_seq": number, "turn_id": f"r:{number:032x}", "message": text, "reply": text * TIMES}
        for number, text in enumerate(texts, 1)
    ]


class GraphSeeds:
    """LangGraph's checkpoints, written by its own program. ``command`` runs it, with these words behind."""

    def __init__(self, command: Callable[..., Awaitable[None]]) -> None:
        self._command = command

    async def prepare(self, histories: Sequence[int]) -> None:
        """Nothing to do: checkpoints name their thread, so none can be copied."""

    async def make(self, history: int, prefix: str, sessions: int) -> None:
        if history:
            await self._command(prefix, str(sessions), str(history))


async def copied(url: str, name: str, prefix: str, sessions: int, patterns: Sequence[str]) -> None:
    """Copy one talk's keys to ``prefix-0`` and so on. OSError if the store refuses."""
    for first in range(0, sessions, BATCH):
        last = min(first + BATCH, sessions) - 1
        await ask(url, "EVAL", COPY, "0", name, prefix, str(first), str(last), *patterns)
