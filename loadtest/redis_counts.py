"""How many commands a Redis server ran, told apart by what ran them; asked by ``INFO commandstats``, never MONITOR.

Scripts all come as EVALSHA, so they are told apart by a command inside that one kind alone runs, once per call:
``hmget`` is in every script of a session and in none of the membership; ``rpush`` only in the one that commits a
turn; ``pexpire`` only in a beat. ``hgetall`` is once in every script of the membership (once more in a beat that has
news of the ring). So ``evalsha`` must be ``hmget + hgetall`` while the ring stands still: ``unexplained`` says by
how much it isn't, and a measurement with another value than 0 there proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

SCRIPTED = frozenset(
    {"evalsha", "hmget", "hget", "hset", "hdel", "hexists", "hgetall", "hsetnx", "rpush", "lindex", "lrange", "time"}
    | {"pexpire", "pexpireat", "persist", "unlink"}
)
"""Commands that the scripts run, and EVALSHA itself. Whatever else a server counts came from somebody directly."""

OWN = frozenset({"info", "auth"})
"""What the measurement itself costs."""


@dataclass(frozen=True, slots=True)
class PerTurn:
    """What the server did between two looks, for ``turns`` that the clients saw acknowledged."""

    turns: int
    session_calls: int
    commits: int
    beats: int
    membership_calls: int
    unexplained: int
    direct: Mapping[str, int]
    """Commands outside of scripts, by name."""

    @property
    def calls_per_turn(self) -> float:
        """Session scripts per acknowledged turn: 1 on resident sessions."""
        return self.session_calls / self.turns if self.turns else 0.0


async def commandstats(url: str) -> dict[str, int]:
    """Calls so far, by command. OSError if the server can't be reached or refuses."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 6379)
    try:
        if parts.password:
            names = [unquote(part) for part in (parts.username, parts.password) if part]
            await _call(reader, writer, "AUTH", *names)
        text = await _call(reader, writer, "INFO", "commandstats")
    finally:
        writer.close()
    return dict(_count(line) for line in text.splitlines() if line.startswith("cmdstat_"))


def between(before: Mapping[str, int], after: Mapping[str, int], turns: int) -> PerTurn:
    """The difference of two looks."""
    ran = {name: after[name] - before.get(name, 0) for name in after}
    ran = {name: calls for name, calls in ran.items() if calls}
    scripts, sessions, members = ran.get("evalsha", 0), ran.get("hmget", 0), ran.get("hgetall", 0)
    return PerTurn(
        turns=turns,
        session_calls=sessions,
        commits=ran.get("rpush", 0),
        beats=ran.get("pexpire", 0),
        membership_calls=members,
        unexplained=scripts - sessions - members,
        direct={name: calls for name, calls in ran.items() if name not in SCRIPTED | OWN},
    )


def _count(line: str) -> tuple[str, int]:
    name, _, fields = line.removeprefix("cmdstat_").partition(":")
    return name, int(fields.partition("calls=")[2].partition(",")[0])


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> str:
    """One command, in the protocol's own words (RESP 2), whose reply is one line or one bulk string."""
    packed = [word.encode() for word in words]
    writer.write(b"*%d\r\n" % len(packed) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in packed))
    line = (await reader.readline()).decode().rstrip()
    if line.startswith("$"):
        return (await reader.readexactly(int(line[1:]) + 2)).decode()
    if not line.startswith("+"):
        raise OSError(f"{words[0]}: {line or 'the server hung up'}")
    return line[1:]
