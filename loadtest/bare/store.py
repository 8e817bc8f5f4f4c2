"""What the store says of leases and slots, as its layout is documented (``actors/stores/keys.py`` and the scripts).

:class:`Watch` looks again and again and keeps every change that it finds, with the time at which the answer was here:
a newer epoch stood in the store at that time at the latest. It speaks a dozen lines of Redis' protocol, and writes
nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LOOK_S = 0.05

Reply = bytes | int | None | list["Reply"]


class Store:
    """One connection. Not for two tasks at one time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        """One pipeline. OSError if the server is away, or says no."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(*self._to)
        self._writer.write(b"".join(_packed(words) for words in commands))
        return [await _reply(self._reader) for _ in commands]

    def close(self) -> None:
        """Idempotent."""
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True, slots=True)
class Sight:
    """A lease as it was first seen: ``epoch`` stood in the store at ``at`` (monotonic seconds), with so many turns."""

    at: float
    epoch: int
    incarnation: str
    """Empty: nobody holds it."""
    turn_seq: int
    claims: int = 0
    """How many there have been: each begins an epoch, the next number after the last."""


@dataclass(slots=True)
class Watch:
    """Every lease of ``sessions``, and the membership table, as often as looks find them changed."""

    store: Store
    sessions: list[str] = field(default_factory=list)
    seen: dict[str, list[Sight]] = field(default_factory=dict)
    tables: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    """(when, incarnation -> slot)"""
    looks: int = 0
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once, now: what it finds was true after this call began."""
        async with self._looking:
            sessions = list(self.sessions)
            fields = ("epoch", "incarnation", "turn_seq", "born")
            commands = [("HMGET", f"rehydra:{{-:{name}}}:lease", *fields) for name in sessions]
            table, *leases = await self.store.ask([("HGETALL", "rehydra:{members}:table"), *commands])
            now = time.monotonic()
            self.looks += 1
        for name, lease in zip(sessions, leases, strict=True):
            assert isinstance(lease, list)
            epoch, incarnation, turn_seq, born = (_text(value) for value in lease)
            claims = int(epoch) - int(born) + 1 if epoch else 0
            sight = Sight(now, int(epoch or 0), incarnation, int(turn_seq or 0), claims)
            before = self.seen.setdefault(name, [])
            if not before or (before[-1].epoch, before[-1].incarnation) != (sight.epoch, sight.incarnation):
                before.append(sight)
        slots = _slots(table)
        if not self.tables or self.tables[-1][1] != slots:
            self.tables.append((now, slots))

    def holder(self, session: str) -> str:
        """Who held it at the last look; "" if nobody did."""
        sights = self.seen.get(session)
        return sights[-1].incarnation if sights else ""

    def epoch_at(self, session: str, at: float) -> int:
        """The newest epoch that is known to have stood in the store at that time."""
        return max((sight.epoch for sight in self.seen.get(session, ()) if sight.at <= at), default=0)


def _slots(table: Reply) -> dict[str, str]:
    assert isinstance(table, list)
    words = [_text(word) for word in table]
    pairs = zip(words[::2], words[1::2], strict=True)
    return {name.removeprefix("host:"): slot for name, slot in pairs if name.startswith("host:")}


def _text(value: Reply) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _packed(words: Sequence[str]) -> bytes:
    raw = [word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


async def _reply(reader: asyncio.StreamReader) -> Reply:
    line = (await reader.readline()).rstrip()
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        return [await _reply(reader) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    raise OSError(f"the store says {line.decode(errors='replace') or 'nothing'}")
