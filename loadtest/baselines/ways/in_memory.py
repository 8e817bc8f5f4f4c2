"""Ways 1 and 2: a dict of lists in the server's memory. Which server a client gets is the balancer's business."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from loadtest.baselines.chat import Message, Said, Turn, Way, next_turn


class InMemory(Way):
    """Appends to the list that is there when the agent has answered."""

    def __init__(self) -> None:
        self._talks: defaultdict[str, list[Turn]] = defaultdict(list)

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        yield cls()

    async def say(self, message: Message) -> Said:
        talk = self._talks[message.session_id]
        turn, known = await next_turn(talk, message)
        if not known:
            talk.append(turn)
        return Said(turn, known)

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        return self._talks.get(session_id, [])
