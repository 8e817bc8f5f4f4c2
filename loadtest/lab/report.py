"""``report.html``: the verdict, its numbers and three plots in one file, which needs no network and no script.

The plots: latency over time with the faults marked, sessions per host over time, and the time to the next acknowledged
turn of the sessions that had to move against the others.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.lab.analysis import Maps, Op, ends, next_acknowledged
from loadtest.lab.faults import KINDS, Done
from loadtest.lab.judge import Evidence
from loadtest.lab.plot import BAD, COLOURS, Plot

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em }
h1 { margin: 0 } h2 { margin: 1.8em 0 .4em; font-size: 1.15em }
.word { display: inline-block; padding: 0 .6em; border-radius: 4px; color: #fff; background: #228833 }
.word.bad { background: #bb2211 } .about, .small { color: #666 } .small { font-size: .87em }
table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums }
th { text-align: left; color: #666; font-weight: 600; border-bottom: 2px solid #ddd }
td { overflow-wrap: anywhere; min-width: 2.5em }
td, th { padding: 3px 12px 3px 0; vertical-align: top } td { border-bottom: 1px solid #eee }
td.n { text-align: right } tr.bad td { color: #bb2211; font-weight: 600 }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 1.2em 0 }
.card { border: 1px solid #e2e2e2; border-radius: 6px; padding: .5em .9em; min-width: 7.5em }
.card b { display: block; font-size: 1.35em; font-variant-numeric: tabular-nums }
svg { width: 100%; background: #fcfcfc; border: 1px solid #eee; border-radius: 6px; font: 11.5px system-ui, sans-serif }
pre { font-size: 12px; overflow-x: auto; background: #f7f7f7; padding: 1em; border-radius: 6px }
"""


def page(verdict: dict[str, Any], evidence: Evidence) -> str:
    """The whole report."""
    scenario, passed = evidence.scenario, verdict["passed"]
    word = "passed" if passed else "violated"
    plots = (
        ("Latency, from the time at which each message was due", latency_plot(evidence)),
        ("Sessions per host, by the edge's map", hosts_plot(evidence.ops, evidence.maps, evidence)),
        ("Time to the next acknowledged turn after a fault or a change", failover_plot(evidence)),
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(scenario.name)}: {word}</title><style>{STYLE}</style>"
        f'<h1>{html.escape(scenario.name)} <span class="word{"" if passed else " bad"}">{word}</span></h1>'
        f'<p class="about">{html.escape(scenario.about)}</p>{_cards(verdict)}'
        f'<p class="small">Store {html.escape(verdict["store"])} · seed {verdict["seed"]} · commit {verdict["commit"]}'
        f" · {html.escape(verdict['machine'])}<br>"
        f"<code>{html.escape(verdict['command'])}</code></p>"
        f"{_troubles(verdict['trouble'])}"
        f"<h2>Invariants</h2>{_invariants(verdict['invariants'])}"
        + "".join(f"<h2>{html.escape(title)}</h2>{svg}" for title, svg in plots)
        + f"<h2>Faults and changes</h2>{_faults(verdict['faults'])}<h2>Latency</h2>{_latencies(verdict)}"
        f"<h2>verdict.json</h2><details><summary>all of it</summary>"
        f"<pre>{html.escape(json.dumps(verdict, indent=1))}</pre></details></html>\n"
    )


# --- words and numbers ------------------------------------------------------------------------------------------------


def _cards(verdict: dict[str, Any]) -> str:
    failover = verdict["failover_s"]["all"]
    cards = [
        ("turns acknowledged", f"{verdict['turns']:,}"),
        ("sessions", f"{verdict['sessions']:,}"),
        ("faults that count", str(sum(verdict["effective_faults"].values()))),
        ("client errors", str(sum(verdict["client_errors"].values()))),
        ("sessions moved", f"{verdict['moved']['observed']:,}"),
    ]
    if failover["n"]:
        cards.append(("failover p50 / p99", f"{failover['p50']:.2f} / {failover['p99']:.2f} s"))
    boxes = "".join(f'<div class="card"><b>{value}</b>{name}</div>' for name, value in cards)
    return f'<div class="cards">{boxes}</div>'


def _troubles(trouble: Sequence[str]) -> str:
    return "".join(f'<p style="color:{BAD}">{html.escape(each)}</p>' for each in trouble)


