"""Requests that arrive at times of their own, however slow the answers are: an open load over kept connections.

A latency counts from the moment at which the request was to be sent, so that a stall is felt by all who would have
come during it. Each session has one request at a time; each answer must be a 200 with the session's next turn_seq and
its own echo (agent ``echo``), anything else is an error. Nothing is repeated.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from loadtest.wire import Address

MESSAGE = b'{"message":"m%09d"}'
"""Of one length for all turn_seq."""
CONNECTIONS_MAX = 400
"""Open at one time; whoever comes then waits, and its waiting counts."""
DRAIN_S = 30.0


@dataclass(slots=True, eq=False)
class Session:
    """``turn_seq``: its last acknowledged turn. ``slot``: who answered it."""

    name: str
    head: bytes
    turn_seq: int = 0
    slot: str = ""
    state: str = ""
    """What its last answer said of it: new, resident, rehydrated."""

    @classmethod
    def of(cls, name: str, to: Address) -> Session:
        head = (
            f"POST /chat HTTP/1.1\r\nHost: {to.host}:{to.port}\r\nContent-Type: application/json\r\n"
            f"X-Session-Id: {name}\r\nContent-Length: {len(MESSAGE % 0)}\r\n\r\n"
        )
        return cls(name, head.encode())


@dataclass(slots=True)
class Felt:
    """What one load saw. ``at``: when each answered request was to be sent, monotonic seconds."""

    latencies_s: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rehydrated: int = 0

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._answered: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError(f"connection lost: {error}"))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head, in lower case, and body. ConnectionError if it breaks."""
        if self.transport is None:
            raise ConnectionError("the server closed the connection")
        self._answered, self._buffer = asyncio.get_running_loop().create_future(), b""
        self.transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answered is None or self._answered.done():
            return
        head = self._buffer[:end].lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"-1")
        if length < 0:
            self._answered.set_exception(ConnectionError(f"no content-length: {head[:200]!r}"))
        elif len(self._buffer) >= end + 4 + length:
            self._answered.set_result((head, self._buffer[end + 4 :]))


class Arrivals:
    """Loads over one address. Connections are kept from one load to the next."""

    def __init__(self, to: Address) -> None:
        self.to = to
        self._idle: deque[_Connection] = deque()
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)

    def close(self) -> None:
        """All that is idle."""
        while self._idle:
            if (transport := self._idle.popleft().transport) is not None:
                transport.close()

    async def load(self, sessions: Sequence[Session], per_s: float, turns: int) -> Felt:
        """``turns`` requests, ``per_s`` of them a second, over the sessions in turn. Returns after the last answer."""
        felt, tasks = Felt(), set[asyncio.Task[None]]()
        begun = time.monotonic()
        for number in range(turns):
            due = begun + number / per_s
            if (early_s := due - time.monotonic()) > 0.001:
                await asyncio.sleep(early_s)
            elif number % 20 == 0:
                await asyncio.sleep(0)  # Behind: whoever was started before must get to run.
            task = asyncio.create_task(self._turn(sessions[number % len(sessions)], due, felt))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_S)
        felt.errors += ["no answer"] * len(tasks)
        return felt

    async def all_at_once(self, sessions: Sequence[Session], at_one_time: int = 64) -> Felt:
        """One turn in each session, as fast as it goes."""
        felt, rest = Felt(), iter(sessions)

        async def work() -> None:
            for session in rest:
                await self._turn(session, time.monotonic(), felt)

        await asyncio.gather(*(work() for _ in range(at_one_time)))
        return felt

    async def _turn(self, session: Session, due: float, felt: Felt) -> None:
        async with self._places:
            try:
                connection = await self._connection()
                head, body = await connection.ask(session.head + MESSAGE % (session.turn_seq + 1))
            except OSError as error:
                felt.errors.append(f"{session.name}: {error}")
                return
        answered = time.monotonic()
        self._idle.append(connection)
        if (wrong := _wrong(session, head, body)) is not None:
            felt.errors.append(wrong)
            return
        session.turn_seq += 1
        session.slot, session.state = _header(head, b"x-served-by"), _header(head, b"x-session-state")
        felt.rehydrated += session.state == "rehydrated"
        felt.latencies_s.append(answered - due)
        felt.at.append(due)

    async def _connection(self) -> _Connection:
        while self._idle:
            if (kept := self._idle.pop()).transport is not None:
                return kept  # Those that were closed while nobody used them are no error of anybody's.
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self.to.host, self.to.port)
        return connection


def _wrong(session: Session, head: bytes, body: bytes) -> str | None:
    if not head.startswith(b"http/1.1 200"):
        return f"{session.name}: {head[:40]!r} {body[:200]!r}"
    document, expected = json.loads(body), session.turn_seq + 1
    right = document["turn_seq"] == expected and document["session_id"] == session.name
    if not right or document["reply"] != f"m{expected:09d}":
        return f"turn {expected} of {session.name} was answered with {body[:200]!r}"
    return None


def _header(head: bytes, name: bytes) -> str:
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0].decode()
