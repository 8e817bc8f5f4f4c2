"""What is measured: names, axes, points, and how long each takes. Data; nothing here runs anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from loadtest.bench.systems import SYSTEMS

QUICK_S, FULL_S = 1.5, 3.0
"""Length of one round of ``turns``."""
ROUNDS_QUICK, ROUNDS_FULL = 1, 5
START_S = 1.5
"""A generator's own start, and its warm-up of some hundred sessions."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of the load. The defaults are the base point."""

    connections: int = 64
    history: int = 50
    sessions: int = 200
    zipf: bool = False
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """``kind``: what is done, see ``kinds``. ``rounds``: of it, at most. ``cost_s``: about what one of them takes."""

    system: str
    axis: str
    setting: str
    point: Point = Point()
    kind: str = "turns"
    seconds: float = FULL_S
    rounds: int = 99
    cost_s: float = FULL_S + START_S

    @property
    def name(self) -> str:
        return f"{self.system}/{self.axis}/{self.setting}"


CONNECTIONS = (1, 16, 256)
HISTORIES = (0, 10, 200, 1000)
BASE = Point()


def full() -> list[Measurement]:
    """All of it, by system, in the order in which a round goes through them."""
    found = [
        Measurement("scale", "ring", "64", kind="ring", rounds=3, cost_s=3),
        *_rehydra(),
        *_ceiling(),
        *_storeless(),
        *_rewriting(),
    ]
    found += [Measurement(name, "base", "base") for name in ("rehydra-always", "rehydra-1", "rehydra-4", "rehydra-8")]
    found.append(_at("rehydra-8", "connections", 512, replace(BASE, connections=512, sessions=512)))
    few = ("rehydra-ray", "serve-proxy", "serve-haproxy", "langgraph")
    found += [Measurement(name, "base", "base", rounds=3) for name in few]
    return [*found, *_once()]


def quick() -> list[Measurement]:
    """The base point of every system, the ends of the axes: one round, three minutes."""
    wanted = (
        *("scale/*", "rehydra/base/*", "rehydra/connections/1", "rehydra/history/*", "rehydra/stream/*"),
        *("rehydra/calls/*", "rehydra/claim/*", "rehydra-killed/*", "rehydra-always/*", "rehydra-1/*"),
        *("storeless/connections/*", "rehydra-8/*", "rehydra-full/residents/10000", "serve-haproxy/*"),
        *("ceiling/base/*", "ceiling/connections/1", "rewriting/history/*", "rewriting/base/*"),
        "serve-proxy/*",
    )
    chosen = [each for each in full() if any(fnmatchcase(each.name, pattern) for pattern in wanted)]
    return [replace(each, seconds=QUICK_S, cost_s=each.cost_s - FULL_S + QUICK_S) for each in chosen]


def _at(system: str, axis: str, x: float, point: Point, cost_s: float = FULL_S + START_S) -> Measurement:
    return Measurement(system, axis, f"{x:g}", point, cost_s=cost_s)


def _axes(system: str, histories: Iterable[int]) -> Iterable[Measurement]:
    for connections in CONNECTIONS:
        # Each connection has sessions of its own, so there must be as many.
        point = replace(BASE, connections=connections, sessions=max(connections, BASE.sessions))
        yield _at(system, "connections", connections, point)
    for history in histories:
        yield _at(system, "history", history, replace(BASE, history=history), FULL_S + START_S + history / 400)


def _rehydra() -> Iterable[Measurement]:
    yield Measurement("rehydra", "base", "base")
    yield from _axes("rehydra", HISTORIES)
    many = replace(BASE, sessions=10_000)
    yield _at("rehydra", "sessions", 10_000, many, 30)
    yield Measurement("rehydra", "zipf", "10000", replace(many, zipf=True), cost_s=30)
    yield Measurement("rehydra", "zipf", "200", replace(BASE, zipf=True))
    yield Measurement("rehydra", "stream", "stream", replace(BASE, stream=True))


def _ceiling() -> Iterable[Measurement]:
    yield Measurement("ceiling", "base", "base")
    yield from _axes("ceiling", ())


def _storeless() -> Iterable[Measurement]:
    yield Measurement("storeless", "base", "base", cost_s=FULL_S + START_S + 4)
    yield _at("storeless", "connections", 1, replace(BASE, connections=1), FULL_S + START_S + 4)


def _rewriting() -> Iterable[Measurement]:
    yield Measurement("rewriting", "base", "base")
    yield from _axes("rewriting", HISTORIES)


def _once() -> Iterable[Measurement]:
    """What is counted rather than timed, or takes minutes: once, or three times."""
    yield Measurement("rehydra", "calls", "json", kind="calls", rounds=1)
    yield Measurement("rehydra", "calls", "stream", replace(BASE, stream=True), kind="calls", rounds=1)
    for history in (1, 50, 500, 5000):
        sessions = 20 if history > 1000 else 200
        point = Point(connections=1, history=history, sessions=sessions)
        cost_s = 3 + history / 600
        yield Measurement("rehydra", "rehydrate", str(history), point, "rehydrate", 1.0, 3, cost_s)
        if history == 500:
            yield Measurement("rehydra", "claim", str(history), point, "claim", 1.0, 3, cost_s + 6)
        if history in (50, 5000):
            yield Measurement("rehydra-window", "rehydrate", str(history), point, "rehydrate", 1.0, 3, cost_s)
    point = Point(history=20, sessions=2000)
    yield Measurement("rehydra-killed", "takeover", "1000", point, "takeover", rounds=3, cost_s=8)
    for sessions, cost_s in ((10_000, 15), (100_000, 180)):
        point = Point(history=19, sessions=sessions)
        yield Measurement("rehydra-full", "residents", str(sessions), point, "residents", rounds=1, cost_s=cost_s)
    point = Point(history=19, sessions=10_000)
    yield Measurement("rehydra-idle", "passivate", "10000", point, "passivate", rounds=1, cost_s=70)


def chosen(measurements: Iterable[Measurement], pattern: str) -> list[Measurement]:
    """Those whose name the pattern fits, or whole parts of it: ``takeover``, ``rehydra/history``, ``history/1*``."""
    fits = (pattern, f"*/{pattern}", f"{pattern}/*", f"*/{pattern}/*")
    return [each for each in measurements if any(fnmatchcase(each.name, fit) for fit in fits)]


def seconds(measurements: Sequence[Measurement], rounds: int) -> float:
    """About how long these take in so many rounds."""
    return sum(once_s([each for each in measurements if number <= each.rounds]) for number in range(1, rounds + 1))


def once_s(measurements: Iterable[Measurement]) -> float:
    """About how long one round of these takes, with the starts of their systems."""
    due = list(measurements)
    return sum(each.cost_s for each in due) + sum(SYSTEMS[name].start_s for name in {each.system for each in due})
