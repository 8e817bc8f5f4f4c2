"""Who is judged dead, who is not, and what a host then asks of the store."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.model import BeatReply
from router.membership import STRANGERS_MAX, Observer
from tests.unit.membership_world import DRAINING, INTERVAL_S, SERVING, SETTINGS, SPARE, TTL_S, Cluster

# --- silence ----------------------------------------------------------------------------------------------------


def test_a_host_whose_beats_stop_is_dead_after_beat_ttl_and_not_before() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.run(TTL_S - INTERVAL_S, "a")
    assert not cluster.is_dead("b", asked_by="a")
    cluster.run(INTERVAL_S, "a")
    assert cluster.is_dead("b", asked_by="a")
    assert cluster.orders["a"].evict == (("slot-1", "b"),)


def test_a_host_that_beats_is_not_dead_however_long_it_lives() -> None:
    cluster = Cluster("a", "b")
    cluster.run(60.0, "b", "a")
    assert not cluster.is_dead("b", asked_by="a")
    assert not cluster.orders["a"]


@pytest.mark.parametrize("first", ["a", "b", "c"])
def test_a_store_outage_evicts_nobody_whoever_comes_back_first(first: str) -> None:
    cluster = Cluster("a", "b", "c")
    cluster.run(5.0, "c", "b", "a")
    cluster.now += 5.0
    others = [name for name in "abc" if name != first]
    for _ in range(3):
        assert not cluster.beat(first).evict
        assert not any(cluster.is_dead(name, asked_by=first) for name in others)
        cluster.now += INTERVAL_S
    cluster.run(10.0, "c", "b", "a")
    assert not any(orders.evict for orders in cluster.orders.values())


def test_after_an_outage_the_really_dead_are_found_within_another_beat_ttl() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.now += 5.0
    cluster.run(INTERVAL_S + TTL_S, "a")
    assert cluster.is_dead("b", asked_by="a")


def test_a_host_that_thaws_judges_nobody_until_its_beats_were_accepted_for_beat_ttl() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.run(5.0, "c", "b", "a")
    cluster.run(TTL_S, "c", "a")
    assert cluster.is_dead("b", asked_by="a")
    cluster.run(60.0, "c")
    assert not cluster.is_dead("b", asked_by="a"), "its own beats are not accepted"
    cluster.beat("a")
    assert not cluster.is_dead("b", asked_by="a"), "b may have thawed together with a"
    cluster.run(TTL_S, "c", "a")
    assert cluster.is_dead("b", asked_by="a")


def test_an_answer_that_took_long_is_no_proof_of_silence() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    orders = cluster.beat("a", lasting_s=30.0)
    assert not orders.evict
    assert not cluster.is_dead("b", asked_by="a")


def test_silence_is_measured_from_receipt_to_sending() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.beat("b")
    cluster.beat("a", lasting_s=0.4)
    seen_at = cluster.now
    cluster.run(1.5, "a")
    cluster.now = seen_at + TTL_S - 0.1
    cluster.beat("a", lasting_s=0.4)
    assert not cluster.is_dead("b", asked_by="a"), "it may have beaten while the answer was on its way"
    cluster.beat("a")
    assert cluster.is_dead("b", asked_by="a")


def test_a_member_that_never_beat_is_evicted_after_beat_ttl() -> None:
    cluster = Cluster("a")
    cluster.store.join("silent", "silent:80", 9, 1, 64)
    cluster.run(INTERVAL_S, "a")
    assert not cluster.orders["a"].evict
    cluster.run(TTL_S, "a")
    assert cluster.orders["a"].evict == (("slot-1", "silent"),)


def test_a_dead_host_without_a_slot_is_forgotten_not_evicted() -> None:
    cluster = Cluster("a", "b")
    cluster.views["b"].drain()
    cluster.beat("b")
    cluster.obey("b")
    cluster.run(INTERVAL_S, "b", "a")
    cluster.run(TTL_S, "a")
    assert cluster.is_dead("b", asked_by="a")
    assert cluster.orders["a"].evict == ()
    assert cluster.orders["a"].forget == ("b",)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 0.2), st.floats(0.0, 3.0)), max_size=60))
def test_nobody_is_ever_called_dead_within_beat_ttl_of_a_beat(steps: list[tuple[str, float, float]]) -> None:
    """Whatever the timing of both hosts' beats: an answer leads to a verdict only if b was silent for beat_ttl_s."""
    cluster = Cluster("a", "b")
    beaten_at = cluster.now
    for name, lasting_s, pause_s in steps:
        sent = cluster.now
        cluster.beat(name, lasting_s)
        if name == "b":
            beaten_at = sent
        elif cluster.is_dead("b", asked_by="a"):
            assert sent - beaten_at >= TTL_S
        cluster.now += pause_s


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_refused_connection_kills_at_once_but_costs_the_slot_only_when_beats_stop_too() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.refuse("b", by="a")
    assert cluster.is_dead("b", asked_by="a")
    cluster.run(INTERVAL_S, "a")
    assert not cluster.orders["a"].evict
    cluster.run(2 * INTERVAL_S, "a")
    assert cluster.orders["a"].evict == (("slot-1", "b"),)


