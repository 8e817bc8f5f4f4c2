"""What is read out of a history and the edge's maps: moves, traffic, waits, and what clients were allowed to see."""

from __future__ import annotations

import pytest

from loadtest.lab.analysis import (
    Maps,
    Op,
    allowed,
    answered_by_the_cut_off,
    count_traffic,
    latencies,
    moves,
    next_acknowledged,
    releases,
    shard_of,
)
from loadtest.lab.deployment import SHARDS, Snapshot
from loadtest.lab.faults import EVERYBODY, Done, Released

CHANGE = 10.0


def op(session: str, at: float, end: float, slot: str, state: str = "resident", key: str = "") -> Op:
    return Op(session, at, key, end, at, "ok", slot, state, 200)


def refused(at: float, end: float, status: int, why: str = "") -> Op:
    return Op("a", at, "", end, at, "info", "", "", status, why)


def maps_moving(session: str) -> Maps:
    """All shards are slot-0's; at CHANGE the session's one goes to slot-1."""
    after = ["slot-0"] * SHARDS
    after[shard_of(session)] = "slot-1"
    return Maps([Snapshot(0.0, ("slot-0",) * SHARDS), Snapshot(CHANGE, tuple(after))])


STILL = Maps([Snapshot(0.0, ("slot-0",) * SHARDS)])


def test_a_session_that_moved_without_the_ring_is_found() -> None:
    ops = [
        op("a", 1, 2, "slot-0"), op("b", 1, 2, "slot-0"), op("c", 1, 2, "slot-0"), op("d", 1, 2, "slot-0"),
        op("a", 11, 12, "slot-1", "rehydrated"), op("b", 11, 12, "slot-0", "rehydrated"), op("c", 11, 12, "slot-0"),
        op("d", 11, 12, "slot-2"),
    ]  # fmt: skip
    found = moves([Done("scale", 9.0, "slot-1")], ops, maps_moving("a"))[0]
    assert (found.expected, found.asked, found.observed, found.unexpected) == (
        {"a"}, {"a"}, {"a", "b", "d"}, {"b", "d"},
    )  # fmt: skip


def test_a_killed_hosts_sessions_may_be_loaded_anew_in_the_slot_of_its_successor() -> None:
    ops = [op("a", 1, 2, "slot-0"), op("a", 11, 12, "slot-0", "rehydrated")]
    found = moves([Done("kill_host", 9.0, "slot-0")], ops, STILL)[0]
    assert (found.expected, found.observed, found.unexpected) == ({"a"}, {"a"}, set())


def test_a_fault_explains_only_moves_that_it_lies_between() -> None:
    ops = [op("a", 1, 2, "slot-0"), op("a", 3, 4, "slot-0"), op("a", 5, 6, "slot-0", "rehydrated")]
    assert moves([Done("kill_host", 2.5, "slot-0")], ops, STILL)[0].unexpected == {"a"}
    assert moves([Done("kill_redis", 4.5, EVERYBODY)], ops, STILL)[0].unexpected == set()
    assert moves([Done("kill_edge_replica", 4.5, EVERYBODY)], ops, STILL)[0].unexpected == {"a"}


def test_the_ring_may_move_sessions_while_whoever_writes_the_edges_map_is_being_replaced() -> None:
    ops = [op("a", 1, 2, "slot-0"), op("a", 6, 7, "slot-1", "rehydrated"), op("b", 1, 2, "slot-0"),
           op("b", 6, 7, "slot-1", "rehydrated")]  # fmt: skip
    late, replaced, killed = maps_moving("a"), Done("kill_edge_replica", 5.0), Done("kill_haproxy", 5.0)
    replaced.again_s = killed.again_s = 4.5
    assert moves([replaced], ops, late)[0].unexpected == {"b"}
    assert moves([killed], ops, late)[0].unexpected == {"a", "b"}
    replaced.again_s = 3.5
    assert moves([replaced], ops, late)[0].unexpected == {"a", "b"}, "the map had had time to follow"
    replaced.again_s, replaced.effect_s = 0.0, 4.5
    assert moves([replaced], ops, late)[0].unexpected == {"b"}, "hosts weren't ready before the next fault"


