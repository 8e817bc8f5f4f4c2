"""``page.html``: the table, one more for each experiment, the plots, and what each way was made of. One file."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Callable, Sequence

from loadtest.compare.environment import versions
from loadtest.compare.table import HEAD, Line, Row, Spread, cells, share
from loadtest.compare.ways import REHYDRA
from loadtest.lab.plot import BAD, COLOURS, Plot
from loadtest.lab.report import STYLE

WIDE = "body { max-width: 1500px } td, th { padding-right: 9px } tr.own td { background: #eef4fa; font-weight: 600 }"
WRONG = f"td.wrong {{ color: {BAD} }} td.n, td:first-child {{ white-space: nowrap }}"
BAD_IF_ANY = ("lost", "errors", "otherwise wrong", "not said")
"""How the titles begin of columns in which anything but 0 is bad."""
ABOUT = """
Two servers (or hosts) for every way, all on this machine, with the clients beside them. Every message has an
Idempotency-Key, which every way answers from its talk when it is repeated; nginx and HAProxy repeat what a dead server
left, clients repeat nothing. Stores write to the disk before they answer. Counts are sums over the rounds, the rest
medians, with the least and the most of the rounds in brackets. Lost: acknowledged, and not in the talk at the end.
Not whole: not all turns of the longest talks were said within the time for them, so what is told is of shorter ones.
"""
FAMILIES = (
    ("Redis", ("redis-json", "compare-and-set", "process-locks", "redis-lock", "ray-router")),
    ("PostgreSQL, LangGraph", ("postgres-json", "hybrid-cache", "langgraph-postgres", "langgraph-redis")),
    ("memory, or the client", ("in-memory", "ip-hash", "cookie", "base64-state", "sealed-state")),
)
"""More lines than these in one plot can't be told apart. Rehydra is in each."""


def page(found: Sequence[Row], lines: Sequence[Line], trouble: Sequence[str]) -> str:
    """The whole page."""
    rounds = max((row.rounds for row in found), default=0)
    commits = ", ".join(sorted({str(line["commit"]) for line in lines})) or "–"
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Ways compared</title>'
        f"<style>{STYLE}{WIDE}{WRONG}</style>"
        f'<h1>Ways compared</h1><p class="about">{html.escape(ABOUT.strip())}</p>'
        f'<p class="small">rounds: {rounds} · commit {html.escape(commits)} · {html.escape(machine)}</p>'
        + "".join(f'<p style="color:{BAD}">{html.escape(each)}</p>' for each in trouble)
        + f"<h2>All in one</h2>{_table(HEAD, [cells(row) for row in found])}"
        + f"<h2>Ordinary talks</h2>{_ordinary(found)}<h2>Two messages of one session at once</h2>{_at_once(found)}"
        + f"<h2>A server taken away</h2>{_server_gone(found)}<h2>Talks of different lengths</h2>{_lengths(found)}"
        + "".join(_plots(found))
        + f"<h2>What each was made of</h2>{_made_of(found)}"
        f'<p class="small">Of the rivals: {html.escape(packages)}</p></html>\n'
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """The first cell of each row is a way's name; Rehydra's row stands out, and so does what went wrong."""
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    told = "".join(
        f'<tr class="{"own" if cells[0] == REHYDRA else ""}">'
        + "".join(_cell(name, cell) for name, cell in zip(head, cells, strict=True))
        + "</tr>"
        for cells in body
    )
    return f'<table class="small"><tr>{titles}</tr>{told}</table>'


def _cell(title: str, told: str) -> str:
    wrong = title.startswith(BAD_IF_ANY) and told != "0"
    classes = " ".join(name for name, true in (("n", told[:1].isdigit()), ("wrong", wrong)) if true)
    return f'<td class="{classes}">{html.escape(told)}</td>'


def spread(found: Spread | None, form: str = "{:,.1f}") -> str:
    """Median and extremes."""
    if found is None:
        return "–"
    middle, least, most = (form.format(each) for each in (found.median, found.least, found.most))
    return middle if least == most else f"{middle} ({least}–{most})"


def _ordinary(found: Sequence[Row]) -> str:
    head = ["way", "turns", "lost", "otherwise wrong", "errors", "p50, ms", "p99, ms", "turns/s", "agent calls a turn"]
    head += [
        "bytes to the store a turn",
        "bytes with the client a turn",
        "CPU, ms a turn",
        "memory, MB",
        "cores that others had",
    ]
    body = []
    for row in found:
        told, memory = row.measures["ordinary"], row.memory_bytes
        body.append([
            *_judged(row, "ordinary"),
            *(spread(told.get(name)) for name in ("p50_ms", "p99_ms", "turns_per_s")),
            spread(told.get("calls_per_turn"), "{:.2f}"),
            *(spread(told.get(f"{whose}_bytes_per_turn"), "{:,.0f}") for whose in ("stored", "client")),
            spread(told.get("cpu_ms_per_turn"), "{:.2f}"),
            spread(Spread(memory.median / 1e6, memory.least / 1e6, memory.most / 1e6), "{:,.0f}"),
            spread(row.others_cores, "{:.2f}"),
        ])  # fmt: skip
    return _table(head, body)


