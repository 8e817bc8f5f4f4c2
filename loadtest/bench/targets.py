"""What the figures must be, as data, and each row's judgement: met, missed, or not measured and why.

A target has a figure as a function of the summary and a limit. Counts are judged by the worst of all rounds, times and
ratios by medians. What its row says is what is judged: a word more belongs into ``about``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.bench.kinds import TURN_BYTES
from loadtest.bench.summary import Summary, number

PER_S = "turns_per_s"
CPU = "cpu_ms_per_turn.all"

COMPARE: Mapping[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}
SIGNS = {"<=": "≤", ">=": "≥", "=": "="}


@dataclass(frozen=True, slots=True)
class Target:
    """``figure`` gives the number that is held against ``limit``, or None if it wasn't measured."""

    what: str
    must: str
    limit: float
    figure: Callable[[Summary], float | None]
    unit: str = ""
    about: str = ""
    absent: str = ""
    """Why nothing here can measure it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``met`` is None if there is no figure."""

    what: str
    must: str
    figure: str
    met: bool | None
    about: str = ""

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def judged(target: Target, summary: Summary) -> Verdict:
    """Hold one figure against its limit."""
    must = f"{SIGNS[target.must]} {number(target.limit)}{target.unit}"
    figure = target.figure(summary)
    if figure is None:
        return Verdict(target.what, must, "–", None, target.absent or target.about)
    met = COMPARE[target.must](figure, target.limit)
    return Verdict(target.what, must, f"{number(figure)}{target.unit}", met, target.about)


def verdicts(summary: Summary) -> list[Verdict]:
    """All rows, in their order."""
    return [judged(target, summary) for target in TARGETS]


def as_json(found: list[Verdict]) -> list[dict[str, Any]]:
    """As in ``bench.json``."""
    return [
        {"what": each.what, "must": each.must, "figure": each.figure, "verdict": each.word, "about": each.about}
        for each in found
    ]


# --- figures ----------------------------------------------------------------------------------------------------------


