"""The suite's parts that judge: its plan, its file of results, its medians, its targets and its page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.bare.deployment import HOST_PORTS
from loadtest.bench import plan, suite
from loadtest.bench.counters import Snapshot, counts, part, per_turn
from loadtest.bench.kinds import KINDS, Unmeasured, sound
from loadtest.bench.page import in_short, page
from loadtest.bench.results import AnotherRun, Results, Row
from loadtest.bench.seeds import talk
from loadtest.bench.summary import Spread, Summary, at, leaves
from loadtest.bench.systems import ROOM, SYSTEMS
from loadtest.bench.targets import TARGETS, Target, judged, verdicts

RUN = {"commit": "abc", "quick": False, "machine": "a machine", "command": "a command"}


def results_with(folder: Path, *rows: Row) -> Results:
    results = Results(folder / "results.jsonl", RUN)
    for row in rows:
        results.add(row)
    return results


def figures(turns_per_s: float, **more: Any) -> dict[str, Any]:
    return {"turns_per_s": turns_per_s, "latency_ms": {"p50": 1.0, "p99": 2.0}, **more}


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_measurement_has_a_name_of_its_own_a_kind_and_a_system() -> None:
    names = [each.name for each in plan.full()]
    assert len(set(names)) == len(names)
    assert {each.kind for each in plan.full()} == KINDS.keys()
    assert {each.system for each in plan.full()} == SYSTEMS.keys()


def test_one_axis_at_a_time_leaves_the_base_point() -> None:
    for each in plan.full():
        if each.kind == "turns" and each.axis in ("history", "stream", "base"):
            away = {name for name in plan.Point.__slots__ if getattr(each.point, name) != getattr(plan.BASE, name)}
            assert len(away) == (each.axis != "base"), each.name


def test_each_connection_has_a_session() -> None:
    assert all(each.point.sessions >= each.point.connections for each in plan.full())


def test_quick_and_full_take_as_long_as_they_promise() -> None:
    assert plan.seconds(plan.quick(), plan.ROUNDS_QUICK) <= 3 * 60
    assert plan.seconds(plan.full(), plan.ROUNDS_FULL) <= 40 * 60


def test_quick_is_a_part_of_the_full_plan() -> None:
    assert {each.name for each in plan.quick()} < {each.name for each in plan.full()}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (
            "rehydra/history/*",
            {"rehydra/history/0", "rehydra/history/10", "rehydra/history/200", "rehydra/history/1000"},
        ),
        ("takeover", {"rehydra-killed/takeover/1000"}),
        ("rehydra/base", {"rehydra/base/base"}),
        ("residents/10000", {"rehydra-full/residents/10000"}),
        ("*", {each.name for each in plan.full()}),
        ("nothing", set()),
    ],
)
def test_a_pattern_chooses_by_name(pattern: str, found: set[str]) -> None:
    assert {each.name for each in plan.chosen(plan.full(), pattern)} == found


def test_systems_have_ports_of_their_own_in_the_room_that_the_command_names() -> None:
    assert 2 + HOST_PORTS <= ROOM and len(SYSTEMS) * ROOM < 1000


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    results_with(tmp_path, Row("a/b/c", 1, figures(10.0)), Row("a/b/d", 1, why="no"))
    again = results_with(tmp_path)
    assert again.has("a/b/c", 1) and not again.has("a/b/c", 2)
    assert not again.has("a/b/d", 1), "what has no figure is tried again"
    again.add(Row("a/b/d", 1, figures(20.0)))
    assert results_with(tmp_path).unmeasured() == {}


def test_a_torn_last_line_counts_for_nothing(tmp_path: Path) -> None:
    results_with(tmp_path, Row("a/b/c", 1, figures(10.0)))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "a/b/c", "rou')
    results_with(tmp_path).add(Row("a/b/c", 2, figures(11.0)))
    assert [row.round for row in results_with(tmp_path).rows] == [1, 2]


@pytest.mark.parametrize("other", [{"commit": "def"}, {"quick": True}])
def test_results_of_another_run_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    results_with(tmp_path)
    with pytest.raises(AnotherRun):
        Results(tmp_path / "results.jsonl", RUN | other)


def test_only_what_lacks_a_figure_is_due(tmp_path: Path) -> None:
    measurements = plan.chosen(plan.full(), "rehydra/base")
    results = results_with(
        tmp_path, Row("rehydra/base/base", 1, figures(1.0)), Row("rehydra/base/base", 3, figures(1.0))
    )
    due = suite.Suite(measurements, 3, 1, results).due
    assert {number: [each.name for each in rounds] for number, rounds in due.items()} == {
        1: [],
        2: ["rehydra/base/base"],
        3: [],
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_figure_is_the_median_of_its_rounds_with_its_extremes(tmp_path: Path) -> None:
    rows = [Row("a/b/c", number, figures(speed)) for number, speed in enumerate((30.0, 10.0, 20.0), 1)]
    summary = Summary(results_with(tmp_path, *rows))
    assert summary.spread("a/b/c", "turns_per_s") == Spread(20.0, 10.0, 30.0, 3)
    assert summary.median("a/b/c", "latency_ms.p99") == 2.0
    assert summary.median("a/b/c", "latency_ms.p98") is None
    assert summary.median("a/b/other", "turns_per_s") is None


def test_paths_name_numbers_and_nothing_else() -> None:
    tree = {"a": 1, "b": {"c": 2.5, "d": "text", "e": True}, "f": [1, 2]}
    assert list(leaves(tree)) == ["a", "b.c"]
    assert (at(tree, "b.c"), at(tree, "b.d"), at(tree, "b.e"), at(tree, "a.c")) == (2.5, None, None, None)


def test_cpu_and_bytes_are_differences_by_turn() -> None:
    before = Snapshot(10.0, 100.0, 5.0, {"hosts": 1.0, "redis": 0.5}, {"get": 5, "info": 1}, 1000, 0)
    after = Snapshot(
        12.0, 103.0, 5.5, {"hosts": 2.0, "redis": 0.6}, {"get": 105, "set": 100, "info": 2}, 151_000, 50_000
    )
    found = per_turn(before, after, 100, scripts=False)
    assert found["cpu_ms_per_turn"] == pytest.approx({"hosts": 10.0, "redis": 1.0, "all": 11.0})
    assert found["cores"] == pytest.approx({"hosts": 0.5, "redis": 0.05})
    assert (found["machine_cores"], found["stolen_cores"]) == (1.5, 0.25)
    assert found["redis"] == {"commands_per_turn": 2.0, "bytes_in_per_turn": 1500.0, "bytes_out_per_turn": 500.0}


def test_a_read_beside_the_commit_shows() -> None:
    before = Snapshot(0.0, 0.0, 0.0, {}, {"evalsha": 0, "hmget": 0, "rpush": 0})
    lean = Snapshot(1.0, 0.0, 0.0, {}, {"evalsha": 100, "hmget": 100, "rpush": 100})
    assert per_turn(before, lean, 100, scripts=True)["redis"]["reads_per_turn"] == 0.0
    reading = Snapshot(1.0, 0.0, 0.0, {}, {"evalsha": 150, "hmget": 150, "rpush": 100})
    cost = per_turn(before, reading, 100, scripts=True)["redis"]
    assert (cost["commands_per_turn"], cost["reads_per_turn"]) == (1.5, 0.5)


def test_an_answer_that_was_wrong_leaves_no_figure() -> None:
    right = {"errors": 0, "examples": [], "turns": 10}
    assert sound(right) is right
    for wrong in ({"errors": 1, "examples": ["x"]}, {"turns": 0}):
        with pytest.raises(Unmeasured):
            sound(right | wrong)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("ray::ServeReplica:rehydra:SessionHost", "hosts"),
        ("ray::ServeReplica:rehydra:Edge", "edge"),
        ("ray::ServeController", "serve"),
        ("ray::ProxyActor", "serve"),
        ("/somewhere/haproxy -D -f x", "haproxy"),
        ("/somewhere/valkey-server 127.0.0.1:1", "redis"),
        ("/somewhere/raylet/raylet --x", "ray"),
        ("", "ray"),
    ],
)
def test_a_process_belongs_to_the_part_that_its_command_line_names(words: str, name: str) -> None:
    assert part(words) == name


def test_system_calls_are_read_from_the_table_of_strace() -> None:
    table = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000060           1        50           sendto
 40.00    0.000040           1        30        10 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.000100           1        80        10 total
"""
    assert counts(table) == {"sendto": 50, "recvfrom": 30}


