"""The experiments' scenarios: all can be read, nothing misspelled is let through, and what they say is judged right."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from xxhash import xxh32_intdigest

from loadtest.lab.analysis import Op, count_traffic, latencies, moves, next_acknowledged
from loadtest.lab.deployment import Snapshot
from loadtest.lab.nemesis import Done
from loadtest.lab.scenario import Do, Load, Scenario, names, read

DEMANDED = (
    "baseline scale_down scale_up rolling_update kill_host kill_node freeze_host cut_off_host redis_restart"
    " redis_lost_tail kill_edge everything"
)
SHARDS = 4096


def test_every_scenario_that_was_asked_for_can_be_read() -> None:
    assert set(names()) >= set(DEMANDED.split())
    for name in names():
        assert read(name, seed=7).seed == 7


@pytest.mark.parametrize("name", ["scale_down", "kill_host", "freeze_host", "redis_restart"])
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
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "n", "about": "a", "for_s": 10, "load": {"users": 1}} | wrong)


def test_a_load_has_limits() -> None:
    with pytest.raises(ValidationError):
        Load(users=0)


def _op(session: str, at: float, end: float, slot: str, state: str = "resident") -> Op:
    return Op(session, at, "", end, at, "ok", slot, state, 200)


def _maps(session: str) -> list[Snapshot]:
    """All shards are slot-0's; at 10 s the session's one goes to slot-1."""
    after = ["slot-0"] * SHARDS
    after[xxh32_intdigest(session.encode()) % SHARDS] = "slot-1"
    return [Snapshot(0.0, ("slot-0",) * SHARDS), Snapshot(10.0, tuple(after))]


def test_a_session_that_moved_without_the_ring_is_found() -> None:
    ops = [
        _op("a", 1, 2, "slot-0"), _op("b", 1, 2, "slot-0"), _op("c", 1, 2, "slot-0"),
        _op("a", 11, 12, "slot-1", "rehydrated"), _op("b", 11, 12, "slot-0", "rehydrated"), _op("c", 11, 12, "slot-0"),
    ]  # fmt: skip
    moved = moves(Done(Do.SCALE, 9.0, "slot-1"), 20.0, ops, _maps("a"))
    assert (moved.expected, moved.observed, moved.unexpected) == ({"a"}, {"a", "b"}, {"b"})


def test_a_fault_without_traffic_on_its_victim_does_not_count() -> None:
    idle, busy = Done(Do.KILL_HOST, 9.0, "slot-0", seen="gone"), Done(Do.KILL_HOST, 11.5, "slot-1", seen="gone")
    count_traffic([idle, busy], [_op("a", 1, 2, "slot-0"), _op("a", 11, 12, "slot-1")], _maps("a"))
    assert (idle.effective, busy.effective, busy.traffic) == (False, True, 1)


def test_a_wait_counts_from_the_fault_or_from_when_the_message_was_due() -> None:
    ops = [_op("a", 8, 10, "slot-0"), _op("b", 12, 13, "slot-0"), _op("a", 14, 19, "slot-0")]
    assert next_acknowledged(Done(Do.KILL_HOST, 9.0), 20.0, ops) == {"a": 1.0, "b": 1.0}


def test_latencies_count_from_the_scheduled_time() -> None:
    late = Op("a", 5.0, "", 6.0, 2.0, "ok", "slot-0", "resident", 200)
    assert latencies([], [late])["before"]["max"] == 4.0
