"""Plots as SVG text: data in their own units go in, drawn into a box with axes, ticks, marks and a legend."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDE, HIGH = 960, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#555555")
"""Told apart by the colour-blind as well (Paul Tol, "bright")."""
BAD = "#bb2211"
HALO = 'stroke="#fff" stroke-width="3" stroke-opacity=".8" paint-order="stroke"'
MARKS_NAMED_MAX = 12
"""More marks than this have their name as a tooltip only."""

Point = tuple[float, float]


class Plot:
    """One plot. ``log``: a logarithmic scale on the vertical axis, from 1 up."""

    def __init__(self, x: Point, y: Point, names: tuple[str, str], *, log: bool = False) -> None:
        self._log = log
        self._x = (x[0], max(x[1], x[0] + 1e-9))
        low, high = _widened(*y) if log else y
        self._y = (low, max(high, low + 1e-9))
        self._parts: list[str] = []
        self._legend = 0.0
        self._draw_axes(names)

    # --- data -----------------------------------------------------------------------------------------------------

    def at(self, x: float, y: float) -> Point:
        """Where that is in the picture; what is beyond an end is drawn at it."""
        y = math.log10(max(1.0, y)) if self._log else y
        across = (min(max(x, self._x[0]), self._x[1]) - self._x[0]) / (self._x[1] - self._x[0])
        up = (min(max(y, self._y[0]), self._y[1]) - self._y[0]) / (self._y[1] - self._y[0])
        return round(LEFT + across * (WIDE - LEFT - RIGHT), 1), round(HIGH - BOTTOM - up * (HIGH - TOP - BOTTOM), 1)

    def dots(self, points: Sequence[Point], colour: str, name: str) -> None:
        """A small dot for each. Nothing at all, not even a legend, if there are none."""
        if points:
            # One path with strokes of no length: a tenth of the text of as many circles.
            path = "".join("M{} {}h0".format(*self.at(x, y)) for x, y in points)
            style = f'stroke="{colour}" stroke-width="2.6" stroke-linecap="round" stroke-opacity=".55"'
            self._parts.append(f'<path d="{path}" {style}/>')
            self._name(name, colour)

    def line(self, points: Sequence[Point], colour: str, name: str) -> None:
        if points:
            path = "M" + "L".join("{} {}".format(*self.at(x, y)) for x, y in points)
            self._parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        self._name(name, colour)

    def area(self, lower: Sequence[Point], upper: Sequence[Point], colour: str, name: str) -> None:
        """What is between two lines."""
        corners = " ".join("{},{}".format(*self.at(x, y)) for x, y in [*lower, *reversed(upper)])
        self._parts.append(f'<polygon points="{corners}" fill="{colour}" fill-opacity=".75"/>')
        self._name(name, colour)

    def marks(self, marks: Sequence[tuple[float, float, str]]) -> None:
        """Spans of time with a name: begin, end, name. Names stand in two rows, so that neighbours can be read."""
        for number, (begin, end, name) in enumerate(marks):
            left, right = self.at(begin, 0)[0], self.at(end, 0)[0]
            base, title = HIGH - BOTTOM, f"<title>{html.escape(name)}</title>"
            size = f'x="{left}" y="{TOP}" width="{max(0.0, round(right - left, 1))}" height="{base - TOP}"'
            self._parts.append(f'<rect {size} fill="{BAD}" fill-opacity=".08">{title}</rect>')
            path = f'<path d="M{left} {TOP}V{base}" stroke="{BAD}" stroke-dasharray="4 3">{title}</path>'
            self._parts.append(path)
            if len(marks) <= MARKS_NAMED_MAX:
                self._parts.append(text(left + 3, TOP + 12 + 13 * (number % 2), name, BAD, more=HALO))

    # --- the frame ------------------------------------------------------------------------------------------------

    def _draw_axes(self, names: tuple[str, str]) -> None:
        base, right = HIGH - BOTTOM, WIDE - RIGHT
        for value in _ticks(*self._x):
            x = self.at(value, 0)[0]
            self._parts.append(f'<path d="M{x} {base}v5" stroke="#888"/>')
            self._parts.append(text(x, base + 18, f"{value:g}", anchor="middle"))
        for value in self._vertical_ticks():
            y = self.at(self._x[0], value)[1]
            self._parts.append(f'<path d="M{LEFT} {y}H{right}" stroke="#e4e4e4"/>')
            self._parts.append(text(LEFT - 7, y + 4, f"{value:g}", anchor="end"))
        self._parts.append(f'<path d="M{LEFT} {TOP}V{base}H{right}" stroke="#888" fill="none"/>')
        self._parts.append(text((LEFT + right) / 2, HIGH - 8, names[0], anchor="middle"))
        middle = (TOP + base) / 2
        self._parts.append(text(14, middle, names[1], anchor="middle", more=f'transform="rotate(-90 14 {middle})"'))

    def _vertical_ticks(self) -> list[float]:
        if not self._log:
            return _ticks(*self._y)
        return [value for value in _ROUND if self._y[0] <= math.log10(value) <= self._y[1]]

    def _name(self, name: str, colour: str) -> None:
        """In the legend; what has no name isn't there."""
        if not name:
            return
        x = LEFT + self._legend
        self._parts.append(f'<rect x="{x}" y="10" width="11" height="11" fill="{colour}"/>')
        self._parts.append(text(x + 16, 20, name))
        self._legend += 34 + 6.4 * len(name)

    def svg(self) -> str:
        return f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img">{"".join(self._parts)}</svg>'


def text(x: float, y: float, words: str, colour: str = "#444", *, anchor: str = "start", more: str = "") -> str:
    return (
        f'<text x="{round(x, 1)}" y="{round(y, 1)}" fill="{colour}" text-anchor="{anchor}" {more}>'
        f"{html.escape(words)}</text>"
    )


_ROUND = [factor * 10.0**power for power in range(10) for factor in (1, 2, 5)]


def _widened(low: float, high: float) -> Point:
    """Logarithms of the round numbers around the two."""
    below = max((value for value in _ROUND if value <= low), default=_ROUND[0])
    above = min((value for value in _ROUND if value >= high), default=_ROUND[-1])
    return math.log10(below), math.log10(above)


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers between the two."""
    step = 10 ** math.floor(math.log10((high - low) / 6))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