def test_a_beat_made_after_the_refusal_voids_it() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.refuse("b", by="a")
    cluster.run(2 * INTERVAL_S, "b", "a")
    assert not cluster.is_dead("b", asked_by="a")
    cluster.run(5.0, "b", "a")
    assert not cluster.orders["a"].evict


def test_a_draining_host_may_refuse_without_being_dead() -> None:
    cluster = Cluster("a", "b")
    cluster.views["b"].drain()
    cluster.run(1.0, "b", "a")
    cluster.refuse("b", by="a")
    assert not cluster.is_dead("b", asked_by="a")


def test_a_draining_host_whose_beats_stop_is_dead_all_the_same() -> None:
    cluster = Cluster("a", "b")
    cluster.views["b"].drain()
    cluster.run(1.0, "b", "a")
    cluster.run(TTL_S, "a")
    assert cluster.is_dead("b", asked_by="a")


def test_a_stranger_at_its_address_kills_even_one_that_said_it_was_draining() -> None:
    cluster = Cluster("a", "b")
    cluster.views["b"].drain()
    cluster.run(1.0, "b", "a")
    cluster.refuse("b", by="a", stranger=True)
    assert cluster.is_dead("b", asked_by="a")


def test_refusals_seen_before_a_freeze_say_nothing_after_it() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.refuse("b", by="a")
    cluster.run(60.0, "b")
    cluster.beat("a")
    assert not cluster.is_dead("b", asked_by="a")


# --- the gone ---------------------------------------------------------------------------------------------------


def test_one_in_neither_beats_nor_table_is_dead_only_by_an_answer_to_a_later_beat() -> None:
    cluster = Cluster("a")
    cluster.run(1.0, "a")
    cluster.now += 0.1
    assert not cluster.is_dead("of-last-week", asked_by="a")
    cluster.now += 0.1
    cluster.beat("a")
    assert cluster.is_dead("of-last-week", asked_by="a")


def test_one_that_has_joined_since_the_last_answer_is_not_taken_for_gone() -> None:
    cluster = Cluster("a")
    cluster.run(1.0, "a")
    cluster.now += 0.1
    cluster.add("newcomer")
    assert not cluster.is_dead("newcomer", asked_by="a")
    cluster.run(INTERVAL_S, "newcomer", "a")
    assert not cluster.is_dead("newcomer", asked_by="a")


def test_an_evicted_host_is_dead_and_comes_back_by_joining() -> None:
    cluster = Cluster("a", "b")
    cluster.run(1.0, "b", "a")
    lapses = cluster.views["b"].lapses
    cluster.run(TTL_S, "a")
    cluster.obey("a")
    cluster.run(INTERVAL_S, "a")
    cluster.is_dead("b", asked_by="a")
    cluster.run(INTERVAL_S, "a")
    assert cluster.is_dead("b", asked_by="a")

    assert cluster.beat("b").join
    assert cluster.views["b"].lapses > lapses
    cluster.obey("b")
    cluster.beat("b")
    assert cluster.views["b"].ref.slot == "slot-1"
    cluster.beat("a")
    assert not cluster.is_dead("b", asked_by="a")


def test_after_a_gap_the_missing_are_gone_only_after_beat_ttl() -> None:
    cluster = Cluster("a")
    cluster.run(1.0, "a")
    cluster.now += 60.0
    cluster.beat("a")
    cluster.is_dead("of-last-week", asked_by="a")
    cluster.run(INTERVAL_S, "a")
    assert not cluster.is_dead("of-last-week", asked_by="a")
    cluster.run(TTL_S, "a")
    assert cluster.is_dead("of-last-week", asked_by="a")


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    observer = Observer("a", SETTINGS)
    observer.replied(BeatReply(1, False, False, {}, None), 10.0, 10.0)
    for number in range(2 * STRANGERS_MAX):
        observer.is_dead(f"stranger-{number}", 10.5)
        observer.refused(f"stranger-{number}", 10.5)
    assert len(observer._asked) <= STRANGERS_MAX
    assert len(observer._evidence) <= STRANGERS_MAX


