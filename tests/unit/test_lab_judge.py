"""From what an experiment saw to its verdict, its report and the summary of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.lab import command
from loadtest.lab.analysis import Maps, Op
from loadtest.lab.command import Run
from loadtest.lab.deployment import SHARDS, Snapshot
from loadtest.lab.faults import Done
from loadtest.lab.judge import Evidence, judge
from loadtest.lab.report import page
from loadtest.lab.scenario import read
from loadtest.lab.summary import summary, table
from loadtest.verdict import Verdict

MAPS = Maps([Snapshot(0.0, ("slot-0",) * SHARDS)])


def evidence(*more: Op, seen: str = "pid 1 is gone", wait_s: float = 0.5, trouble: str = "") -> Evidence:
    """A kill of slot-0 at 10 s, under one session's turn, whose next one is acknowledged ``wait_s`` later."""
    before = Op("a", 9.9, "", 10.0 + wait_s, 9.9, "ok", "slot-0", "rehydrated", 200)
    first = Op("a", 1.0, "", 1.1, 1.0, "ok", "slot-0", "new", 200)
    fault = Done("kill_host", 10.0, "slot-0", seen=seen, again_s=3.0, traffic=1)
    return Evidence(
        read("kill_host"), "redis", 0.0, [fault], [first, before, *more], MAPS, Verdict(), [trouble] if trouble else []
    )


def error(at: float) -> Op:
    return Op("b", at, "", at + 0.1, at, "info", "", "", 503, "urn:rehydra:problem:store-unavailable")


def answered(at: float, slot: str) -> Op:
    return Op("a", at, "", at + 0.1, at, "ok", slot, "resident", 200)


def violated(verdict: dict[str, Any]) -> dict[str, int]:
    return {name: found["violated"] for name, found in verdict["invariants"].items() if found["violated"]}


def test_a_fault_with_traffic_and_effect_and_nothing_wrong_passes() -> None:
    verdict = judge(evidence())
    assert verdict["passed"] and violated(verdict) == {}
    assert verdict["moved"] == {"expected": 1, "asked": 1, "observed": 1, "unexpected": 0}
    assert verdict["failover_s"]["kill_host"] == {"n": 1, "p50": 0.5, "p99": 0.5, "max": 0.5}
    assert verdict["effective_faults"] == {"kill_host": 1}


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (evidence(seen=""), "faults without effect or traffic"),
        (evidence(error(11.0)), "client errors, not streamed"),
        (evidence(answered(20.0, "slot-0"), answered(25.0, "slot-1")), "moved though nothing had moved them"),
    ],
)
def test_what_is_wrong_stands_under_its_name(wrong: Evidence, rule: str) -> None:
    verdict = judge(wrong)
    assert not verdict["passed"] and violated(verdict) == {rule: 1}


def test_trouble_with_the_experiment_and_the_checkers_word_fail_it_too() -> None:
    assert not judge(evidence(trouble="locust: exit code 1"))["passed"]
    convicted = evidence()
    convicted.checked.accuse("lost", "a: turn 1")
    assert violated(judge(convicted)) == {"lost": 1}


def test_a_report_is_one_file_with_three_plots_and_nothing_from_elsewhere() -> None:
    told = evidence(error(11.0))
    assert judge(told)["store"] == "redis"
    report = page(judge(told), told)
    assert report.count("<svg") == 3 and "http://" not in report and "<script" not in report
    assert "kill_host slot-0" in report and "Store redis" in report and 'class="word bad"' in report


def test_a_summary_adds_counts_and_takes_medians_of_times() -> None:
    told = summary([judge(evidence(wait_s=wait_s)) for wait_s in (0.2, 0.9, 0.3)])
    found = told["scenarios"]["kill_host"]
    assert told["passed"] and found["runs"] == found["effective_faults"] == 3
    assert found["medians"]["failover_s all p99"] == 0.3 and found["stores"] == ["redis"]
    assert "kill_host" in table(told)


@pytest.mark.parametrize(
    ("now", "scenario", "store", "is_finished"),
    [
        ("abc", "kill_host", "redis", True),
        ("def", "kill_host", "redis", False),
        ("abc-dirty", "kill_host", "redis", False),
        ("abc", "baseline", "redis", False),
        ("abc", "kill_host", "postgres", False),
    ],
)
def test_only_a_verdict_of_this_commit_scenario_and_store_spares_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, scenario: str, store: str, is_finished: bool
) -> None:
    verdict = judge(evidence()) | {"commit": "abc" if not now.endswith("-dirty") else now}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    monkeypatch.setattr(command, "commit", lambda: now)
    assert (Run(read(scenario), store, 1, tmp_path).finished() is not None) is is_finished