def ratio(path: str, name: str, other: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(path, name, other)


def median(name: str, path: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.median(name, path)


def _resident(path: str) -> Callable[[Summary], float | None]:
    """The worst of all rounds at all histories, not streamed."""
    names = ["rehydra/base/base", *(f"rehydra/history/{turns}" for turns in (0, 10, 200, 1000))]
    return lambda summary: summary.most(names, path)


def _commands(summary: Summary) -> float | None:
    """Rounded to six digits: a turn that is under way at a look belongs to the next one."""
    most = _resident("redis.commands_per_turn")(summary)
    return None if most is None else round(most, 6)


def _added_p50(summary: Summary) -> float | None:
    with_it, without = (summary.median(f"{name}/connections/1", "latency_ms.p50") for name in ("rehydra", "storeless"))
    return None if with_it is None or without is None else with_it - without


def _worse_of_ring(path: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.median("scale/ring/64", path)


TARGETS = (
    Target("store commands per turn, resident session", "=", 1.0, _commands),
    Target("store reads per turn, resident session", "=", 0.0, _resident("redis.reads_per_turn")),
    Target(
        "bytes to the store per turn",
        "<=",
        1.1 * TURN_BYTES + 250,
        _resident("redis.bytes_in_per_turn"),
        " B",
        f"1.1 × the turn's {TURN_BYTES} B + 250 B",
    ),
    Target(
        "bytes to the store, turn 1,000 over turn 1",
        "<=",
        1.02,
        ratio("redis.bytes_in_per_turn", "rehydra/history/1000", "rehydra/history/0"),
    ),
    Target(
        "CPU per turn, 1,000 turns of history over none",
        "<=",
        1.05,
        ratio(CPU, "rehydra/history/1000", "rehydra/history/0"),
    ),
    Target("committed turns/s, base point", ">=", 2500.0, median("rehydra/base/base", PER_S)),
    Target("the same over the ceiling", ">=", 0.8, ratio(PER_S, "rehydra/base/base", "ceiling/base/base"), " ×"),
    Target(
        "the same over Serve's default proxy, trivial handler",
        ">=",
        10.0,
        ratio(PER_S, "rehydra/base/base", "serve-proxy/base/base"),
        " ×",
    ),
    *(
        Target(
            f"the same over FastAPI + Redis rewriting, {turns} turns of history",
            ">=",
            limit,
            ratio(PER_S, f"rehydra/{at}", f"rewriting/{at}"),
            " ×",
        )
        for turns, at, limit in (
            (0, "history/0", 0.7),
            (50, "base/base", 1.2),
            (200, "history/200", 2.8),
            (1000, "history/1000", 12.0),
        )
    ),
    Target(
        "the same over LangGraph with a Redis checkpointer, 50 turns",
        ">=",
        15.0,
        ratio(PER_S, "rehydra/base/base", "langgraph/base/base"),
        " ×",
        absent="not in a quick run: its environment of 500 MB would have to be made first",
    ),
    Target(
        "appendfsync always over everysec",
        ">=",
        0.75,
        ratio(PER_S, "rehydra-always/base/base", "rehydra/base/base"),
        " ×",
    ),
    Target("added p50 over the same path without a store, 1 connection", "<=", 0.5, _added_p50, " ms"),
    Target(
        "claim + load, 500 turns of 1.2 kB, p99",
        "<=",
        8.0,
        median("rehydra/claim/500", "load_ms.p99"),
        " ms",
        "the store's call, and its turns in memory",
    ),
    Target(
        "the same as a client sees it over HTTP, p99",
        "<=",
        8.0,
        median("rehydra/rehydrate/500", "load_ms.p99"),
        " ms",
        "a first turn's p99 less a next turn's p50",
    ),
    Target(
        "claim + load + commit, 500 turns: calls of the store",
        "<=",
        2.0,
        median("rehydra/rehydrate/500", "redis.commands_per_turn"),
        "",
        "one round trip to load, one to commit",
    ),
    *(
        Target(
            f"memory per resident session of 20 turns beyond its text, {sessions:,} sessions",
            "<=",
            3000.0,
            median(f"rehydra-full/residents/{sessions}", "beyond_text_bytes"),
            " B",
        )
        for sessions in (10_000, 100_000)
    ),
    Target(
        "resident sessions on one host",
        ">=",
        100_000.0,
        median("rehydra-full/residents/100000", "sessions"),
    ),
    Target(
        "an agent with a window of its last N turns: 5,000 turns over N",
        "<=",
        1.1,
        ratio("load_ms.p50", "rehydra-window/rehydrate/5000", "rehydra-window/rehydrate/50"),
        " ×",
        "claim + load, N = 50, p50",
    ),
    Target("ring look-up, 64 slots", "<=", 5.0, _worse_of_ring("lookup_us"), " µs"),
    Target("ring change, 64 slots", "<=", 5.0, _worse_of_ring("change_ms"), " ms"),
    Target("balance max/mean, worst of 1 to 4 slots", "<=", 1.10, _worse_of_ring("balance_4"), " ×"),
    Target("balance max/mean, 64 slots", "<=", 1.20, _worse_of_ring("balance_64"), " ×"),
    Target(
        "streamed reply of 50 deltas over the same as JSON, CPU",
        "<=",
        4.0,
        ratio(CPU, "rehydra/stream/stream", "rehydra/base/base"),
        " ×",
    ),
    *(
        Target(
            f"CPU per turn, 8 hosts over 1, {about}",
            "<=",
            1.05,
            ratio(CPU, f"rehydra-8/{at}", "rehydra-1/base/base"),
            " ×",
        )
        for about, at in (
            ("64 connections in all", "base/base"),
            ("64 connections for each host", "connections/512"),
        )
    ),
)
