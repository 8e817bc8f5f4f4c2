"""The model of large rings: it is the product's ring where the product goes, and deals are fair and stay put."""

from __future__ import annotations

import pytest

from actors.model import Member, Table
from loadtest.bench import scale
from loadtest.bench.scale_ring import dealt, hashed, joined, loads, moved, over_mean, points, sessions_of, without
from loadtest.bench.scale_store import Beat, script
from router.ring import VNODES, Ring
from router.shards import SHARDS


def product(slots: int) -> list[int]:
    members = [Member(f"slot-{number}", f"host-{number}", f"127.0.0.1:{number + 1}", 1) for number in range(slots)]
    ring = Ring.of(Table(1, {member.slot: member for member in members}))
    return [int(slot.removeprefix("slot-")) for slot in ring.slot_of_shard]


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
def test_the_model_balances_as_the_products_ring_does(slots: int) -> None:
    mine = loads(hashed(points(range(slots), VNODES), SHARDS), slots, [1] * SHARDS)
    theirs = loads(product(slots), slots, [1] * SHARDS)
    assert over_mean(mine) == pytest.approx(over_mean(theirs), rel=0.25)


def test_only_the_leavers_shards_move_on_a_circle() -> None:
    circle = points(range(16), 160)
    before = hashed(circle, 4096)
    after = hashed([each for each in circle if each[1] != 3], 4096)
    assert {was for was, now in zip(before, after, strict=True) if was != now} == {3}
    assert moved(before, after) == before.count(3)


def test_a_deal_stays_even_and_moves_one_share_when_one_joins_or_leaves() -> None:
    owners = dealt(range(3), 4096)
    for joiner in range(3, 20):
        after = joined(owners, joiner)
        assert {now for was, now in zip(owners, after, strict=True) if was != now} == {joiner}
        assert moved(owners, after) == 4096 // (joiner + 1)
        owners = after
    after = without(owners, 5)
    assert {was for was, now in zip(owners, after, strict=True) if was != now} == {5}
    shares = [share for host, share in enumerate(loads(after, 20, [1] * 4096)) if host != 5]
    assert max(shares) - min(shares) <= 2


def test_every_session_is_counted_once() -> None:
    assert sum(sessions_of(64, 1000)) == 1000


def test_a_size_is_told_with_its_worst_leave() -> None:
    ring = scale.hashed_ring(8, 4096, 160, 10_000)
    assert ring.strays == 0 and ring.empty == 0
    assert 1.0 <= ring.shards_over_mean <= ring.moved_over_ideal * 1.5
    even = scale.dealt_ring(8, 4096, 10_000)
    assert even.shards_over_mean < 1.01 and even.strays == 0
    table = scale.ring_table([ring, even])
    assert table.count("\n") == 3 and "| hashed | 8 | 4,096 | 160 |" in table


def test_the_cost_of_all_beats_is_each_ones_by_all_hosts() -> None:
    beat = Beat(1000, us=500.0, reply_bytes=70_000.0, table_us=1.0, table_bytes=1.0)
    assert beat.cores(0.5) == pytest.approx(1.0)
    assert beat.bytes_per_s(0.5) == pytest.approx(140e6)


def test_the_script_of_a_beat_is_put_together_whole() -> None:
    assert [line for line in script().splitlines() if line.startswith("-- include")] == []
    assert "local function ring_version()" in script()
