"""How many commands a Redis server ran, told apart by what ran them; asked by ``INFO commandstats``, never MONITOR.

Scripts all come as EVALSHA, so they are told apart by a command inside that one kind alone runs, once per call:
``hmget`` is in every script of a session and in none of the membership; ``rpush`` only in the one that commits a
turn; ``pexpire`` only in a beat. ``hgetall`` is once in every script of the membership (once more in a beat that has
news of the ring). So ``evalsha`` must be ``hmget + hgetall`` while the ring stands still: ``unexplained`` says by
how much it isn't, and a measurement with another value than 0 there proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.redis_wire import ask

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
    text = await ask(url, "INFO", "commandstats")
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
