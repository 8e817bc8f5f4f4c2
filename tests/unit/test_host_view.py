"""The ring and the others as one host sees them, and how it waits for news."""

from __future__ import annotations

import asyncio

import pytest

from actors.model import BeatReply, HostRef
from router.routing import HostView
from tests.unit.membership_world import INTERVAL_S, SETTINGS, TTL_S, Cluster


def test_the_host_hears_of_its_slot_before_it_hears_of_the_ring() -> None:
    cluster = Cluster("a")
    heard: list[str] = []
    view = HostView(
        HostRef("b", "", "b:80"),
        SETTINGS,
        lambda: cluster.now,
        on_ring=lambda: heard.append(f"ring {view.ref.slot}"),
        on_slot=lambda ref: heard.append(ref.slot),
    )
    cluster.views["b"] = view
    cluster.beat("b")
    cluster.obey("b")
    cluster.beat("b")
    cluster.beat("b")
    assert heard == ["ring ", "slot-1", "ring slot-1"]


def test_the_owner_comes_from_the_table_that_the_beats_brought() -> None:
    cluster = Cluster("a", "b")
    cluster.run(INTERVAL_S, "b", "a")
    owners = {cluster.views[name].owner("talk") for name in "ab"}
    assert len(owners) == 1
    assert owners.pop() in {cluster.views[name].ref for name in "ab"}
    assert cluster.views["a"].ring_version == cluster.store.table().ring_version


def test_the_heir_of_a_dead_owner_is_the_owner_of_the_ring_without_it() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.run(INTERVAL_S, "a", "b", "c")
    view = cluster.views["a"]
    sessions = [f"talk {number}" for number in range(200)]
    assert {view.heir(session) for session in sessions} == {None}
    before = {session: view.owner(session) for session in sessions}
    cluster.refuse("b", by="a")
    heirs = {session: view.heir(session) for session in sessions}
    cluster.store.evict(cluster.views["b"].ref.slot, "b")
    cluster.beat("a")
    for session, owner in before.items():
        assert owner is not None
        assert heirs[session] == (view.owner(session) if owner.incarnation == "b" else None)


def test_a_contradiction_with_the_store_brings_the_table_anew() -> None:
    cluster = Cluster("a")
    view = cluster.views["a"]
    known = view.known_ring_version
    assert known > 0
    view.replied(BeatReply(known, False, False, {}, None), cluster.now, cluster.now)
    assert view.known_ring_version == -1


async def test_waiting_for_a_death_ends_with_the_verdict_and_asks_for_a_beat() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    view = cluster.views["a"]
    hurried = 0

    def hurry() -> None:
        nonlocal hurried
        hurried += 1

    view.hurry = hurry
    waiting = asyncio.create_task(view.wait_dead(HostRef("b", "", "b:80")))
    await asyncio.sleep(0)
    assert hurried == 1
    cluster.run(1.0, "b", "a")
    await asyncio.sleep(0)
    assert not waiting.done()
    cluster.run(TTL_S, "a")
    await asyncio.wait_for(waiting, 1)
    assert not view._waiting


async def test_a_refusal_ends_the_wait_for_a_death_at_once() -> None:
    cluster = Cluster("a", "b")
    cluster.run(1.0, "b", "a")
    waiting = asyncio.create_task(cluster.views["a"].wait_dead(HostRef("b", "", "b:80")))
    await asyncio.sleep(0)
    cluster.refuse("b", by="a")
    await asyncio.wait_for(waiting, 1)


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    cluster = Cluster("a", "b")
    waiting = asyncio.create_task(cluster.views["a"].wait_dead(HostRef("b", "", "b:80")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not cluster.views["a"]._waiting


async def test_waiting_for_trust_ends_with_the_next_accepted_beat() -> None:
    cluster = Cluster("a")
    cluster.now += 60.0
    waiting = asyncio.create_task(cluster.views["a"].wait_trusted())
    await asyncio.sleep(0)
    assert not waiting.done()
    cluster.beat("a")
    await asyncio.wait_for(waiting, 1)


async def test_a_verdict_of_silence_is_acted_on_only_after_a_beat_that_was_sent_later() -> None:
    """A verdict is as old as the last beat: meanwhile its host may have come back, beaten, and claimed."""
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.run(TTL_S + INTERVAL_S, "a")
    view, ref = cluster.views["a"], HostRef("b", "", "b:80")
    assert view.is_dead(ref)
    cluster.now += 0.1
    robbing = asyncio.create_task(view.surely_dead(ref))
    await asyncio.sleep(0)
    assert not robbing.done()
    cluster.beat("b")
    cluster.beat("a")
    assert await asyncio.wait_for(robbing, 1) is False


async def test_a_host_that_stays_silent_is_surely_dead_by_the_next_beat() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.run(TTL_S + INTERVAL_S, "a")
    cluster.now += 0.1
    robbing = asyncio.create_task(cluster.views["a"].surely_dead(HostRef("b", "", "b:80")))
    await asyncio.sleep(0)
    cluster.now += 0.1
    cluster.beat("a")
    assert await asyncio.wait_for(robbing, 1) is True


async def test_a_refused_address_is_surely_dead_at_once() -> None:
    cluster = Cluster("a", "b")
    cluster.run(1.0, "b", "a")
    cluster.refuse("b", by="a")
    assert await asyncio.wait_for(cluster.views["a"].surely_dead(HostRef("b", "", "b:80")), 1) is True


async def test_each_session_of_a_killed_host_that_is_off_the_ring_is_taken_over_without_a_beat_of_its_own() -> None:
    """A beat is at most every 50 ms: thousands of sessions would wait half of that each, and be loaded in bunches."""
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    view, ref = cluster.views["a"], HostRef("b", "", "b:80")
    cluster.refuse("b", by="a")
    cluster.run(3 * INTERVAL_S, "a")
    cluster.obey("a")
    cluster.run(60.0, "a")
    assert view.table.slot_of("b") is None and "b" not in view.observer.beats
    for _ in range(3):
        assert await asyncio.wait_for(view.surely_dead(ref), 1) is True
        cluster.now += 0.01


async def test_a_host_that_vanished_refusing_and_comes_back_is_no_longer_dead() -> None:
    cluster = Cluster("a", "b")
    cluster.run(5.0, "b", "a")
    cluster.refuse("b", by="a")
    cluster.run(3 * INTERVAL_S, "a")
    cluster.obey("a")
    cluster.run(60.0, "a")
    ref = HostRef("b", "", "b:80")
    assert cluster.views["a"].is_dead(ref)
    cluster.run(INTERVAL_S, "b", "a")
    assert not cluster.views["a"].is_dead(ref)
    assert await asyncio.wait_for(cluster.views["a"].surely_dead(ref), 1) is False


async def test_whoever_waits_for_a_death_has_a_beat_at_the_moment_it_can_be_found() -> None:
    """The regular beat would come up to an interval later, and just before the silence was long enough."""
    cluster = Cluster("a", "b")
    cluster.run(1.0, "b", "a")
    view = cluster.views["a"]
    hurried: list[float] = []
    again = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hurry() -> None:
        hurried.append(loop.time())
        if len(hurried) == 2:
            again.set()

    view.hurry = hurry
    cluster.now = view.observer.dead_from("b") - 0.02
    waiting = asyncio.create_task(view.wait_dead(HostRef("b", "", "b:80")))
    await asyncio.sleep(0)
    asked = loop.time()
    assert len(hurried) == 1
    await asyncio.wait_for(again.wait(), 1)
    assert hurried[1] - asked >= 0.02
    waiting.cancel()
