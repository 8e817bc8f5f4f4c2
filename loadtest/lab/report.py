"""``report.html``: the verdict and three plots in one file, which needs no network and no script.

The plots are SVG written here: latency over time with the faults marked, sessions per host over time, and the time to
the next acknowledged turn of the sessions that should move against the others.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from loadtest.lab.analysis import Op, in_force, moves, next_acknowledged, slot_of
from loadtest.lab.deployment import Snapshot
from loadtest.lab.nemesis import Done

WIDE, HIGH, RIM = 900, 260, 45
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
STYLE = "body{font:15px sans-serif;max-width:960px;margin:2em auto}table{border-collapse:collapse}"
STYLE += "td,th{border:1px solid #ccc;padding:3px 8px;text-align:left}.bad{color:#b00}svg{background:#fafafa}"


class Plot:
    """One plot: data in their own units, drawn into a box with a rim for the axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], names: tuple[str, str]) -> None:
        self._x, self._y = x, (y[0], max(y[1], y[0] + 1e-9))
        self._parts = [
            f'<rect x="{RIM}" y="5" width="{WIDE - RIM - 5}" height="{HIGH - RIM}" fill="none" stroke="#999"/>',
            _text(WIDE / 2, HIGH - 5, names[0]),
            _text(RIM, 3 + HIGH - RIM + 15, f"{x[0]:g}"),
            _text(WIDE - 25, 3 + HIGH - RIM + 15, f"{x[1]:.4g}"),
            _text(2, 18, f"{y[1]:.4g}"),
            _text(2, HIGH - RIM, f"{y[0]:g} {names[1]}"),
        ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x[0]) / max(1e-9, self._x[1] - self._x[0])
        up = (min(y, self._y[1]) - self._y[0]) / (self._y[1] - self._y[0])
        return round(RIM + across * (WIDE - RIM - 5), 1), round(5 + (1 - up) * (HIGH - RIM), 1)

    def dots(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        path = "".join("M{} {}h1.6".format(*self.at(x, y)) for x, y in points)
        self._parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.8" fill="none"/>')

    def line(self, points: Sequence[tuple[float, float]], colour: str, name: str, row: int) -> None:
        if points:
            path = "M" + "L".join("{} {}".format(*self.at(x, y)) for x, y in points)
            self._parts.append(f'<path d="{path}" stroke="{colour}" fill="none"/>')
        self.name(name, colour, row)

    def area(self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], colour: str) -> None:
        corners = " ".join("{},{}".format(*self.at(x, y)) for x, y in [*lower, *reversed(upper)])
        self._parts.append(f'<polygon points="{corners}" fill="{colour}" fill-opacity=".7"/>')

    def name(self, name: str, colour: str, row: int) -> None:
        self._parts.append(_text(WIDE - 190, 20 + 15 * row, name, colour))

    def mark(self, x: float, name: str) -> None:
        across, _ = self.at(x, 0)
        self._parts.append(f'<path d="M{across} 5V{HIGH - RIM + 5}" stroke="#b00" stroke-dasharray="4"/>')
        self._parts.append(_text(across + 2, 15, name, "#b00"))

    def svg(self) -> str:
        return f'<svg width="{WIDE}" height="{HIGH}">{"".join(self._parts)}</svg>'


def _text(x: float, y: float, words: str, colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" font-size="11" fill="{colour}">{html.escape(words)}</text>'


def latency_plot(ops: Sequence[Op], faults: Sequence[Done], begun: float) -> str:
    """Every acknowledged message: when it ended, and how long after it was due."""
    good = [(op.end - begun, 1000 * (op.end - op.due)) for op in ops if op.kind == "ok"]
    unknown = [(op.end - begun, 0.0) for op in ops if op.kind == "info"]
    x = (0.0, max((when for when, _ in good), default=1.0))
    plot = Plot(x, (0.0, max((took for _, took in good), default=1.0)), ("seconds", "ms from the scheduled time"))
    plot.dots(good, COLOURS[0])
    plot.dots(unknown, "#b00")
    for fault in faults:
        plot.mark(fault.at - begun, f"{fault.do} {fault.slot}")
    return plot.svg()


def hosts_plot(ops: Sequence[Op], snapshots: Sequence[Snapshot], begun: float) -> str:
    """The sessions that have begun, by the host to which the edge sends them, once a second, stacked."""
    first: dict[str, float] = {}
    for op in ops:
        first.setdefault(op.session, op.at)
    end = max((op.end for op in ops), default=begun + 1)
    times = [begun + second for second in range(int(end - begun) + 1)]
    slots = sorted({slot for snapshot in snapshots for slot in snapshot.slots if slot})
    plot = Plot((0.0, end - begun), (0.0, float(len(first))), ("seconds", "sessions"))
    floor = [0] * len(times)
    for number, slot in enumerate(slots):
        counts = []
        for at in times:
            force = in_force(snapshots, at)
            counts.append(sum(since <= at and slot_of(name, force) == slot for name, since in first.items()))
        top = [low + count for low, count in zip(floor, counts, strict=True)]
        seconds = [at - begun for at in times]
        colour = COLOURS[number % len(COLOURS)]
        plot.area(list(zip(seconds, floor, strict=True)), list(zip(seconds, top, strict=True)), colour)
        plot.name(slot, "#000", number)
        floor = top
    return plot.svg()


def failover_plot(ops: Sequence[Op], faults: Sequence[Done], snapshots: Sequence[Snapshot]) -> str:
    """Share of sessions over the time to their next acknowledged turn, of all faults together."""
    moved, others = list[float](), list[float]()
    ends = [*[fault.at for fault in faults[1:]], max((op.end for op in ops), default=0.0) + 1]
    for fault, until in zip(faults, ends, strict=True) if faults else ():
        expected = moves(fault, until, ops, snapshots).expected
        for name, wait in next_acknowledged(fault, until, ops).items():
            (moved if name in expected else others).append(wait)
    plot = Plot((0.0, max([*moved, *others, 0.1])), (0.0, 1.0), ("seconds", "share of sessions"))
    for row, (name, waits) in enumerate((("should move", moved), ("the others", others))):
        steps = [(wait, (number + 1) / len(waits)) for number, wait in enumerate(sorted(waits))]
        plot.line(steps, COLOURS[1 - row], f"{name}: {len(waits)}", row + 8)
    return plot.svg()


def page(verdict: dict[str, Any], plots: Sequence[tuple[str, str]]) -> str:
    """The whole report."""
    rows = "".join(
        f'<tr class="{"bad" if found["violated"] else ""}"><td>{html.escape(name)}</td>'
        f"<td>{found['counted']}</td><td>{found['violated']}</td></tr>"
        for name, found in verdict["invariants"].items()
    )
    drawn = "".join(f"<h2>{html.escape(title)}</h2>{svg}" for title, svg in plots)
    word = "passed" if verdict["passed"] else "VIOLATED"
    return (
        f"<!doctype html><meta charset=utf-8><title>{verdict['scenario']['name']}: {word}</title>"
        f"<style>{STYLE}</style><h1>{verdict['scenario']['name']}: {word}</h1>"
        f"<p>{html.escape(verdict['scenario']['about'])}</p>"
        f"<table><tr><th>invariant<th>counted<th>violated</tr>{rows}</table>{drawn}"
        f"<h2>verdict.json</h2><pre>{html.escape(json.dumps(verdict, indent=1))}</pre>"
    )