def test_a_rivals_talk_is_as_long_as_asked_and_numbered() -> None:
    turns = talk(3)
    assert [turn["turn_seq"] for turn in turns] == [1, 2, 3]
    assert {(len(str(turn["message"])), len(str(turn["reply"]))) for turn in turns} == {(200, 1000)}


# --- judgement --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("must", "limit", "figure", "met"),
    [
        ("<=", 5.0, 5.0, True),
        ("<=", 5.0, 5.1, False),
        (">=", 5.0, 4.9, False),
        ("=", 1.0, 1.0, True),
        ("=", 1.0, 1.000001, False),
        (">=", 5.0, None, None),
    ],
)
def test_a_target_is_met_missed_or_not_measured(
    must: str, limit: float, figure: float | None, met: bool | None, tmp_path: Path
) -> None:
    verdict = judged(Target("x", must, limit, lambda _: figure), Summary(results_with(tmp_path)))
    assert verdict.met is met
    assert verdict.word == {True: "met", False: "missed", None: "not measured"}[met]


def test_nothing_measured_is_nothing_met(tmp_path: Path) -> None:
    assert {verdict.met for verdict in verdicts(Summary(results_with(tmp_path)))} == {None}
    assert len(TARGETS) >= 20


def test_every_target_finds_its_figures_in_the_plan(tmp_path: Path) -> None:
    """A target whose measurement was renamed would be "not measured" for ever."""
    asked: set[str] = set()

    class Asked(Summary):
        def spread(self, name: str, path: str) -> Spread | None:
            asked.add(name)
            return None

    verdicts(Asked(results_with(tmp_path)))
    known = {each.name for each in plan.full()}
    assert asked <= known