def test_a_session_that_was_served_elsewhere_may_go_home() -> None:
    ops = [op("a", 1, 2, "slot-2"), op("a", 3, 4, "slot-0", "rehydrated")]
    assert moves([Done("kill_haproxy", 0.5, EVERYBODY)], ops, STILL)[0].unexpected == set()


def test_a_fault_without_traffic_on_its_victim_does_not_count() -> None:
    idle, busy = Done("kill_host", 9.0, "slot-0", seen="gone"), Done("kill_host", 11.5, "slot-1", seen="gone")
    count_traffic([idle, busy], [op("a", 1, 2, "slot-0"), op("a", 11, 12, "slot-1")], maps_moving("a"))
    assert (idle.effective, busy.effective, busy.traffic) == (False, True, 1)


def test_a_fault_whose_effect_was_not_seen_does_not_count() -> None:
    unseen = Done("kill_host", 1.5, "slot-0")
    count_traffic([unseen], [op("a", 1, 2, "slot-0")], STILL)
    assert (unseen.traffic, unseen.effective) == (1, False)


def test_a_wait_counts_from_the_fault_or_from_when_the_message_was_due() -> None:
    ops = [op("a", 8, 10, "slot-0"), op("b", 12, 13, "slot-0"), op("a", 14, 19, "slot-0")]
    ops[1].due = 11.0
    fault = Done("kill_host", 9.0)
    assert next_acknowledged(fault, 20.0, ops) == {"a": 1.0, "b": 2.0}
    assert next_acknowledged(fault, 20.0, ops, from_sent=True) == {"a": 1.0, "b": 1.0}


def test_latencies_count_from_the_scheduled_time() -> None:
    late = Op("a", 5.0, "", 6.0, 2.0, "ok", "slot-0", "resident", 200)
    assert latencies([], [late])["before"]["max"] == 4.0


def test_a_lease_is_due_from_the_last_turn_at_the_host_that_left() -> None:
    fault = Done("scale", 9.0, "slot-0")
    fault.released = {"a": Released("slot-0", 10.0, 13.0), "idle": Released("slot-0", 10.0, 10.5)}
    ops = [op("a", 9, 12, "slot-0"), op("a", 12, 14, "slot-1", "rehydrated")]
    assert sorted(releases(fault, ops)) == [0.5, 1.0]


def test_a_host_that_was_cut_off_may_answer_only_what_it_had_before() -> None:
    fault = Done("cut_off_host", 10.0, "slot-0", host="life", over=20.0)

    def by(host: str, at: float, end: float, key: str = "") -> Op:
        answered = op("a", at, end, "slot-0", key=key)
        answered.host = host
        return answered

    before, after, streamed = by("life", 9, 11), by("life", 15, 21), by("life", 11, 12, "k")
    wrong, of_its_successor = by("life", 11, 12), by("another", 11, 12)
    assert answered_by_the_cut_off(fault, [before, after, streamed, wrong, of_its_successor]) == [wrong]


@pytest.mark.parametrize(
    ("do", "error", "may"),
    [
        ("kill_haproxy", refused(9, 11, 0), True),
        ("kill_haproxy", refused(9, 11, 503), False),
        ("kill_haproxy", refused(1, 2, 0), False),
        ("kill_haproxy", refused(40, 41, 0), False),
        ("kill_host", refused(9, 11, 0), False),
        ("cut_redis_tail", refused(11, 12, 409, "urn:rehydra:problem:state-regressed Turn 3"), True),
        ("cut_redis_tail", refused(90, 91, 409, "urn:rehydra:problem:state-regressed Turn 3"), True),
        ("cut_redis_tail", refused(8, 9, 409, "urn:rehydra:problem:state-regressed Turn 3"), False),
        ("cut_redis_tail", refused(11, 12, 409, "urn:rehydra:problem:key-mismatch"), False),
    ],
)
def test_clients_may_see_only_what_a_fault_of_that_time_must_show_them(do: str, error: Op, may: bool) -> None:
    assert allowed(error, [Done(do, 10.0, EVERYBODY, again_s=2.0)]) is may
