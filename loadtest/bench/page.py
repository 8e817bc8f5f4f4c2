"""``bench.html``: one page with the judged targets, six plots and all figures; no script, and no network needed."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from loadtest.bench.counters import PARTS
from loadtest.bench.plan import BASE, CONNECTIONS, HISTORIES
from loadtest.bench.results import Results, Row
from loadtest.bench.summary import Spread, Summary, at, leaves, number
from loadtest.bench.systems import SYSTEMS
from loadtest.bench.targets import CPU, PER_S, Verdict
from loadtest.lab.plot import COLOURS, Plot, Point
from loadtest.lab.report import STYLE, table

BAR_PX = 420
MORE_STYLE = """
td:first-child, td.n, .met, .missed { white-space: nowrap; overflow-wrap: normal }
.met { color: #228833; font-weight: 600 } .missed { color: #bb2211; font-weight: 600 }
.bar { display: flex } .bar i { display: block; height: 15px } .legend i { padding: 0 .6em; margin: 0 .4em 0 1em }
"""
GROWTH = ((1, "rehydra-1"), (2, "rehydra"), (4, "rehydra-4"), (8, "rehydra-8"))
COLUMNS = (
    ("turns/s", PER_S),
    ("p50, ms", "latency_ms.p50"),
    ("p99, ms", "latency_ms.p99"),
    ("first delta, ms", "first_delta_ms.p50"),
    ("deltas/turn", "deltas_per_turn"),
    ("CPU/turn, ms", CPU),
    ("commands/turn", "redis.commands_per_turn"),
    ("B in/turn", "redis.bytes_in_per_turn"),
    ("B out/turn", "redis.bytes_out_per_turn"),
    ("turns before", "turns_before_mean"),
    ("generator, cores", "generator_cores"),
    ("machine, cores", "machine_cores"),
    ("stolen, cores", "stolen_cores"),
)
OTHERS = (
    *("load_ms", "first_ms", "resident_ms", "calls_per_turn", "most", "moved", "all_s", "given_back", "bytes"),
    *("beyond", "text", "host_bytes", "redis", "lookup", "change", "first_build", "balance"),
)
"""How the paths of figures begin that aren't of loads."""


def page(results: Results, summary: Summary, verdicts: Sequence[Verdict]) -> str:
    """All of it, from whatever has been measured so far."""
    run, names = results.run, list(results.names())
    loads = [name for name in names if summary.spread(name, PER_S)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Rehydra: what a turn costs</title>'
        f"<style>{STYLE}{MORE_STYLE}</style><h1>What a turn costs</h1>"
        f'<p class="small">Commit {html.escape(run["commit"])} · {html.escape(run["machine"])}<br>'
        f"<code>{html.escape(run['command'])}</code><br>Medians over rounds (least, most). "
        f"Unless the name says otherwise: {BASE.connections} connections, {BASE.history} turns of history, "
        f"{BASE.sessions} sessions, JSON, 200 B in,"
        " 1 kB out. The load generator runs on the same machine, pinned to one CPU.</p>"
        f"<h2>What it must show</h2>{_targets(verdicts)}"
        + "".join(f"<h2>{html.escape(title)}</h2>{svg}" for title, svg in _plots(summary) if svg)
        + f"<h2>CPU per turn, by part, ms</h2>{_parts(summary, loads)}"
        f"<h2>All loads</h2>{_loads(summary, loads)}"
        f"<h2>Everything else</h2>{_rest(summary, [name for name in names if name not in loads])}"
        f"<h2>Not measured</h2>{_missing(results)}<h2>Systems</h2>{_systems()}</html>\n"
    )


def in_short(row: Row) -> str:
    """One line for a terminal."""
    if not row.figures:
        return f"no figure: {row.why}"
    figures = row.figures
    told = [f"{name} {number(value)}" for name, path in COLUMNS if (value := at(figures, path)) is not None]
    if at(figures, PER_S) is None:
        paths = [path for path in leaves(figures) if path.startswith(OTHERS)][:8]
        told = [f"{path} {number(value)}" for path in paths if (value := at(figures, path)) is not None]
    return ", ".join(told)


def _targets(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(each.what)}</td>"
        f'<td class="n">{html.escape(each.must)}</td>'
        f'<td class="n">{html.escape(each.figure)}</td><td class="{each.word}">{each.word}</td>'
        f'<td class="small">{html.escape(each.about)}</td></tr>'
        for each in verdicts
    )
    return f"<table><tr><th></th><th>must</th><th>is</th><th></th><th></th></tr>{rows}</table>"


# --- tables -----------------------------------------------------------------------------------------------------------


