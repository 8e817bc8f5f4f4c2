"""A closed loop of chat requests over kept connections, cheap enough to run beside what it measures.

Every connection keeps one request under way, over sessions of its own, so each session's turn_seq is known in
advance. A turn counts only if it was answered with 200, with exactly its own echo and its own turn_seq; anything else
is an error. The agent must be ``echo``; ``bench.traffic`` has connections that ask and expect something else. It
deliberately opens no new connections while it measures, repeats nothing, and sends no Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from loadtest.client import Client
from loadtest.processes import busy_s, cpu_s
from loadtest.redis_counts import PerTurn, between, commandstats
from loadtest.wire import Address

MESSAGE = b'{"message":"m%09d"}'
"""Of one length for all turn_seq."""

STALL_S = 30.0
"""A connection that has no answer for this long after the end of a round is an error."""


@dataclass(slots=True)
class Round:
    """What one round saw."""

    latencies_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Of the generator: user and system."""
    stack_s: float = 0.0
    """Processor time of the deployment, as far as its processes are known."""
    others_s: float = 0.0
    """Processor time that somebody else took meanwhile, or the deployment if its processes aren't known."""
    errors: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    per_turn: PerTurn | None = None

    @property
    def turns_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(slots=True)
class Session:
    """A session that belongs to one connection. ``turn_seq``: its last acknowledged turn."""

    name: str
    head: bytes
    turn_seq: int = 0


class Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, sessions: list[Session], ended: Callable[[], None]) -> None:
        self._sessions = sessions
        self._ended = ended
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._position = 0
        self.session = sessions[0]
        self._sent_at = 0.0
        self._until = 0.0
        self._round = Round()
        self._left = 0
        self.idle = True

    @staticmethod
    def head(to: Address, name: str) -> bytes:
        """What stands before the body of every request of that session."""
        return (
            f"POST /chat HTTP/1.1\r\nHost: {to.host}:{to.port}\r\nContent-Type: application/json\r\n"
            f"X-Session-Id: {name}\r\nContent-Length: {len(MESSAGE % 0)}\r\n\r\n"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.idle:
            self._round.errors.append(f"connection lost: {error}")
            self._stop()

    def start(self, round_: Round, until: float, turns_max: int = sys.maxsize) -> None:
        """Send until ``until`` (of the loop's clock), or ``turns_max`` turns. Calls ``ended`` after the last answer."""
        self._round, self._until, self._left = round_, until, turns_max
        self.idle = False
        self._next()

    def _next(self) -> None:
        if self._transport is None:
            self._round.errors.append("the server closed the connection")
            return self._stop()
        now = time.perf_counter()
        if now >= self._until or self._left == 0:
            return self._stop()
        self._left -= 1
        self.session = self.picked()
        self._sent_at = now
        self._transport.write(self.request())
        return None

    def picked(self) -> Session:
        """Whose turn is next: all in turn."""
        self._position = (self._position + 1) % len(self._sessions)
        return self._sessions[self._position]

    def request(self) -> bytes:
        """The whole request that asks for the next turn of ``session``."""
        return self.session.head + MESSAGE % (self.session.turn_seq + 1)

    def _stop(self) -> None:
        self.idle = True
        self._ended()

    def data_received(self, data: bytes) -> None:
        self._buffer = data if not self._buffer else self._buffer + data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].lower()
        length = head.find(b"\r\ncontent-length:")
        if length < 0:
            return self._wrong(f"no content-length: {head[:200]!r}")
        size = int(head[length + 17 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + size:
            return None
        body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
        return self.answered(head, body)

    def answered(self, head: bytes, body: bytes) -> None:
        """The whole answer is here. ``head`` in lower case."""
        self.judge(head, body, time.perf_counter() - self._sent_at)
        return self._next()

    def judge(self, head: bytes, body: bytes, answered_s: float) -> None:
        """Count it, as a turn or as an error."""
        session = self.session
        if not head.startswith(b"http/1.1 200") or self._buffer:
            self._round.errors.append(f"{head[:40]!r}: {body[:200]!r}")
            return
        document = json.loads(body)
        expected = session.turn_seq + 1
        right = document["turn_seq"] == expected and document["session_id"] == session.name
        if not right or document["reply"] != self.expected() or document["replayed"]:
            self._round.errors.append(f"turn {expected} of {session.name} was answered with {body[:200]!r}")
            return
        self.count(head, answered_s)

    def expected(self) -> str:
        """The reply to the request that is under way."""
        return f"m{self.session.turn_seq + 1:09d}"

    def count(self, head: bytes, answered_s: float) -> None:
        """The turn was answered rightly."""
        self.session.turn_seq += 1
        self._round.latencies_s.append(answered_s)
        state = head.find(b"x-session-state: ")
        self._round.states[head[state + 17 :].split(b"\r\n", 1)[0].decode() if state >= 0 else "unknown"] += 1

    def _wrong(self, what: str) -> None:
        self._round.errors.append(what)
        if self._transport is not None:
            self._transport.abort()


class Generator:
    """Connections and sessions that stay the same over all rounds."""

    def __init__(
        self,
        url: str,
        connections: int,
        sessions: int,
        redis_url: str | None,
        mark: str = "",
        *,
        kind: type[Connection] = Connection,
        prefix: str = "",
    ) -> None:
        """``mark``: what the environment of the deployment's processes says; empty if that isn't known. ``prefix``: of
        the sessions' names, which a number follows; by chance if empty."""
        self._to = Address.of(url)
        self._client = Client(url)
        self._redis_url = redis_url
        self._mark = mark
        self._kind = kind
        prefix = prefix or f"bench-{secrets.token_hex(4)}"
        names = (f"{prefix}-{number}" for number in range(sessions))
        self.sessions = [Session(name, kind.head(self._to, name)) for name in names]
        self._shares = [self.sessions[number::connections] for number in range(min(connections, sessions))]
        self.connections: list[Connection] = []
        self._all_idle = asyncio.Event()

    async def connect(self) -> None:
        """Open all connections."""
        loop = asyncio.get_running_loop()
        for share in self._shares:
            _, connection = await loop.create_connection(
                lambda share=share: self._kind(share, self._one_ended),  # type: ignore[misc]
                self._to.host,
                self._to.port,
            )
            self.connections.append(connection)

    async def warm_up(self, turns: int = 1, within_s: float = STALL_S) -> Round:
        """So many turns in every session: from here on all of them are resident."""
        return await self._run(within_s, [turns * len(share) for share in self._shares])

    async def measure(self, seconds: float) -> Round:
        """One round."""
        before = await commandstats(self._redis_url) if self._redis_url else {}
        busy, stack = busy_s(), self._stack_s()
        round_ = await self._run(seconds, [sys.maxsize] * len(self._shares))
        round_.stack_s = self._stack_s() - stack
        round_.others_s = max(0.0, busy_s() - busy - round_.stack_s - round_.cpu_s)
        if self._redis_url:
            round_.per_turn = between(before, await commandstats(self._redis_url), len(round_.latencies_s))
        return round_

    async def _run(self, seconds: float, turns_max: list[int]) -> Round:
        round_, cpu_s, started = Round(), _cpu_s(), time.perf_counter()
        self._all_idle.clear()
        for connection, most in zip(self.connections, turns_max, strict=True):
            connection.start(round_, started + seconds, most)
        try:
            async with asyncio.timeout(seconds + STALL_S):
                await self._all_idle.wait()
        except TimeoutError:
            round_.errors.append("a connection had no answer")
        round_.seconds, round_.cpu_s = time.perf_counter() - started, _cpu_s() - cpu_s
        return round_

    def _stack_s(self) -> float:
        return cpu_s(self._mark) if self._mark else 0.0

    def _one_ended(self) -> None:
        if all(connection.idle for connection in self.connections):
            self._all_idle.set()

    async def verify(self, of: int = sys.maxsize) -> list[str]:
        """Which sessions' logs don't end with the last acknowledged turn; of the first so many sessions."""
        wrong = []
        for session in self.sessions[:of]:
            page = await self._client.page(session.name, max(0, session.turn_seq - 1), 10)
            if [turn["turn_seq"] for turn in page] != [session.turn_seq]:
                wrong.append(f"{session.name}: turn {session.turn_seq} was acknowledged, its log ends with {page}")
        return wrong


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