def test_the_page_has_every_target_every_measurement_and_every_gap(tmp_path: Path) -> None:
    rows = [
        Row("rehydra/base/base", 1, figures(3000.0, cpu_ms_per_turn={"hosts": 0.4, "all": 0.5})),
        Row("rehydra/connections/1", 1, figures(900.0)),
        Row("rehydra/rehydrate/500", 1, {"load_ms": {"p50": 2.5, "p99": 4.5}}),
        Row("serve-proxy/base/base", 1, why="it didn't <start>"),
    ]
    results = results_with(tmp_path, *rows)
    summary = Summary(results)
    text = page(results, summary, verdicts(summary))
    assert [row.name for row in rows if f">{row.name}</td>" not in text] == []
    assert all(html.escape(target.what) in text for target in TARGETS)
    assert "it didn&#x27;t &lt;start&gt;" in text and "<start>" not in text
    assert '<td class="met">met</td>' in text and "3,000" in text
    assert text.count("<svg") == 2


def test_the_end_writes_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.written(results_with(tmp_path, Row("rehydra/base/base", 1, figures(3000.0))), tmp_path)
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["commit"] == "abc"
    assert document["measured"]["rehydra/base/base"]["turns_per_s"]["median"] == 3000.0
    assert {target["verdict"] for target in document["targets"]} == {"met", "not measured"}
    assert "met           committed turns/s, base point: 3,000" in capsys.readouterr().out


def test_a_line_of_progress_says_the_figures_or_why_there_are_none() -> None:
    assert in_short(Row("a", 1, figures(1234.0))) == "turns/s 1,234, p50, ms 1.00, p99, ms 2.00"
    assert in_short(Row("a", 1, {"load_ms": {"p50": 2.5}})) == "load_ms.p50 2.50"
    assert in_short(Row("a", 1, why="no")) == "no figure: no"
