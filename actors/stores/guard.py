"""The replay guard of sealed conversations: the contract, and the one in memory.

A client can always send an older state again: each was sealed, and each opens. The guard remembers one line for each
conversation, which state is the newest, and takes a turn only if it was made from that one. Of all turns that are made
from one state, one is accepted; a repeat of the request that made the newest state gets its answer again.

``look`` costs nothing but a round trip and spares the agent a run for nothing; ``accept`` alone decides, atomically.
Both may be repeated: an ``accept`` whose answer was lost is answered ``Repeated`` with its own state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from actors.model import Sealed, SessionKey
from actors.stores.base import Mismatch, Ok

SPARE_S: Final = 3600.0
"""By how much longer than a state lives its conversation is remembered: clocks of hosts and stores may differ."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a turn is made from: the state that the client sent (``turn_seq`` 0 and no ``state_id`` if none), and by
    which request."""

    key: SessionKey
    turn_seq: int
    state_id: str
    turn_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """This very request made the newest state. ``text``: that state; None if it isn't kept any more."""

    text: str | None


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another state is the newest; it has ``turn_seq`` turns."""

    turn_seq: int


GuardAnswer = Ok | Repeated | Mismatch | Superseded


class Guard(Protocol):
    """Remembers a conversation for ``ttl_s`` after its last accepted turn, and that turn's answer for ``answer_s``."""

    async def look(self, mark: Mark) -> GuardAnswer:
        """What ``accept`` would answer now. Ok changes nothing. StoreUnavailable."""
        ...

    async def accept(self, mark: Mark, made: Sealed) -> GuardAnswer:
        """Ok: ``made`` is the newest state now. StoreFull: it isn't. StoreUnavailable: unknown."""
        ...

    async def aclose(self) -> None:
        """Free connections. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    turn_seq: int
    state_id: str
    turn_id: str
    fingerprint: str
    text: str
    forget_ms: int
    forget_text_ms: int


class MemoryGuard:
    """For ``memory://``: one process, nothing survives it. Every call is one step on the event loop."""

    def __init__(self, now_ms: Callable[[], int], ttl_s: float, answer_s: float) -> None:
        self._now_ms = now_ms
        self._ttl_ms, self._answer_ms = int(ttl_s * 1000), int(answer_s * 1000)
        self._lines: dict[SessionKey, _Line] = {}

    async def look(self, mark: Mark) -> GuardAnswer:
        line, now_ms = self._lines.get(mark.key), self._now_ms()
        if line is None or now_ms >= line.forget_ms:
            return Ok()
        if line.turn_id == mark.turn_id:
            if line.fingerprint != mark.fingerprint:
                return Mismatch()
            return Repeated(line.text if now_ms < line.forget_text_ms else None)
        older = line.turn_seq > mark.turn_seq
        if older or (line.turn_seq == mark.turn_seq and line.state_id != mark.state_id):
            return Superseded(line.turn_seq)
        return Ok()

    async def accept(self, mark: Mark, made: Sealed) -> GuardAnswer:
        answer = await self.look(mark)
        if isinstance(answer, Ok):
            now_ms = self._now_ms()
            # What has expired goes first; accepted lines are the youngest, so the oldest stand at the front.
            self._lines.pop(mark.key, None)
            while self._lines and now_ms >= next(iter(self._lines.values())).forget_ms:
                del self._lines[next(iter(self._lines))]
            self._lines[mark.key] = _Line(
                mark.turn_seq + 1, made.state_id, mark.turn_id, mark.fingerprint, made.text,
                now_ms + self._ttl_ms, now_ms + self._answer_ms,
            )  # fmt: skip
        return answer

    async def aclose(self) -> None:
        """Nothing to free."""