def _judged(row: Row, experiment: str) -> list[str]:
    counts = row.counts[experiment]
    wrong = counts["twice"] + counts["reordered"] + counts["otherwise_wrong"]
    turns, sent = counts["acknowledged"], counts["sent"]
    return [
        row.way.name, f"{turns:,}", share(counts["lost"], turns), share(wrong, turns),
        share(counts["client_errors"], sent),
    ]  # fmt: skip


def _at_once(found: Sequence[Row]) -> str:
    head = ("way", "turns", "lost", "otherwise wrong", "errors", "agent calls a turn", "p50, ms", "p99, ms")
    body = [
        _judged(row, "at_once")
        + [spread(row.measures["at_once"].get("calls_per_turn"), "{:.2f}")]
        + [spread(row.measures["at_once"].get(name)) for name in ("p50_ms", "p99_ms")]
        for row in found
    ]
    return _table(head, body)


def _server_gone(found: Sequence[Row]) -> str:
    head = ("way", "turns", "lost", "otherwise wrong", "errors", "p50, ms", "p99, ms", "longest after it, ms")
    body = [
        _judged(row, "server_gone")
        + [spread(row.measures["server_gone"].get(name)) for name in ("p50_ms", "p99_ms", "max_ms")]
        for row in found
    ]
    return _table(head, body)


def _lengths(found: Sequence[Row]) -> str:
    lengths = sorted({turns for row in found for turns in row.by_length})
    head = ["way", "lost", "errors", "not said in time"]
    head += [f"{what}, {turns:,}" for what in ("p50 ms", "store bytes", "CPU ms") for turns in lengths]
    names = (("p50_ms", "{:.1f}"), ("stored_bytes_per_turn", "{:,.0f}"), ("cpu_ms_per_turn", "{:.2f}"))
    body = []
    for row in found:
        counts = row.counts["lengths"]
        told = [row.way.name, share(counts["lost"], counts["acknowledged"])]
        told += [f"{counts['client_errors']:,}", f"{counts['missing']:,}"]
        for name, form in names:
            spreads = [row.by_length.get(turns, {}).get(name) for turns in lengths]
            told += ["–" if each is None else form.format(each.median) for each in spreads]
        body.append(told)
    return _table(head, body)


def _made_of(found: Sequence[Row]) -> str:
    return _table(("way", "guide", "what", "set up"), [[*_name(row), row.way.about, row.way.set_up] for row in found])


def _name(row: Row) -> tuple[str, str]:
    return row.way.name, row.way.guide


# --- plots ------------------------------------------------------------------------------------------------------------


def _plots(found: Sequence[Row]) -> list[str]:
    wanted: tuple[tuple[str, str, Callable[[float], float]], ...] = (
        ("p50_ms", "p50 of a turn, ms", lambda value: value),
        ("stored_bytes_per_turn", "bytes to the store for a turn", lambda value: value),
        ("client_bytes_per_turn", "bytes between client and service for a turn", lambda value: value),
        ("cpu_ms_per_turn", "processor time of a turn, µs", lambda value: 1000 * value),
    )
    plots = []
    for name, title, scale in wanted:
        for family, ways in FAMILIES:
            shown = [row for row in found if row.way.name in (REHYDRA, *ways)]
            if any(row.way.name in ways and name in told for row in shown for told in row.by_length.values()):
                plots.append(f"<h2>{title}, by the length of the talk: {family}</h2>{_plot(shown, name, title, scale)}")
    return plots


def _plot(shown: Sequence[Row], name: str, title: str, scale: Callable[[float], float]) -> str:
    points = {
        row.way.name: [
            (float(turns), scale(told[name].median)) for turns, told in row.by_length.items() if name in told
        ]
        for row in shown
    }
    values = [y for each in points.values() for _, y in each] or [1.0]
    longest = max(x for each in points.values() for x, _ in each)
    plot = Plot((0.0, longest), (min(values), max(values)), ("turns of the talk", title), log=True)
    for number, (way, line) in enumerate(points.items()):
        plot.line(line, COLOURS[number % len(COLOURS)], way)
    return plot.svg()