# --- trust ------------------------------------------------------------------------------------------------------


def test_trust_is_measured_from_when_the_beat_was_sent() -> None:
    cluster = Cluster("a")
    cluster.beat("a", lasting_s=1.5)
    assert cluster.views["a"].trusted()
    cluster.now += 0.6
    assert not cluster.views["a"].trusted()


def test_a_lapse_of_trust_is_counted_even_if_nobody_looked_meanwhile() -> None:
    cluster = Cluster("a")
    cluster.run(5.0, "a")
    assert cluster.views["a"].lapses == 0
    cluster.now += TTL_S + 0.1
    cluster.beat("a")
    assert cluster.views["a"].trusted()
    assert cluster.views["a"].lapses == 1


def test_being_evicted_counts_as_a_lapse_of_trust() -> None:
    cluster = Cluster("a")
    cluster.run(5.0, "a")
    cluster.store.evict("slot-0", "a")
    cluster.run(INTERVAL_S, "a")
    assert cluster.views["a"].lapses == 1


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 2.5), st.floats(0.0, 2.5)), max_size=60))
def test_whoever_is_called_dead_by_silence_does_not_trust_itself_or_has_lapsed(
    steps: list[tuple[str, float, float]],
) -> None:
    """The two ends of one rule: nobody can be judged dead while it may speak for leases won before."""
    cluster = Cluster("a", "b")
    lapses = cluster.views["b"].lapses
    for name, lasting_s, pause_s in steps:
        cluster.beat(name, lasting_s)
        if cluster.is_dead("b", asked_by="a"):
            b = cluster.views["b"]
            assert not b.trusted() or b.lapses > lapses
        cluster.now += pause_s


# --- joining and leaving ----------------------------------------------------------------------------------------


def test_hosts_take_the_lowest_free_slots_and_a_spare_the_first_that_falls_free() -> None:
    cluster = Cluster("a", "b", "c", slots_max=2)
    assert [cluster.views[name].ref.slot for name in "abc"] == ["slot-0", "slot-1", ""]
    assert not cluster.beat("c").join, "the store knows that it waits"
    assert (cluster.views["c"].state, cluster.views["c"].crowded_out) == (SPARE, True)
    cluster.store.leave("a")
    assert not cluster.beat("c").join
    assert not cluster.views["c"].crowded_out
    assert cluster.views["c"].ref.slot == "slot-0"
    assert cluster.views["c"].state is SERVING


def test_a_host_is_a_spare_once_the_store_knows_it_and_says_so_again_when_it_was_forgotten() -> None:
    """Serve takes the old host away as soon as the new one is ready: the slot must have its heir by then."""
    cluster = Cluster("a", "b", slots_max=1)
    b, store = cluster.views["b"], cluster.store
    store.leave("b", gone=True)
    assert cluster.beat("b").join
    assert not b.crowded_out, "it knows of no free slot, and nobody knows of it"
    cluster.obey("b")
    assert not cluster.beat("b").join
    assert b.crowded_out
    store.leave("b", gone=True)  # It was slow, and taken for dead.
    assert cluster.beat("b").join
    cluster.obey("b")
    store.leave("a")
    cluster.beat("b")
    assert b.ref.slot == "slot-0"


def test_a_draining_host_gives_its_slot_back_and_takes_none() -> None:
    cluster = Cluster("a", "b")
    cluster.views["b"].drain()
    orders = cluster.beat("b")
    assert orders.leave
    assert not orders.join
    cluster.obey("b")
    orders = cluster.beat("b")
    assert not orders
    assert cluster.views["b"].state is DRAINING
    assert cluster.views["b"].ref.slot == ""
    assert cluster.views["b"].lapses == 0


def test_orders_expire_so_that_a_frozen_host_evicts_nobody_when_it_thaws() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.run(TTL_S, "a")
    assert cluster.orders["a"].evict
    assert cluster.orders["a"].expires == pytest.approx(cluster.now + TTL_S)
