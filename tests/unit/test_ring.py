"""The ring is a function of the table, moves as little as it must, and shares fairly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uhashring import HashRing

from actors.model import HostRef, Member, Table
from router import ring as ring_module
from router.ring import EMPTY, Ring, moved, slot_number
from router.shards import SHARDS, shard_of


def table_of(slots: Iterable[int] | Mapping[int, int], ring_version: int = 1) -> Table:
    weights = slots if isinstance(slots, Mapping) else dict.fromkeys(slots, 1)
    members = {
        f"slot-{n}": Member(f"slot-{n}", f"host-{n}", f"10.0.0.{n}:80", 9, weight) for n, weight in weights.items()
    }
    return Table(ring_version, members)


SESSIONS = tuple(f"session-{number}" for number in range(10_000))

unhurried = settings(deadline=None, max_examples=50)
slot_sets = st.sets(st.integers(0, 63), min_size=1, max_size=12)


def test_shards_of_known_ids_never_change() -> None:
    assert [shard_of(name) for name in ("a", "session-1", "user@example:42~x")] == [13398, 5933, 16146]
    assert all(0 <= shard_of(f"s{n}") < SHARDS for n in range(100))


@unhurried
@given(slots=slot_sets, data=st.data())
def test_only_the_shards_of_the_slot_that_leaves_move(slots: set[int], data: st.DataObject) -> None:
    leaver = data.draw(st.sampled_from(sorted(slots)))
    old, new = Ring.of(table_of(slots)), Ring.of(table_of(slots - {leaver}))
    its_own = {shard for shard, slot in enumerate(old.slot_of_shard) if slot == f"slot-{leaver}"}
    assert moved(old, new) == its_own


@unhurried
@given(slots=slot_sets, joiner=st.integers(0, 63))
def test_a_slot_that_joins_takes_shards_only_for_itself(slots: set[int], joiner: int) -> None:
    old, new = Ring.of(table_of(slots - {joiner})), Ring.of(table_of(slots | {joiner}))
    assert {new.slot_of_shard[shard] for shard in moved(old, new)} == {f"slot-{joiner}"}


@unhurried
@given(slots=slot_sets, visitor=st.integers(0, 63))
def test_joining_and_leaving_restores_the_ring(slots: set[int], visitor: int) -> None:
    slots -= {visitor}
    before = Ring.of(table_of(slots))
    Ring.of(table_of(slots | {visitor}))
    assert Ring.of(table_of(slots)) == before


@unhurried
@given(st.permutations([0, 3, 7, 12, 40]))
def test_the_order_of_the_table_does_not_matter(order: list[int]) -> None:
    assert Ring.of(table_of(order)) == Ring.of(table_of(sorted(order)))


def test_processes_with_other_hash_seeds_have_the_same_ring() -> None:
    program = (
        "import json, sys; from hashlib import sha256; from tests.unit.test_ring import table_of;"
        "from router.ring import Ring;"
        "print(sha256(json.dumps(Ring.of(table_of({5, 1, 9, 33})).slot_of_shard).encode()).hexdigest())"
    )

    def digest(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.check_output([sys.executable, "-c", program], env=environment, text=True, timeout=30).strip()

    here = sha256(json.dumps(Ring.of(table_of({5, 1, 9, 33})).slot_of_shard).encode()).hexdigest()
    assert digest("1") == digest("4711") == here


@pytest.mark.parametrize("vnodes", [1, 160, ring_module.VNODES])
def test_the_compiled_table_is_uhashrings_own_answer(vnodes: int) -> None:
    slots = {0: 1, 1: 2, 2: 1, 9: 3}
    ring = Ring.of(table_of(slots), vnodes)
    nodes = {f"slot-{number}": weight for number, weight in slots.items()}
    oracle = HashRing(nodes, vnodes=vnodes, hash_fn=ring_module._hash_for(vnodes))
    assert list(ring.slot_of_shard) == [oracle.get_node(shard << 50) for shard in range(SHARDS)]


@pytest.mark.parametrize("hosts", [*range(2, 17), 24, 32, 48, 64])
def test_no_slot_has_much_more_than_its_share(hosts: int) -> None:
    most = max(Ring.of(table_of(range(hosts))).shares().values())
    assert most <= (1.06 if hosts <= 16 else 1.12) * SHARDS / hosts


@pytest.mark.parametrize(
    "weights",
    [
        *((3, 1), (1, 3), (1, 1, 3), (1, 3, 1), (3, 1, 1), (3, 3, 1), (1, 3, 3), (1, 1, 1, 3), (3, 1, 1, 1)),
        *((1, 1, 3, 3), (3, 1, 2), (2, 3, 1), (1, 2, 3), (3, 3, 3, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1, 3)),
    ],
    ids=str,
)
def test_a_host_of_weight_3_holds_3_times_the_sessions(weights: tuple[int, ...]) -> None:
    """Within a tenth, at 10,000 sessions: of what the hosts of weight 1 hold, and of what is its own share."""
    ring = Ring.of(table_of(dict(enumerate(weights))))
    held = Counter(ref.slot for ref in map(ring.owner, SESSIONS) if ref is not None)
    of_weight = {
        weight: mean(held[f"slot-{number}"] for number, each in enumerate(weights) if each == weight)
        for weight in set(weights)
    }
    assert of_weight[3] / of_weight[1] == pytest.approx(3, rel=0.1)
    for weight, sessions in of_weight.items():
        assert sessions == pytest.approx(len(SESSIONS) * weight / sum(weights), rel=0.1)


def test_a_host_that_comes_back_heavier_takes_shards_and_gives_none_away() -> None:
    old, new = Ring.of(table_of({0: 1, 1: 1, 2: 1})), Ring.of(table_of({0: 1, 1: 3, 2: 1}))
    assert {new.slot_of_shard[shard] for shard in moved(old, new)} == {"slot-1"}


@unhurried
@given(st.dictionaries(st.integers(0, 63), st.integers(1, 4), min_size=2, max_size=8))
def test_shares_follow_the_weights(weights: dict[int, int]) -> None:
    ring = Ring.of(table_of(weights))
    total = sum(weights.values())
    for number, weight in weights.items():
        assert ring.shares()[f"slot-{number}"] == pytest.approx(SHARDS * weight / total, rel=0.2)


def test_a_ring_stays_what_it_is_from_one_release_to_the_next() -> None:
    slots = Ring.of(table_of({0: 1, 1: 2, 5: 1})).slot_of_shard
    assert sha256(json.dumps(slots).encode()).hexdigest()[:16] == "1c4f92e96ee36349"


def test_owner_is_the_member_of_the_shards_slot() -> None:
    ring = Ring.of(table_of(range(3), ring_version=8))
    slot = ring.slot_of_shard[shard_of("talk")]
    number = slot_number(slot)
    assert ring.owner("talk") == HostRef(f"host-{number}", slot, f"10.0.0.{number}:80")
    assert ring.ring_version == 8
    assert ring.lists(f"host-{number}")
    assert not ring.lists("another")


def test_a_new_incarnation_in_the_same_slot_moves_that_slots_shards_and_no_map() -> None:
    table = table_of(range(3))
    successor = Member("slot-1", "host-1-again", "10.0.0.1:81", 9)
    old, new = Ring.of(table), Ring.of(Table(2, {**table.members, "slot-1": successor}))
    assert new.slot_of_shard == old.slot_of_shard
    assert moved(old, new) == {shard for shard, slot in enumerate(old.slot_of_shard) if slot == "slot-1"}


def test_an_empty_ring_names_nobody() -> None:
    assert EMPTY.owner("talk") is None
    assert Ring.of(Table(4)).slot_of_shard == ("",) * SHARDS
    assert Ring.of(Table(4)).owner("talk") is None
    assert moved(EMPTY, Ring.of(Table(4))) == frozenset()


def test_a_table_with_strange_slots_is_refused() -> None:
    for name in ("replica-x", "slot-1024"):
        with pytest.raises(ValueError, match="no slot"):
            Ring.of(Table(1, {name: Member(name, "i", "a:1", 2)}))
