"""Messages to the agent ``witness``, by the edge or straight to one host, and everything that came back.

Each message has a key and is sent by the edge until it is acknowledged; what is sent straight to a host is sent there
once, and whatever that host says in the end is kept: it is what a thawed one must not say that is looked for.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from loadtest.client import Answer, Client, Event, Kind, Unreadable, lines_of
from loadtest.history import History

COME_BACK_S = 0.1
TRIES_MAX = 100
READERS = 16


@dataclass(frozen=True, slots=True)
class Heard:
    """One delta as a client got it. Times are monotonic seconds of this machine."""

    session: str
    epoch: int
    """Of the attempt that it was streamed under."""
    pid: int
    """Of the process that computed it."""
    computed_at: float
    heard_at: float


@dataclass(frozen=True, slots=True)
class Final:
    """One final answer. ``shared``: another request of that key was on its way, or done, when it came."""

    session: str
    key: str
    answer: Answer
    at: float
    shared: bool
    straight: bool
    """The request went straight to a host."""


class Traffic:
    """All requests of one experiment. ``client`` speaks to the edge."""

    def __init__(self, client: Client, history: History, seed: int) -> None:
        self.client = client
        self.heard: list[Heard] = []
        self.finals: list[Final] = []
        self.acknowledged: Counter[str] = Counter()
        self.refusals = 0
        """Answers by the edge other than 200; each was asked again."""
        self.trouble: list[str] = []
        self._history = history
        self._random = random.Random(seed)
        self._tried: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()

    def key(self, session: str) -> str:
        """A new one."""
        self._numbers[session] += 1
        return f"{session}/{self._numbers[session]}"

    async def once(
        self, session: str, key: str, metadata: dict[str, Any], *, streams: bool, straight_to: Client | None = None
    ) -> Answer:
        """Send the key's message, once."""
        message = f"message {key}"
        op = self._history.invoke_turn(session, message, key)
        self._tried[key] += 1
        answer = await (straight_to or self.client).chat(
            session,
            message,
            key=key,
            streams=streams,
            metadata=metadata,
            heard=lambda event: self._hear(session, event),
        )
        if answer.kind is Kind.OK:
            self._history.ok_turn(
                op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, epoch=answer.epoch
            )
            self.acknowledged[session] += 1
        elif answer.kind is Kind.FAIL:
            self._tried[key] -= 1
            self._history.fail(op, answer.status, answer.why)
        else:
            self._history.info(op, answer.status, answer.why)
        if answer.kind is not Kind.INFO:
            shared = self._tried[key] > 0
            self.finals.append(Final(session, key, answer, time.monotonic(), shared, straight_to is not None))
        return answer

    async def deliver(self, session: str, key: str, metadata: dict[str, Any], *, streams: bool = False) -> Answer:
        """By the edge, again and again until it is acknowledged."""
        for _ in range(TRIES_MAX):
            answer = await self.once(session, key, metadata, streams=streams)
            if answer.kind is Kind.OK:
                return answer
            self.refusals += 1
            await asyncio.sleep(COME_BACK_S)
        self.trouble.append(f"{key} was never acknowledged: {answer}")
        return answer

    async def talk(self, sessions: list[str], ending: asyncio.Event) -> None:
        """Talk in each of these sessions, one message after the other, every second one streamed."""

        async def talk_in(session: str) -> None:
            while not ending.is_set():
                over_s = self._random.choice((0.05, 0.2, 0.4))
                streams = self._random.random() < 0.5
                await self.deliver(session, self.key(session), {"over_s": over_s, "words": 5}, streams=streams)

        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(talk_in(session))

    async def logs(self, sessions: list[str]) -> dict[str, list[dict[str, Any]]]:
        """Every session read back. What can't be read is trouble."""
        gate, found = asyncio.Semaphore(READERS), dict[str, list[dict[str, Any]]]()

        async def read(session: str) -> None:
            async with gate:
                op = self._history.invoke_read(session)
                try:
                    found[session] = await self.client.turns(session)
                except Unreadable as error:
                    self._history.info(op, 0, str(error))
                    self.trouble.append(f"{session} can't be read: {error}")
                    return
                self._history.ok_read(op, lines_of(found[session]))

        await asyncio.gather(*(read(session) for session in sessions))
        return found

    def _hear(self, session: str, event: Event) -> None:
        if event.name != "delta":
            return
        epoch, now = int(event.id.partition("-")[0]), time.monotonic()
        for pid, computed_at in words_of(json.loads(event.data)["text"]):
            self.heard.append(Heard(session, epoch, pid, computed_at, now))


def words_of(text: str) -> list[tuple[int, float]]:
    """The process and the monotonic second of each word that ``witness`` has said; its first word is none of them."""
    parts = (word.partition("@") for word in text.split() if "@" in word)
    return [(int(pid), int(at) / 1e6) for pid, _, at in parts]
