"""What clients do: turns with and without keys, streams, repeats, preconditions, bursts, reads, deletions.

A client with a key repeats its message under it until it knows how it ended. Nothing here judges an answer: that is the
checker's work, which sees the same events as these clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.errors import MailboxFull, Outcome, RehydraError, StoreFull
from actors.model import SessionKey, TurnRequest, fingerprint_of
from actors.ports import Done
from actors.stores.base import Turns
from tests.simulation.edge import NoAnswer
from tests.simulation.history import Completed, Invoked

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TRIES_MAX = 60


class Client:
    """One person. Starts from ``run``; ``ask`` is one message until its end."""

    def __init__(self, cluster: Cluster, name: str, rng: random.Random, sessions: list[SessionKey]) -> None:
        self._cluster = cluster
        self._rng = rng
        self._sessions = sessions
        self._number = 0
        self.name = name
        self.asked: list[tuple[SessionKey, str, str]] = []
        """(session, turn_id, message) of keyed turns that have ended well."""
        self._seen: dict[SessionKey, int] = {}
        self.haste = 0.1
        """How often it goes away at once, and comes back with the same key."""

    async def run(self, actions: int, pace_s: float, over: Callable[[], bool]) -> None:
        """Up to so many actions; few more once the trouble is over."""
        for number in range(actions):
            if over() and number > 2:
                break
            await asyncio.sleep(self._rng.expovariate(1 / pace_s))
            await self._act()

    async def _act(self) -> None:
        rng, plan = self._rng, self._cluster.plan
        key = rng.choice(self._sessions)
        kinds = ("read", "delete", "burst", "repeat", "twins", "build on", "ask")
        weights = (0.08, plan.deletions, plan.burst, plan.repeats, plan.twins, 0.1, 0.5)
        match rng.choices(kinds, weights)[0]:
            case "read":
                await self.read(key)
            case "delete":
                await self.delete(key)
                if self.asked and rng.random() < 0.7:
                    await self._repeat()
            case "burst":
                await self._burst(key)
            case "repeat" if self.asked:
                await self._repeat()
            case "twins":
                await self._twins(key)
            case "build on" if key in self._seen:
                await self.ask(key, self._message(), if_match=self._seen[key] + rng.choice((0, 0, 0, 1)))
            case _:
                await self.ask(key, self._message(), keyed=rng.random() < 0.8)

    def _message(self) -> str:
        return f"{self._cluster.plan.behaviour(self._rng)} {self.name} {self._rng.randrange(1 << 30)}"

    async def _burst(self, key: SessionKey) -> None:
        """More at once than a mailbox holds."""
        count = self._rng.choice((3, 4, 7))
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self.ask(key, self._message()))
                await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.01)))

    async def _repeat(self) -> None:
        """An old key again: the same message, or, wrongly, another."""
        key, turn_id, message = self._rng.choice(self.asked)
        if self._rng.random() < 0.2:
            message = self._message()
        if_match = self._rng.choice((None, None, 0, 1))
        await self._try_on(key, turn_id, message, if_match, patient=True)

    async def _twins(self, key: SessionKey) -> None:
        """The same key several times at one moment."""
        turn_id, message = self._turn_id(), self._message()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._rng.choice((2, 2, 5))):
                group.create_task(self._try_on(key, turn_id, message, None, patient=self._rng.random() < 0.7))
                if self._rng.random() < 0.1:
                    message = self._message()  # Wrongly, under the same key.
                await asyncio.sleep(self._rng.choice((0.0, 0.02, 0.3, 2.0)))

    def _turn_id(self, keyed: bool = True) -> str:
        self._number += 1
        return f"{'k' if keyed else 'r'}:{self.name}.{self._number}"

    async def ask(
        self, key: SessionKey, message: str, *, keyed: bool = True, if_match: int | None = None
    ) -> Done | RehydraError | None:
        """One message to its end. None if it stays unknown (without a key), or too many tries were needed."""
        tries = TRIES_MAX if keyed else 1
        return await self._try_on(key, self._turn_id(keyed), message, if_match, patient=True, tries=tries)

    async def probe(self, key: SessionKey) -> None:
        """One quick turn, waited for."""
        self.haste = 0.0
        await self.ask(key, "quick probe")

    async def _try_on(
        self,
        key: SessionKey,
        turn_id: str,
        message: str,
        if_match: int | None,
        *,
        patient: bool,
        tries: int = TRIES_MAX,
    ) -> Done | RehydraError | None:
        rng = self._rng
        request = TurnRequest(key, turn_id, fingerprint_of(message, None), message, None, if_match)
        stream = rng.random() < self._cluster.plan.streams
        for number in range(tries):
            impatient = not patient or (number == 0 and rng.random() < self.haste and tries > 1)
            patience_s = rng.choice((0.0005, 0.005, 0.05, 1.0)) if impatient else 400.0
            final = await self._attempt(request, stream, patience_s)
            if isinstance(final, Done):
                self._seen[key] = final.turn.turn_seq
                if turn_id.startswith("k:"):
                    self.asked.append((key, turn_id, message))
                return final
            if isinstance(final, RehydraError) and final.outcome is Outcome.NOT_DONE:
                if not isinstance(final, MailboxFull | StoreFull) and rng.random() < 0.7:
                    return final
            if not patient:
                return final
            await asyncio.sleep(rng.uniform(0.01, 0.6))
        return None

    async def _attempt(self, request: TurnRequest, stream: bool, patience_s: float) -> Done | RehydraError | None:
        history = self._cluster.history
        op = self._cluster.loop.number()
        history.add(Invoked(op, self.name, "chat", request.key, request.turn_id, request.fingerprint, request.if_match))
        try:
            async with asyncio.timeout(patience_s):
                final = await self._cluster.edge.chat(request, stream)
        except (NoAnswer, TimeoutError):
            history.add(Completed(op, "info"))
            return None
        history.add(Completed(op, "ok" if isinstance(final, Done) else "fail", final))
        return final

    async def read(self, key: SessionKey) -> Any:
        """All turns, in one page."""
        return await self._call("read", key, lambda process: process.host.read(key, 0, 1_000_000))

    async def delete(self, key: SessionKey) -> Any:
        turn_id = self._turn_id()
        return await self._call("delete", key, lambda process: process.host.delete(key, turn_id))

    async def _call(self, kind: str, key: SessionKey, work: Any) -> Turns | RehydraError | None:
        history = self._cluster.history
        op = self._cluster.loop.number()
        history.add(Invoked(op, self.name, kind, key))
        try:
            async with asyncio.timeout(60.0):
                result = await self._cluster.edge.call(key.session_id, work)
        except (NoAnswer, TimeoutError):
            history.add(Completed(op, "info"))
            return None
        except RehydraError as error:
            history.add(Completed(op, "fail", error))
            return error
        history.add(Completed(op, "ok", result))
        return result  # type: ignore[no-any-return]
