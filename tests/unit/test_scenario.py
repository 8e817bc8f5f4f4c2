"""The experiments' scenarios: all can be read and carried out, and nothing misspelled is let through."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from pydantic import ValidationError

from loadtest.lab.command import main, parse, planned
from loadtest.lab.deployment import Deployment
from loadtest.lab.faults import KINDS, Need
from loadtest.lab.nemesis import Nemesis
from loadtest.lab.progress import Progress
from loadtest.lab.scenario import Chance, Load, Scenario, names, read

DEMANDED = (
    "baseline scale_down scale_up rolling_update kill_host kill_node freeze_host cut_off_host redis_restart"
    " redis_lost_tail kill_edge everything store_restart"
)


def test_every_scenario_that_was_asked_for_can_be_read() -> None:
    assert set(names()) >= set(DEMANDED.split())
    for name in names():
        for smoke in (False, True):
            scenario = read(name, smoke=smoke, seed=7)
            assert scenario.seed == 7 and scenario.kinds <= KINDS.keys()


@pytest.mark.parametrize("name", ["scale_down", "kill_host", "freeze_host", "redis_restart", "store_restart"])
def test_the_short_ones_are_short_and_have_a_fault(name: str) -> None:
    scenario = read(name, smoke=True)
    assert scenario.for_s <= 30 and scenario.faults


@pytest.mark.parametrize(
    "wrong",
    [
        {"fault": []},
        {"faults": [{"at_s": 1, "do": "kill_hots"}]},
        {"faults": [{"at_s": 11, "do": "kill_host"}]},
        {"faults": [{"at_s": 1, "do": "scale"}]},
        {"faults": [{"at_s": 1, "do": "kill_host", "hosts": 2}]},
        {"faults": [{"at_s": 1, "do": "kill_edge_of_several"}]},
        {"chance": {"every_s": [1, 2], "among": ["kill_hots"]}},
        {"chance": {"every_s": [1, 2], "among": ["scale"], "hosts": [3, 3]}},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "n", "about": "a", "for_s": 10, "load": {"users": 1}} | wrong)


def test_a_load_has_limits() -> None:
    with pytest.raises(ValidationError):
        Load(users=0)


def test_a_scenario_knows_what_its_faults_need_of_the_stack() -> None:
    assert read("cut_off_host").needs == read("everything").needs == {Need.STORE_LINK}
    assert read("kill_host").needs == frozenset()
    assert read("several_edges").needs == {Need.SEVERAL_EDGES} and read("several_edges").edges > 1


def test_what_makes_no_sense_on_a_store_is_refused_in_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["loadtest/run", "redis_lost_tail", "--store", "postgres"])
    assert main() == 2
    assert capsys.readouterr().err == (
        "loadtest/run: ValueError: redis_lost_tail isn't for postgres: cut_redis_tail is only for redis\n"
    )
    for name in ("kill_host", "scale_down", "store_restart", "kill_node", "freeze_host", "rolling_update", "baseline"):
        assert read(name).on("postgres") == read(name).on("redis") == read(name)


def test_of_faults_by_chance_those_are_left_that_make_sense_on_the_store(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse(["everything", "--store", "postgres"])
    assert planned(arguments)[0].scenario == read("everything") and capsys.readouterr().out == ""
    arguments.store = "hybrid"  # Before two servers no link can stand.
    one = planned(arguments)[0]
    assert read("everything").kinds - one.scenario.kinds == {"cut_off_host"} and not one.scenario.needs
    assert capsys.readouterr().out == "everything on hybrid: without cut_off_host\n"
    only_there = Chance(every_s=(1, 2), among=["cut_redis_tail", "kill_redis"])
    with pytest.raises(ValueError, match="cut_redis_tail is only for redis; kill_redis is only for hybrid, redis"):
        read("baseline").model_copy(update={"chance": only_there}).on("postgres")


def test_runs_on_two_stores_share_neither_folder_nor_stack() -> None:
    runs = [planned(parse(["kill_host", "--store", store]))[0] for store in ("redis", "postgres")]
    assert [run.out.name for run in runs] == ["kill_host", "kill_host-postgres"]
    assert len({run.stack for run in runs}) == 2


def test_one_run_has_the_folder_and_several_have_one_each(tmp_path: Path) -> None:
    one = planned(parse(["kill_host", "--out", str(tmp_path)]))
    assert [run.out for run in one] == [tmp_path]
    several = planned(parse(["kill_host", "baseline", "--seeds", "1,2", "--repeat", "2", "--out", str(tmp_path)]))
    assert len({run.out for run in several}) == 8
    assert {(run.scenario.name, run.scenario.seed) for run in several} == {
        ("kill_host", 1), ("kill_host", 2), ("baseline", 1), ("baseline", 2),
    }  # fmt: skip


def test_each_kind_of_fault_has_its_turn_before_any_comes_again() -> None:
    """Of a dozen kinds, ten minutes of independent draws left two out."""
    scenario = read("everything")
    assert scenario.chance is not None
    nemesis = Nemesis(cast(Deployment, SimpleNamespace(hosts=3)), scenario, 0.0, cast(Progress, None))
    among = sorted(scenario.chance.among)
    dealt = [fault.do for fault in islice(nemesis._plan(), 4 * len(among))]
    for at in range(0, len(dealt), len(among)):
        assert sorted(dealt[at : at + len(among)]) == among
    assert dealt[: len(among)] != dealt[len(among) : 2 * len(among)]
