"""What the suite's connections say, and what they take for an answer.

A message has 200 B and names its session and its turn, so that an answer to another one can't pass for its own; the
reply is the message five times over, 1 kB. :class:`Talk` asks for JSON, :class:`Streaming` for a stream, whose deltas
must add up to that reply (how many they are is counted: a server may join them), and :class:`Instant` takes any 200
with a body: the handlers that it asks know no sessions.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate

from loadtest.bench.agents import PIECES, TIMES
from loadtest.generator import Connection, Round, Session
from loadtest.wire import Address

MESSAGE_BYTES = 200
ZIPF_EXPONENT = 1.0
"""The session of rank r is asked 1/r as often as the first, among those of one connection."""
SEED = 7

LAST_CHUNK = b"\r\n0\r\n\r\n"


class Talk(Connection):
    """JSON, in sessions of its own, judged to the last byte of the reply."""

    letter = "m"
    stream = b"false"

    def __init__(self, sessions: list[Session], ended: Callable[[], None]) -> None:
        super().__init__(sessions, ended)
        self.by_state: dict[str, list[float]] = {}
        self.firsts_s: list[float] = []
        """Time to the first delta of each turn, seconds; of streams only."""
        self.deltas = 0
        self._weights: list[float] = []
        self._chance = random.Random(SEED)

    @classmethod
    def body(cls, text: str) -> bytes:
        return b'{"message":"%b","stream":%b}' % (text.encode(), cls.stream)

    @classmethod
    def head(cls, to: Address, name: str) -> bytes:
        length = len(cls.body("x" * MESSAGE_BYTES))
        return (
            f"POST /chat HTTP/1.1\r\nHost: {to.host}:{to.port}\r\nContent-Type: application/json\r\n"
            f"X-Session-Id: {name}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def begin(self, zipf: bool) -> None:
        """From here on it counts: forget what was measured, and ask by Zipf's law if so wanted."""
        self.by_state, self.firsts_s, self.deltas = {}, [], 0
        if zipf:
            self._weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, len(self._sessions) + 1)))

    def picked(self) -> Session:
        if not self._weights:
            return super().picked()
        return self._sessions[bisect(self._weights, self._chance.random() * self._weights[-1])]

    def text(self) -> str:
        """The message of the turn that is under way."""
        return f"{self.letter}{self.session.turn_seq + 1:09d} {self.session.name} ".ljust(MESSAGE_BYTES, "x")

    def request(self) -> bytes:
        return self.session.head + self.body(self.text())

    def expected(self) -> str:
        return self.text() * TIMES

    def count(self, head: bytes, answered_s: float) -> None:
        super().count(head, answered_s)
        at = head.find(b"x-session-state: ")
        state = head[at + 17 :].split(b"\r\n", 1)[0].decode() if at >= 0 else "unknown"
        self.by_state.setdefault(state, []).append(answered_s)


class Instant(Talk):
    """Of handlers that know no sessions: 200 and a body is all that there is to judge."""

    def judge(self, head: bytes, body: bytes, answered_s: float) -> None:
        if head.startswith(b"http/1.1 200") and body and not self._buffer:
            self.count(head, answered_s)
        else:
            self._round.errors.append(f"{head[:40]!r}: {body[:200]!r}")


class Streaming(Talk):
    """Server-sent events; the agent gives this reply in pieces."""

    letter = PIECES
    stream = b"true"

    def __init__(self, sessions: list[Session], ended: Callable[[], None]) -> None:
        super().__init__(sessions, ended)
        self._first_s = 0.0

    def data_received(self, data: bytes) -> None:
        self._buffer = data if not self._buffer else self._buffer + data
        if not self._first_s and b"event: delta" in self._buffer:
            self._first_s = time.perf_counter() - self._sent_at
        whole = self._buffer.endswith(LAST_CHUNK)
        if not whole and not self._refused():
            return
        answered_s, first_s = time.perf_counter() - self._sent_at, self._first_s
        head, _, body = self._buffer.partition(b"\r\n\r\n")
        self._buffer, self._first_s = b"", 0.0
        self.judge_stream(head.lower(), unchunked(body) if whole else body, answered_s, first_s)
        self._next()

    def _refused(self) -> bool:
        """An answer that is no stream comes in one piece, and is an error whatever it says."""
        head, end, _ = self._buffer.partition(b"\r\n\r\n")
        return bool(end) and b"text/event-stream" not in head.lower()

    def judge_stream(self, head: bytes, events: bytes, answered_s: float, first_s: float) -> None:
        """Right is what adds up to this reply, then ``done`` with it."""
        _, _, last = events.rpartition(b"event: done\n")
        data = last.partition(b"data: ")[2].partition(b"\n")[0]
        document = json.loads(data) if data else {}
        expected = self.session.turn_seq + 1
        right = document.get("turn_seq") == expected and document.get("reply") == self.expected()
        if right and told(events) == self.expected():
            self.count(head, answered_s)
            self.firsts_s.append(first_s)
            self.deltas += events.count(b"event: delta\n")
        else:
            self._round.errors.append(f"the stream of turn {expected} of {self.session.name}: {events[-200:]!r}")


def told(events: bytes) -> str:
    """What the deltas add up to."""
    pieces = (part.partition(b"data: ")[2].partition(b"\n")[0] for part in events.split(b"event: delta\n")[1:])
    return "".join(json.loads(piece)["text"] for piece in pieces)


def unchunked(body: bytes) -> bytes:
    """A chunked body (RFC 9112, 7.1) without its frame. ValueError if it isn't whole."""
    whole, rest = list[bytes](), body
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(whole)
        whole.append(rest[:length])
        rest = rest[length + 2 :]


KINDS: dict[str, type[Talk]] = {"json": Talk, "stream": Streaming, "instant": Instant}


def quantiles_ms(values_s: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the most, milliseconds; how many. Empty for nothing."""
    if not values_s:
        return {}
    ordered = sorted(values_s)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    found = {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
        for name, share in shares.items()
    }
    return found | {"n": float(len(ordered))}


def outcome(round_: Round, connections: list[Talk]) -> dict[str, object]:
    """What the load saw in one round, as JSON."""
    states: dict[str, list[float]] = {}
    for connection in connections:
        for state, took in connection.by_state.items():
            states.setdefault(state, []).extend(took)
    firsts = [first for connection in connections for first in connection.firsts_s]
    deltas = sum(connection.deltas for connection in connections)
    streamed = {"first_delta_ms": quantiles_ms(firsts), "deltas_per_turn": deltas / len(firsts)} if firsts else {}
    return {
        "turns": len(round_.latencies_s),
        "seconds": round_.seconds,
        "turns_per_s": len(round_.latencies_s) / round_.seconds if round_.seconds else 0.0,
        "errors": len(round_.errors),
        "examples": round_.errors[:5],
        "latency_ms": quantiles_ms(round_.latencies_s),
        "by_state": {state: quantiles_ms(took) for state, took in states.items()},
        "generator_s": round_.cpu_s,
        **streamed,
    }
