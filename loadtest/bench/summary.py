"""Medians of rounds, with the least and the most: of any figure, found by its path in what a kind gave."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.results import Results


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over its rounds."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def shown(self) -> str:
        """For a table: median (least, most)."""
        if self.rounds == 1:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)}, {number(self.most)})"


class Summary:
    """Reads figures by ``name`` of the measurement and ``path``, such as ``redis.commands_per_turn``."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def spread(self, name: str, path: str) -> Spread | None:
        """None if no round has that figure."""
        found = [at(figures, path) for figures in self._results.of(name)]
        values = [value for value in found if value is not None]
        return Spread.of(values) if values else None

    def median(self, name: str, path: str) -> float | None:
        spread = self.spread(name, path)
        return None if spread is None else spread.median

    def ratio(self, path: str, name: str, other: str) -> float | None:
        """Of two medians. Rounds are interleaved, so both have seen the same machine."""
        above, below = self.median(name, path), self.median(other, path)
        return above / below if above is not None and below else None

    def most(self, names: Iterable[str], path: str) -> float | None:
        """The largest of all rounds; for counts that must be exact."""
        spreads = [spread for name in names if (spread := self.spread(name, path)) is not None]
        return max((spread.most for spread in spreads), default=None)

    def as_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """Measurement -> path -> median, least, most, rounds."""
        found = {}
        for name in self._results.names():
            paths = dict.fromkeys(path for figures in self._results.of(name) for path in leaves(figures))
            spreads = {path: self.spread(name, path) for path in paths}
            found[name] = {
                path: {"median": each.median, "min": each.least, "max": each.most, "rounds": each.rounds}
                for path, each in spreads.items()
                if each is not None
            }
        return found


def at(figures: Mapping[str, Any], path: str) -> float | None:
    """The number at ``a.b.c``."""
    found: Any = figures
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def leaves(figures: Mapping[str, Any], before: str = "") -> Iterable[str]:
    """Paths of all numbers."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
