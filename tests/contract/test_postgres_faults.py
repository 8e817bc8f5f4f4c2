"""A PostgreSQL that is frozen, killed, full or closed: what is known of a call then, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import Outcome, StoreFull, StoreUnavailable
from actors.model import HostState
from actors.stores.base import Buried, Missing, Ok, Replayed
from actors.stores.postgres import PostgresStore
from actors.stores.postgres_functions import OF_SESSIONS
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_link import Link
from tests.contract.lab import TOMBSTONE_S, TTL_S, Talk, begin, fresh_key, turn
from tests.contract.postgres_lab import PostgresLab
from tests.postgres_server import PostgresServer

TIMEOUT_S = 1.0


@pytest_asyncio.fixture
async def lab(own_postgres: PostgresServer) -> AsyncIterator[PostgresLab]:
    """A lab on a server that this test may break. Calls time out after 1 s."""
    lab = PostgresLab(own_postgres.url, timeout_s=TIMEOUT_S)
    try:
        yield lab
    finally:
        own_postgres.revive()
        await lab.aclose()


def store_on(lab: PostgresLab, lanes: int = 0, **settings: Any) -> PostgresStore:
    return PostgresStore(Lanes(lab.settings.model_copy(update=settings), OF_SESSIONS, lanes), TTL_S, TOMBSTONE_S)


# --- a server that doesn't answer -------------------------------------------------------------------------------


async def test_a_frozen_store_is_unknown_after_the_time_out_and_the_repeat_finds_the_turn(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    """I10, I3: the commit is applied though its reply was lost; its repeat gets the recorded turn."""
    talk = await begin(lab.store(), "a")
    own_postgres.freeze()
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable) as lost:
        await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None)
    assert asyncio.get_running_loop().time() - started < 2 * TIMEOUT_S + 1
    assert lost.value.outcome is Outcome.UNKNOWN
    own_postgres.thaw()
    await talk.until_stored("a", "b")
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def test_who_waits_behind_a_frozen_call_is_not_kept_for_ever(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    """I6: waiting for a place is bounded too."""
    store = store_on(lab, lanes=1)
    talks = [await begin(store, "a") for _ in range(4)]
    own_postgres.freeze()
    started = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(talk.commit("b") for talk in talks), return_exceptions=True)
    own_postgres.thaw()
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert asyncio.get_running_loop().time() - started < 2 * TIMEOUT_S + 1
    await store.aclose()


async def test_the_queue_has_an_end(lab: PostgresLab, own_postgres: PostgresServer) -> None:
    """I6: beyond it a call fails at once."""
    store = store_on(lab, lanes=1, waiting_max=3)
    await store.read(fresh_key(), 0, 1)
    own_postgres.freeze()
    waiting = [asyncio.create_task(store.read(fresh_key(), 0, 1))]
    for _ in range(3):
        await asyncio.sleep(0)  # Then it is under way, and its place is free.
    waiting += [asyncio.create_task(store.read(fresh_key(), 0, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="waiting_max"):
        await store.read(fresh_key(), 0, 1)
    own_postgres.thaw()
    await asyncio.gather(*waiting)
    await store.aclose()


async def test_the_server_gives_up_a_statement_that_waits_longer_than_its_caller(lab: PostgresLab) -> None:
    """I6: or each repeat would leave another one that waits for the same lock."""
    talk = await begin(lab.store(), "a")
    async with lab.locked(talk.key):
        with pytest.raises(StoreUnavailable):
            await talk.commit("b")
        await lab.until_waiting_no_more()
    assert await talk.commit("b") == Ok()
    assert await talk.stored() == ["a", "b"]


# --- a server that dies -----------------------------------------------------------------------------------------


async def test_a_store_that_is_down_is_unavailable_at_once_and_usable_as_soon_as_it_is_back(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    talk, membership = await begin(lab.store(), "a"), lab.membership()
    await asyncio.to_thread(membership.join, "inc-1", "a:1", 1, 1, 4)
    own_postgres.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await talk.commit("b")
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(membership.table)
    own_postgres.start()
    assert await talk.commit("b") == Ok()
    assert await talk.stored() == ["a", "b"]
    assert (await asyncio.to_thread(membership.table)).slot_of("inc-1") == "slot-0"


async def test_beats_that_a_crash_has_forgotten_do_not_restart_low(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    """An observer that waits for the count to grow must not wait for ever. And no beat waits for the disk."""
    assert lab.sql.fetch("SELECT relpersistence FROM pg_class WHERE oid = 'test.beats'::regclass")[0][0] == b"u"
    membership = lab.membership()

    def beat() -> int:
        return membership.beat("inc-1", "a:1", HostState.SERVING, -1).beats["inc-1"].counter

    before = max([await asyncio.to_thread(beat) for _ in range(5)])
    own_postgres.restart()
    assert await asyncio.to_thread(beat) > before


async def test_a_connection_that_takes_longer_than_a_call_may_wait_is_there_for_the_next(
    lab: PostgresLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat waits half a second. On a machine that takes longer to connect, no host would ever join."""
    connected, opened, open_link = asyncio.Event(), list[Link](), Link.open

    async def slow(*arguments: Any) -> Link:
        await connected.wait()
        opened.append(await open_link(*arguments))
        return opened[-1]

    monkeypatch.setattr(Link, "open", slow)
    settings = lab.settings.model_copy(update={"timeout_s": 20.0})
    lanes = Lanes(settings, OF_SESSIONS, lanes=1, timeout_s=0.3)
    store = PostgresStore(lanes, TTL_S, TOMBSTONE_S)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.read(fresh_key(), 0, 1)
    connected.set()
    async with asyncio.timeout(settings.timeout_s):
        while not opened:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    assert await store.read(fresh_key(), 0, 1) == Missing()
    assert len(opened) == 1
    await store.aclose()


