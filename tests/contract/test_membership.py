"""The membership table: one holder per slot, every change by compare-and-set, and beats that need no clocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.model import Beat, HostState, Member, Table
from actors.stores.base import MembershipStore
from tests.contract.lab import Lab, RedisLab

SERVING, SPARE, DRAINING = HostState.SERVING, HostState.SPARE, HostState.DRAINING


def join(membership: MembershipStore, name: str, slots_max: int = 64, weight: int = 1) -> Table:
    return membership.join(f"inc-{name}", f"10.0.0.1:{name}", 9000, weight, slots_max)


def holders(table: Table) -> dict[str, str]:
    return {slot: member.incarnation for slot, member in sorted(table.members.items())}


def test_an_empty_table_has_ring_version_0(membership: MembershipStore) -> None:
    assert membership.table() == Table(0, {})


def test_a_host_joins_with_all_that_others_need_to_know(membership: MembershipStore) -> None:
    table = membership.join("inc-1", "10.0.0.1:7000", 9001, 3, 64)
    assert table.members == {"slot-0": Member("slot-0", "inc-1", "10.0.0.1:7000", 9001, 3)}
    assert table == membership.table()


def test_each_host_takes_the_lowest_free_slot(membership: MembershipStore) -> None:
    for name in ("1", "2", "3"):
        join(membership, name)
    membership.leave("inc-1")
    membership.leave("inc-2")
    assert holders(join(membership, "4")) == {"slot-0": "inc-4", "slot-2": "inc-3"}
    assert holders(join(membership, "5")) == {"slot-0": "inc-4", "slot-1": "inc-5", "slot-2": "inc-3"}


def test_the_slot_after_slot_9_is_slot_10(membership: MembershipStore) -> None:
    for number in range(12):
        table = join(membership, str(number))
    assert table.slot_of("inc-10") == "slot-10"


def test_a_slot_that_is_held_is_never_given_to_another(membership: MembershipStore) -> None:
    join(membership, "1", slots_max=1)
    before = membership.table()
    assert join(membership, "2", slots_max=1) == before
    assert before.slot_of("inc-2") is None


def test_a_host_that_has_a_slot_keeps_it_and_changes_nothing(membership: MembershipStore) -> None:
    join(membership, "1")
    before = join(membership, "2")
    membership.leave("inc-1")
    after = join(membership, "2")
    assert after.slot_of("inc-2") == "slot-1"
    assert after.ring_version == before.ring_version + 1


def test_hosts_that_join_at_one_moment_get_different_slots(lab: Lab) -> None:
    memberships = [lab.membership() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda at: join(memberships[at % 4], str(at)), range(16)))
    table = memberships[0].table()
    assert sorted(table.members) == sorted(f"slot-{number}" for number in range(16))
    assert len(set(holders(table).values())) == 16


def test_every_change_raises_ring_version_by_one_and_nothing_else_does(membership: MembershipStore) -> None:
    changed = (
        join(membership, "1"),
        join(membership, "2"),
        membership.leave("inc-1"),
        membership.evict("slot-1", "inc-2"),
        join(membership, "3"),
    )
    versions = [table.ring_version for table in changed]
    assert versions == list(range(versions[0], versions[0] + 5))
    unchanged = (
        join(membership, "3"),
        membership.leave("inc-1"),
        membership.leave("inc-unknown", gone=True),
        membership.evict("slot-0", "inc-2"),
        membership.evict("slot-7", "inc-3"),
        membership.table(),
    )
    assert {table.ring_version for table in unchanged} == {versions[-1]}
    membership.beat("inc-3", "a:1", SERVING, -1)
    assert membership.table().ring_version == versions[-1]


async def test_ring_version_starts_at_the_stores_time_so_that_it_never_restarts_low(lab: Lab) -> None:
    membership = lab.membership()
    before_ms = lab.now_ms()
    for name in ("1", "2", "3"):
        last = join(membership, name).ring_version
    assert before_ms <= last - 2 <= lab.now_ms()
    lab.lose_membership()
    assert membership.table() == Table(0, {})
    await lab.pass_ms(10)
    assert join(membership, "1").ring_version > last


def test_an_eviction_takes_the_slot_from_that_very_incarnation(membership: MembershipStore) -> None:
    join(membership, "1")
    join(membership, "2")
    assert holders(membership.evict("slot-0", "inc-1")) == {"slot-1": "inc-2"}


def test_an_eviction_of_one_who_left_the_slot_spares_its_successor(membership: MembershipStore) -> None:
    join(membership, "1")
    membership.leave("inc-1")
    before = join(membership, "2")
    assert membership.evict("slot-0", "inc-1") == before


def test_an_evicted_host_that_comes_back_is_not_listed_and_may_join_again(membership: MembershipStore) -> None:
    join(membership, "1")
    membership.evict("slot-0", "inc-1")
    join(membership, "2")
    assert membership.beat("inc-1", "a:1", SERVING, -1).listed is False
    assert join(membership, "1").slot_of("inc-1") == "slot-1"


def spares(membership: MembershipStore, *names: str, slots_max: int = 2) -> None:
    """Hosts that beat and found no slot; the last has beaten last."""
    for name in names:
        membership.beat(f"inc-{name}", f"a:{name}", SPARE, -1)
        assert join(membership, name, slots_max).slot_of(f"inc-{name}") is None


@pytest.mark.parametrize("by", ["leave", "evict"])
def test_a_slot_that_falls_free_is_a_spares_in_the_same_step(membership: MembershipStore, by: str) -> None:
    join(membership, "1")
    before = join(membership, "2")
    spares(membership, "3")
    table = membership.leave("inc-1") if by == "leave" else membership.evict("slot-0", "inc-1")
    assert table.members["slot-0"] == Member("slot-0", "inc-3", "10.0.0.1:3", 9000, 1)
    assert table.ring_version == before.ring_version + 1
    reply = membership.beat("inc-3", "a:3", SPARE, -1)
    assert (reply.listed, reply.waits) == (True, False)
    # It has inherited once; the next slot is nobody's.
    assert holders(membership.leave("inc-2")) == {"slot-0": "inc-3"}


async def test_of_two_spares_the_one_that_beat_last_inherits(lab: Lab) -> None:
    """The other one may have died."""
    membership = lab.membership()
    join(membership, "1", slots_max=1)
    spares(membership, "3", "4", slots_max=1)
    await lab.pass_ms(10)
    membership.beat("inc-3", "a:3", SPARE, -1)
    assert holders(membership.leave("inc-1")) == {"slot-0": "inc-3"}


def test_no_slot_goes_to_a_spare_that_has_gone_or_drains_or_wants_a_smaller_ring(membership: MembershipStore) -> None:
    for name in ("1", "2", "3"):
        join(membership, name)
    spares(membership, "small")
    spares(membership, "gone", "drains", "left", slots_max=3)
    membership.leave("inc-gone", gone=True)
    membership.leave("inc-left")
    membership.beat("inc-drains", "a:drains", DRAINING, -1)
    assert holders(membership.leave("inc-3")) == {"slot-0": "inc-1", "slot-1": "inc-2"}
    assert holders(membership.leave("inc-2")) == {"slot-0": "inc-1", "slot-1": "inc-small"}


def test_a_spare_that_waits_changes_no_table(membership: MembershipStore) -> None:
    before = join(membership, "1", slots_max=1)
    assert not membership.beat("inc-3", "a:3", SPARE, -1).waits
    spares(membership, "3", slots_max=1)
    reply = membership.beat("inc-3", "a:3", SPARE, -1)
    assert (reply.listed, reply.waits) == (False, True)
    assert membership.table() == before
    membership.leave("inc-3", gone=True)
    assert not membership.beat("inc-3", "a:3", SPARE, -1).waits


def test_a_beat_tells_everybodys_last_beat(membership: MembershipStore) -> None:
    membership.beat("inc-1", "a:1", SPARE, -1)
    reply = membership.beat("inc-2", "a:2", DRAINING, -1)
    assert {name: (beat.state, beat.address) for name, beat in reply.beats.items()} == {
        "inc-1": (SPARE, "a:1"),
        "inc-2": (DRAINING, "a:2"),
    }


def test_a_beat_counts_up_by_one(membership: MembershipStore) -> None:
    counters = [membership.beat("inc-1", "a:1", SERVING, -1).beats["inc-1"].counter for _ in range(4)]
    assert counters == list(range(counters[0], counters[0] + 4))


def test_beats_do_not_disturb_each_other(membership: MembershipStore) -> None:
    first = membership.beat("inc-1", "a:1", SERVING, -1).beats["inc-1"]
    assert membership.beat("inc-2", "a:2", SERVING, -1).beats["inc-1"] == first


def test_a_count_that_was_forgotten_does_not_restart_low(lab: Lab) -> None:
    """An observer that waits for the count to grow must not wait for ever."""
    membership = lab.membership()
    before = membership.beat("inc-1", "a:1", SERVING, -1).beats["inc-1"]
    lab.lose_membership()
    assert membership.beat("inc-1", "a:1", SERVING, -1).beats["inc-1"].counter >= before.counter


def test_a_beat_says_whether_its_host_is_on_the_table(membership: MembershipStore) -> None:
    assert membership.beat("inc-1", "a:1", SPARE, -1).listed is False
    join(membership, "1")
    assert membership.beat("inc-1", "a:1", SERVING, -1).listed is True
    membership.leave("inc-1")
    assert membership.beat("inc-1", "a:1", DRAINING, -1).listed is False


def test_a_beat_brings_the_table_if_it_differs_from_the_one_that_is_known(membership: MembershipStore) -> None:
    assert membership.beat("inc-1", "a:1", SPARE, 0).table is None
    assert membership.beat("inc-1", "a:1", SPARE, -1).table == Table(0, {})
    table = join(membership, "1")
    for known in (-1, 0, table.ring_version - 1, table.ring_version + 1):
        reply = membership.beat("inc-1", "a:1", SERVING, known)
        assert reply.table == table
        assert reply.ring_version == table.ring_version
    assert membership.beat("inc-1", "a:1", SERVING, table.ring_version).table is None


def test_a_host_that_left_its_slot_may_go_on_beating_until_it_is_gone(membership: MembershipStore) -> None:
    join(membership, "1")
    membership.beat("inc-1", "a:1", SERVING, -1)
    membership.leave("inc-1")
    assert membership.beat("inc-1", "a:1", DRAINING, -1).beats["inc-1"].state == DRAINING
    membership.leave("inc-1", gone=True)
    assert "inc-1" not in membership.beat("inc-2", "a:2", SERVING, -1).beats


def test_a_repeated_leave_changes_nothing(membership: MembershipStore) -> None:
    join(membership, "1")
    table = membership.leave("inc-1", gone=True)
    assert membership.leave("inc-1", gone=True) == table


def test_an_eviction_forgets_the_beats_of_the_evicted_alone(membership: MembershipStore) -> None:
    join(membership, "1")
    for name in ("1", "2"):
        membership.beat(f"inc-{name}", f"a:{name}", SERVING, -1)
    membership.evict("slot-0", "inc-1")
    assert set(membership.beat("inc-2", "a:2", SERVING, -1).beats) == {"inc-2"}


def test_an_eviction_that_comes_too_late_keeps_the_beats(membership: MembershipStore) -> None:
    """It left and drains: its beats say so, and it must not be taken for dead."""
    join(membership, "1")
    membership.beat("inc-1", "a:1", SERVING, -1)
    membership.leave("inc-1")
    membership.evict("slot-0", "inc-1")
    assert "inc-1" in membership.beat("inc-2", "a:2", SERVING, -1).beats


def test_beats_of_hosts_that_vanished_while_they_drained_are_forgotten_in_the_end(lab: Lab) -> None:
    """I6: the beats don't grow without bound, whatever is killed; a host in the table is never forgotten."""
    membership = lab.membership()
    join(membership, "1")
    membership.beat("inc-1", "a:1", SERVING, -1)
    membership.beat("inc-2", "a:2", DRAINING, -1)
    lab.age_beats()
    assert set(membership.beat("inc-3", "a:3", SERVING, -1).beats) == {"inc-1", "inc-3"}


def test_the_beats_key_expires_when_nobody_beats_any_more(redis_lab: RedisLab) -> None:
    redis_lab.membership().beat("inc-1", "a:1", SERVING, -1)
    assert redis_lab.client.ttl(redis_lab.keys.beats) > 0


@pytest.mark.parametrize("address", ["[::1]:7000", "host.example:1", "1.2.3.4:5"])
def test_an_address_comes_back_as_it_was(membership: MembershipStore, address: str) -> None:
    table = membership.join("inc-1", address, 1, 1, 4)
    assert table.members["slot-0"].address == address
    assert membership.beat("inc-1", address, SERVING, -1).beats["inc-1"] == Beat(
        membership.beat("inc-2", "a:2", SERVING, -1).beats["inc-1"].counter, SERVING, address
    )
