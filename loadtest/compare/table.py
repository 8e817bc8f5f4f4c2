"""Rounds become one row for each way: counts are added up, everything else is a median with its extremes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.compare.ways import BY_NAME, REHYDRA, Way

Line = Mapping[str, Any]
"""What one round of one way told."""

EXPERIMENTS = ("ordinary", "at_once", "lengths", "server_gone")
COUNTS = ("sent", "acknowledged", "client_errors", "lost", "twice", "reordered", "otherwise_wrong", "missing")
"""``missing``: turns of the talks of given lengths that weren't said within the time for them."""
MEASURES = (
    "p50_ms", "p99_ms", "max_ms", "turns_per_s", "calls_per_turn", "stored_bytes_per_turn", "client_bytes_per_turn",
    "cpu_ms_per_turn",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the values that the rounds gave."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        return {"median": round(self.median, 3), "min": self.least, "max": self.most}


@dataclass(frozen=True, slots=True)
class Row:
    """One way. ``counts[experiment][name]`` are sums over its rounds, ``measures[experiment][name]`` medians;
    ``by_length[turns][name]`` are medians too."""

    way: Way
    rounds: int
    counts: Mapping[str, Mapping[str, int]]
    measures: Mapping[str, Mapping[str, Spread]]
    by_length: Mapping[int, Mapping[str, Spread]]
    memory_bytes: Spread
    others_cores: Spread
    """What somebody else had of the machine meanwhile: rounds in which that was much say little of times."""

    @property
    def blameless(self) -> bool:
        """Nothing wrong and nobody refused, where messages met and where a server went."""
        bad = [name for name in COUNTS if name not in ("sent", "acknowledged")]
        return not any(self.counts[each][name] for each in ("at_once", "server_gone") for name in bad)

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "counts": {name: dict(found) for name, found in self.counts.items()},
            "measures": {name: _json(found) for name, found in self.measures.items()},
            "by_length": {str(turns): _json(found) for turns, found in self.by_length.items()},
            "memory_bytes": self.memory_bytes.as_json(),
            "others_cores": self.others_cores.as_json(),
        }


def _json(found: Mapping[str, Spread]) -> dict[str, Any]:
    return {name: spread.as_json() for name, spread in found.items()}


def rows(lines: Sequence[Line]) -> list[Row]:
    """In the order of the guide; of ways that have a line."""
    of_way = defaultdict[str, list[Line]](list)
    for line in lines:
        of_way[line["way"]].append(line)
    return [_row(BY_NAME[name], of_way[name]) for name in BY_NAME if name in of_way]


def _row(way: Way, lines: Sequence[Line]) -> Row:
    # Talks of all lengths are read back and judged as one; how they were answered is told for each length.
    flat = [_with_sums(line) for line in lines]
    lengths = {int(turns) for line in lines for turns in line["lengths"]["by_length"]}
    return Row(
        way=way,
        rounds=len(lines),
        counts={each: {name: sum(line[each].get(name, 0) for line in flat) for name in COUNTS} for each in EXPERIMENTS},
        measures={each: _spreads([line[each] for line in flat]) for each in EXPERIMENTS},
        by_length={
            turns: _spreads([line["lengths"]["by_length"].get(str(turns), {}) for line in lines])
            for turns in sorted(lengths)
        },
        memory_bytes=Spread.of([line["memory_bytes"] for line in lines]),
        others_cores=Spread.of([line["others_cores"] for line in lines]),
    )


def _with_sums(line: Line) -> Line:
    told = line["lengths"]["by_length"].values()
    sums = {name: sum(each[name] for each in told) for name in ("sent", "acknowledged", "client_errors", "missing")}
    return {**line, "lengths": {**line["lengths"], **sums}}


def _spreads(told: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    values = {name: [each[name] for each in told if each.get(name) is not None] for name in MEASURES}
    return {name: Spread.of(found) for name, found in values.items() if found}


# --- for the terminal and the README ----------------------------------------------------------------------------------


HEAD = (
    "way", "guide", "lost at once", "errors at once", "agent calls a turn", "lost, server gone", "errors, server gone",
    "otherwise wrong", "p50 / p99 ms", "turns/s", "bytes to the store a turn", "of the longest talks", "CPU ms a turn",
    "memory MB",
)  # fmt: skip
"""Of the one table. ``otherwise wrong``: twice, reordered and whatever else the checker found, in all experiments."""


def cells(row: Row) -> list[str]:
    """One for each word of ``HEAD``."""
    at_once, gone, lengths = (row.counts[name] for name in ("at_once", "server_gone", "lengths"))
    ordinary = row.measures["ordinary"]
    wrong = sum(found[name] for found in row.counts.values() for name in ("twice", "reordered", "otherwise_wrong"))
    longest = row.by_length[max(row.by_length)] if row.by_length else {}
    return [
        row.way.name,
        row.way.guide,
        share(at_once["lost"], at_once["acknowledged"]),
        share(at_once["client_errors"], at_once["sent"]),
        number(row.measures["at_once"].get("calls_per_turn"), "{:.2f}"),
        share(gone["lost"], gone["acknowledged"]),
        share(gone["client_errors"], gone["sent"]),
        f"{wrong:,}",
        f"{number(ordinary.get('p50_ms'))} / {number(ordinary.get('p99_ms'))}",
        number(ordinary.get("turns_per_s"), "{:,.0f}"),
        number(ordinary.get("stored_bytes_per_turn"), "{:,.0f}"),
        number(longest.get("stored_bytes_per_turn"), "{:,.0f}") + (" (not whole)" if lengths["missing"] else ""),
        number(ordinary.get("cpu_ms_per_turn"), "{:.2f}"),
        f"{row.memory_bytes.median / 1e6:,.0f}",
    ]


def share(count: int, of: int) -> str:
    """``0``, or how many and how many that is of a hundred."""
    return f"{count:,} ({100 * count / of:.1f} %)" if count and of else f"{count:,}"


def number(spread: Spread | None, form: str = "{:.1f}") -> str:
    """The median."""
    return "–" if spread is None else form.format(spread.median)


def markdown(found: Sequence[Row]) -> str:
    """The table as a README has it."""
    lines = [" | ".join(HEAD), " | ".join("---" for _ in HEAD), *(" | ".join(cells(row)) for row in found)]
    return "\n".join(f"| {line} |" for line in lines)


def rehydra_is_blameless(found: Sequence[Row]) -> bool:
    """Where messages met and a server went; true also if it wasn't among them."""
    return all(row.blameless for row in found if row.way.name == REHYDRA)