async def test_a_connection_that_died_while_idle_is_replaced_before_anything_is_sent(lab: PostgresLab) -> None:
    """Else the first commit after a restart would be unknown for nothing."""
    talk = await begin(lab.store(), "a")
    lab.sql.fetch("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'rehydra'")
    await asyncio.sleep(0.05)  # The loop must have seen the connection end; that moment can't be observed.
    assert await talk.commit("b") == Ok()


async def test_a_server_that_is_killed_under_load_has_every_acknowledged_turn_and_none_twice(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    """I2, I3: an acknowledged turn is there; one whose answer was lost is there once, or not, as its repeat finds."""
    talks = [await begin(lab.store()) for _ in range(6)]
    warm = asyncio.Semaphore(0)

    async def talk_on(talk: Talk) -> None:
        for number in range(100_000):
            await talk.say(f"k:{number}")
            if number == 10:
                warm.release()

    for _ in range(2):
        talking = [asyncio.create_task(talk_on(talk)) for talk in talks]
        for _ in talks:
            await warm.acquire()
        own_postgres.kill()
        ends = await asyncio.gather(*talking, return_exceptions=True)
        assert [type(end) for end in ends] == [StoreUnavailable] * len(talks)
        own_postgres.start()
        for talk in talks:
            known, unknown = len(talk.log), f"k:{len(talk.log)}"
            stored = await talk.stored()
            assert stored[:known] == talk.log
            assert stored[known:] in ([], [unknown])
            repeat = await talk.store.commit(talk.key, talk.lease, talk.last, turn(known + 1, unknown), None)
            assert repeat == (Replayed(turn(known + 1, unknown)) if stored[known:] else Ok())
            assert await talk.stored() == [*talk.log, unknown]
        talks = [await begin(lab.store()) for _ in range(6)]


# --- a server without room --------------------------------------------------------------------------------------


async def test_a_full_store_refuses_commits_has_written_nothing_and_still_answers_repeats(lab: PostgresLab) -> None:
    """I10, I3: full means not done. A disk can't be filled here, so a trigger says what the server would say."""
    talk, other = await begin(lab.store(), "a", "b"), await begin(lab.store(), "a")
    with lab.no_room():
        with pytest.raises(StoreFull) as refused:
            await talk.commit("c", b'{"n":1}')
        assert refused.value.outcome is Outcome.NOT_DONE
        assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))
        assert await talk.stored() == ["a", "b"]
        assert await talk.release() == Ok()
        assert await other.store.delete(other.key, "k:delete") == Buried(other.host)
    talk.token = ""
    assert (await talk.claim()).checkpoint.state == b""
    assert await talk.commit("c") == Ok()


# --- callers that go, and the end -------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_does_not_stop_what_was_sent(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    """I10: the commit of a caller that went away is applied, and its neighbours get their answers."""
    store = store_on(lab, lanes=2)
    gone, stays = await begin(store, "a"), await begin(store, "a")
    await asyncio.gather(gone.check(), stays.check())  # Both lanes are open.
    own_postgres.freeze()
    leaving, staying = asyncio.create_task(gone.commit("b")), asyncio.create_task(stays.commit("b"))
    for _ in range(20):
        await asyncio.sleep(0)
    leaving.cancel()
    own_postgres.thaw()
    assert await staying == Ok()
    await gone.until_stored("a", "b")
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await store.aclose()


async def test_closing_ends_every_wait_and_every_connection_and_is_idempotent(
    lab: PostgresLab, own_postgres: PostgresServer
) -> None:
    before = len(asyncio.all_tasks())
    store = store_on(lab, lanes=3)
    await begin(store, "a")
    own_postgres.freeze()
    waiting = [asyncio.create_task(store.read(fresh_key(), 0, 1)) for _ in range(8)]
    for _ in range(20):
        await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    with pytest.raises(StoreUnavailable):
        await store.read(fresh_key(), 0, 1)
    assert len(asyncio.all_tasks()) == before
    own_postgres.thaw()


async def test_beats_go_on_while_the_event_loop_is_blocked(lab: PostgresLab) -> None:
    """An agent that blocks the loop for seconds loses no lease."""
    membership, beaten = lab.membership(), threading.Event()

    def beat() -> None:
        membership.beat("inc-1", "a:1", HostState.SERVING, -1)
        beaten.set()

    thread = threading.Thread(target=beat)
    thread.start()
    assert beaten.wait(5)  # Blocks this loop on purpose.
    thread.join()


def test_a_membership_that_was_closed_leaves_no_thread_and_opens_anew(own_postgres: PostgresServer) -> None:
    membership = PostgresLab(own_postgres.url).membership()
    before = threading.active_count()
    for _ in range(2):
        membership.table()
        assert threading.active_count() == before + 1
        membership.close()
        membership.close()
        assert threading.active_count() == before