def _loads(summary: Summary, names: Sequence[str]) -> str:
    columns = [(head, path) for head, path in COLUMNS if any(summary.spread(name, path) for name in names)]
    rows = [(False, [name, *(_cell(summary.spread(name, path)) for _, path in columns)]) for name in names]
    return table(["", *(head for head, _ in columns)], rows)


def _cell(spread: Spread | None) -> str:
    return "–" if spread is None else spread.shown()


def _rest(summary: Summary, names: Sequence[str]) -> str:
    everything = summary.as_json()
    rows = [
        (False, [name, path, _cell(summary.spread(name, path))])
        for name in names
        for path in everything[name]
        if path.startswith(OTHERS)
    ]
    return table(("", "figure", ""), rows)


def _missing(results: Results) -> str:
    missing = results.unmeasured()
    if not missing:
        return "<p>Nothing that was to be measured.</p>"
    return table(("", "why"), [(True, [name, why]) for name, why in missing.items()])


def _systems() -> str:
    return table(("", ""), [(False, [system.name, system.about]) for system in SYSTEMS.values()])


def _parts(summary: Summary, names: Sequence[str]) -> str:
    """A bar for each measurement: what each part spends on a turn."""
    split = {name: _split(summary, name) for name in names}
    most = max((sum(parts.values()) for parts in split.values()), default=1.0) or 1.0
    colours = dict(zip(PARTS, COLOURS, strict=False))
    legend = "".join(f'<i style="background:{colour}"></i>{part}' for part, colour in colours.items())
    rows = []
    for name, parts in split.items():
        bar = "".join(
            f'<i title="{part} {number(spent)} ms"'
            f' style="background:{colours[part]};width:{BAR_PX * spent / most:.1f}px"></i>'
            for part, spent in parts.items()
        )
        rows.append(
            f'<tr><td>{html.escape(name)}</td><td class="n">{number(sum(parts.values()))}</td>'
            f'<td><div class="bar">{bar}</div></td></tr>'
        )
    return f'<p class="legend small">{legend}</p><table>{"".join(rows)}</table>'


def _split(summary: Summary, name: str) -> dict[str, float]:
    found = {part: summary.median(name, f"cpu_ms_per_turn.{part}") for part in PARTS}
    return {part: spent for part, spent in found.items() if spent}


# --- plots ------------------------------------------------------------------------------------------------------------


def _plots(summary: Summary) -> Iterable[tuple[str, str]]:
    connections = {64: "base/base", **{many: f"connections/{many}" for many in CONNECTIONS}}
    histories = {50: "base/base", **{turns: f"history/{turns}" for turns in HISTORIES}}
    three = ("ceiling", "rehydra", "rewriting")
    over = [(f"{name}", _line(summary, name, connections, PER_S)) for name in three]
    yield "Throughput over connections", lines(over, ("connections", "turns/s"))
    over = [(name, _line(summary, "rehydra", connections, f"latency_ms.{name}")) for name in ("p50", "p99")]
    yield "Latency over connections, Rehydra", lines(over, ("connections", "ms"))
    over = [(name, _line(summary, name, histories, PER_S)) for name in ("rehydra", "rewriting")]
    yield "Throughput over the length of the talk", lines(over, ("turns of history", "turns/s"))
    over = [(name, _line(summary, name, histories, CPU)) for name in ("rehydra", "rewriting")]
    yield "CPU per turn over the length of the talk", lines(over, ("turns of history", "ms"))
    lengths = {turns: f"rehydrate/{turns}" for turns in (1, 50, 500, 5000)}
    over = [(name, _line(summary, "rehydra", lengths, f"load_ms.{name}")) for name in ("p50", "p99")]
    yield "Claim and load of a talk that is in no memory", lines(over, ("turns", "ms"))
    hosts = [(float(many), value) for many, name in GROWTH if (value := summary.median(f"{name}/base/base", CPU))]
    yield "CPU per turn over hosts", lines([("all parts", hosts)], ("hosts", "ms"))


def _line(summary: Summary, system: str, names: dict[int, str], path: str) -> list[Point]:
    found = ((x, summary.median(f"{system}/{name}", path)) for x, name in sorted(names.items()))
    return [(float(x), value) for x, value in found if value is not None]


def lines(named: Sequence[tuple[str, Sequence[Point]]], names: tuple[str, str]) -> str:
    """A plot from zero up. Nothing where no line has two points."""
    drawn = [(name, points) for name, points in named if len(points) > 1]
    if not drawn:
        return ""
    every = [point for _, points in drawn for point in points]
    plot = Plot((0.0, max(x for x, _ in every)), (0.0, 1.1 * max(y for _, y in every)), names)
    for order, (name, points) in enumerate(drawn):
        plot.line(points, COLOURS[order], name)
        plot.dots(points, COLOURS[order], "")
    return plot.svg()