def table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[Any]]]) -> str:
    """Rows are bad or not, and have a cell for each word of the head; numbers stand to the right."""
    body = "".join(
        f'<tr class="{"bad" if bad else ""}">'
        + "".join(
            f'<td class="{"n" if isinstance(cell, int | float) else ""}">{html.escape(_shown(cell))}</td>'
            for cell in cells
        )
        + "</tr>"
        for bad, cells in rows
    )
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _shown(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _invariants(invariants: dict[str, dict[str, int]]) -> str:
    rows = [(found["violated"] > 0, (name, found["counted"], found["violated"])) for name, found in invariants.items()]
    return table(("invariant", "counted", "violated"), rows)


def _faults(faults: Sequence[dict[str, Any]]) -> str:
    head = (
        "at, s",
        "what",
        "whom",
        "traffic",
        "effect seen",
        "ready, s",
        "had to move",
        "moved",
        "p50, s",
        "p99, s",
    )
    rows = []
    for fault in faults:
        wait = fault["failover_s"]
        seen = fault["seen"] or f"none {fault['trouble']}"
        cells = [fault["at_s"], fault["do"], fault["slot"], fault["traffic"], seen, fault["again_s"] or "–"]
        cells += [fault["moved"]["expected"], fault["moved"]["observed"], wait.get("p50", "–"), wait.get("p99", "–")]
        rows.append((not fault["effective"], cells))
    return table(head, rows)


def _latencies(verdict: dict[str, Any]) -> str:
    rows = [
        (False, (when, found["n"], *(found.get(name, "–") for name in ("p50", "p99", "max"))))
        for when, found in verdict["latency_s"].items()
    ]
    return table(("", "turns", "p50, s", "p99, s", "most, s"), rows)


# --- plots ------------------------------------------------------------------------------------------------------------


def _marks(evidence: Evidence) -> list[tuple[float, float, str]]:
    return [
        (
            fault.at - evidence.begun,
            max(fault.over, fault.at + fault.effect_s) - evidence.begun,
            fault.do if fault.slot in ("", "*") else f"{fault.do} {fault.slot}",
        )
        for fault in evidence.faults
    ]


def latency_plot(evidence: Evidence) -> str:
    """Every message: when it was answered, and how long after it was due."""
    answered, unknown = (
        [
            (op.end - evidence.begun, 1000 * (op.end - op.due))
            for op in evidence.ops
            if (op.kind == "ok") is good and op.end
        ]
        for good in (True, False)
    )
    both = [*answered, *unknown]
    x = (0.0, max((when for when, _ in both), default=1.0))
    y = (min((took for _, took in both), default=1.0), max((took for _, took in both), default=10.0))
    plot = Plot(x, y, ("seconds since the load began", "milliseconds"), log=True)
    plot.marks(_marks(evidence))
    plot.dots(answered, COLOURS[0], "acknowledged")
    plot.dots(unknown, BAD, "refused or unknown")
    return plot.svg()


def hosts_plot(ops: Sequence[Op], maps: Maps, evidence: Evidence) -> str:
    """The sessions that have begun, by the host to which the edge sends them, twice a second, stacked."""
    first: dict[str, float] = {}
    for op in ops:
        first.setdefault(op.session, op.at)
    end = max((op.end for op in ops), default=evidence.begun + 1) - evidence.begun
    seconds = [number / 2 for number in range(int(2 * end) + 1)]
    counts: list[dict[str, int]] = []
    for at in (evidence.begun + second for second in seconds):
        here: dict[str, int] = {}
        for name, since in first.items():
            if since <= at:
                here[maps.owner(name, at)] = here.get(maps.owner(name, at), 0) + 1
        counts.append(here)
    plot = Plot((0.0, end), (0.0, float(max(1, len(first)))), ("seconds since the load began", "sessions"))
    floor = [0] * len(seconds)
    for number, slot in enumerate(sorted({slot for here in counts for slot in here})):
        top = [low + here.get(slot, 0) for low, here in zip(floor, counts, strict=True)]
        lower, upper = (list(zip(seconds, map(float, line), strict=True)) for line in (floor, top))
        plot.area(lower, upper, COLOURS[number % len(COLOURS)], slot or "nobody")
        floor = top
    plot.marks(_marks(evidence))
    return plot.svg()


def failover_plot(evidence: Evidence) -> str:
    """Share of sessions over the time to their next acknowledged turn, of all faults that take hosts."""
    faults, ops = evidence.faults, evidence.ops
    moved, others = list[float](), list[float]()
    for fault, until, moves in zip(faults, ends(faults, ops), evidence.moves, strict=True):
        if not _moves_sessions(fault):
            continue
        sent = next_acknowledged(fault, until, ops, from_sent=True)
        for name, wait in next_acknowledged(fault, until, ops).items():
            if name in moves.expected:
                moved.append(wait)
            else:
                others.append(sent[name])
    plot = Plot((0.0, max([*moved, *others, 0.1])), (0.0, 100.0), ("seconds", "% of sessions"))
    for number, (name, waits) in enumerate((("the others", others), ("had to move", moved))):
        steps = [(wait, 100 * (rank + 1) / len(waits)) for rank, wait in enumerate(sorted(waits))]
        plot.line(steps, COLOURS[number], f"{name}: {len(waits):,} sessions")
    return plot.svg()


def _moves_sessions(fault: Done) -> bool:
    return KINDS[fault.do].takes_hosts
