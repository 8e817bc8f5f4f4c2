"""A store that is full, frozen, killed or closed: what is known of a call then, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from actors.errors import Outcome, StoreFull, StoreUnavailable
from actors.settings import StoreSettings
from actors.stores.base import Buried, Deleted, Ok, Replayed
from actors.stores.redis import RedisStore
from actors.stores.redis_pipeline import Pipelines
from tests.contract.lab import BERT, TOMBSTONE_S, TTL_S, RedisLab, Talk, begin, fresh_key, turn
from tests.servers import Durability, Server

DURABLE = Durability()

# --- a full store -----------------------------------------------------------------------------------------------


@pytest.fixture
def full(own_lab: RedisLab) -> Callable[[bool], None]:
    """Make the server full, or let it breathe again."""

    def full(yes: bool) -> None:
        own_lab.client.config_set("maxmemory", "1" if yes else "0")

    return full


async def test_a_full_store_refuses_commits_and_claims_and_has_written_nothing(
    own_lab: RedisLab, full: Callable[[bool], None]
) -> None:
    """I10: full means not done."""
    talk = await begin(own_lab.store(), "a")
    full(True)
    with pytest.raises(StoreFull) as refused:
        await talk.commit("b", b'{"n":1}')
    assert refused.value.outcome is Outcome.NOT_DONE
    stranger = fresh_key()
    with pytest.raises(StoreFull):
        await talk.store.claim(stranger, "token", BERT)
    assert own_lab.client.exists(*own_lab.keys.of_session(stranger)) == 0
    full(False)
    assert await talk.stored() == ["a"]
    assert (await talk.claim()).checkpoint.state == b""
    assert await talk.commit("b") == Ok()


async def test_a_full_store_still_answers_the_repeat_of_what_it_has_applied(
    own_lab: RedisLab, full: Callable[[bool], None]
) -> None:
    """I10, I3: a commit whose reply was lost must not turn into "not done"."""
    talk = await begin(own_lab.store(), "a", "b")
    full(True)
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def test_a_full_store_can_still_be_read_left_and_emptied(own_lab: RedisLab, full: Callable[[bool], None]) -> None:
    talk, other = [await begin(own_lab.store(), "a") for _ in range(2)]
    full(True)
    assert await talk.stored() == ["a"]
    assert await talk.check() == Ok()
    assert await talk.release() == Ok()
    assert await other.store.delete(other.key, "k:delete") == Buried(other.host)
    assert await other.store.read(other.key, 0, 1) == Deleted()


async def test_one_commit_that_finds_no_room_does_not_fail_the_replay_beside_it(
    own_lab: RedisLab, full: Callable[[bool], None]
) -> None:
    talks = [await begin(own_lab.store(), "a") for _ in range(2)]
    full(True)
    answers = await asyncio.gather(talks[0].commit("b"), talks[1].commit("a"), return_exceptions=True)
    assert isinstance(answers[0], StoreFull)
    assert answers[1] == Replayed(turn(1, "a"))


# --- a store that doesn't answer --------------------------------------------------------------------------------


async def test_a_frozen_store_is_unknown_after_the_time_out_and_the_repeat_finds_the_turn(
    own_lab: RedisLab, own_server: Server
) -> None:
    """I10, I3: the commit was applied though its reply was lost; its repeat gets the recorded turn."""
    talk = await begin(own_lab.store(), "a")
    own_server.freeze()
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable) as lost:
        await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None)
    assert asyncio.get_running_loop().time() - started < 2 * own_lab.settings.timeout_s + 1
    assert lost.value.outcome is Outcome.UNKNOWN
    own_server.thaw()
    await talk.until_stored("a", "b")
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def test_who_waits_behind_a_frozen_pipeline_is_not_kept_for_ever(own_lab: RedisLab, own_server: Server) -> None:
    """I6: waiting for a place is bounded too."""
    talks = [await begin(own_lab.store(), "a") for _ in range(3)]
    store = RedisStore(
        Pipelines(own_lab.settings.model_copy(update={"pipeline_calls_max": 1}), 1), own_lab.keys, 60, 60
    )
    own_server.freeze()
    started = asyncio.get_running_loop().time()
    commits = (store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) for talk in talks)
    answers = await asyncio.gather(*commits, return_exceptions=True)
    own_server.thaw()
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert asyncio.get_running_loop().time() - started < 2 * own_lab.settings.timeout_s + 1
    await store.aclose()


async def test_the_queue_has_an_end(own_lab: RedisLab, own_server: Server) -> None:
    """I6: beyond it a call fails at once."""
    settings = own_lab.settings.model_copy(update={"waiting_max": 3, "pipeline_calls_max": 1})
    store = RedisStore(Pipelines(settings, 1), own_lab.keys, TTL_S, TOMBSTONE_S)
    own_server.freeze()
    waiting = [asyncio.create_task(store.read(fresh_key(), 0, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="waiting_max"):
        await store.read(fresh_key(), 0, 1)
    own_server.thaw()
    await asyncio.gather(*waiting)
    await store.aclose()


async def test_a_store_that_is_down_is_unavailable_at_once_and_usable_as_soon_as_it_is_back() -> None:
    with Server("valkey", durability=DURABLE) as server:
        settings = StoreSettings.model_validate({"url": server.url, "prefix": "test-down"})
        lab = RedisLab("valkey", server.url)
        lab.settings = settings
        talk = await begin(lab.store(), "a")
        server.kill()
        with pytest.raises(StoreUnavailable):
            await talk.commit("b")
        server.restart()
        assert await talk.commit("b") == Ok()
        assert await talk.stored() == ["a", "b"]
        await lab.aclose()


async def test_a_connection_that_died_while_idle_is_replaced_before_anything_is_sent(own_lab: RedisLab) -> None:
    """Else the first commit after a restart would be unknown for nothing."""
    talk = await begin(own_lab.store(), "a")
    own_lab.client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)  # The loop must have seen the connection end; that moment can't be observed.
    assert await talk.commit("b") == Ok()


async def test_a_server_that_was_killed_has_every_acknowledged_turn(own_server: Server) -> None:
    """I2: with appendfsync always, acknowledged means on disk."""
    with Server(own_server.kind, durability=DURABLE) as server:
        lab = RedisLab(server.kind, server.url)
        talks = [await begin(lab.store()) for _ in range(8)]
        warm = asyncio.Semaphore(0)

        async def talk_on(talk: Talk) -> None:
            for number in range(100_000):
                await talk.say(f"k:{number}")
                if number == 20:
                    warm.release()

        talking = [asyncio.create_task(talk_on(talk)) for talk in talks]
        for _ in talks:
            await warm.acquire()
        server.kill()
        ends = await asyncio.gather(*talking, return_exceptions=True)
        assert all(isinstance(end, StoreUnavailable) for end in ends)
        server.start()
        for talk in talks:
            stored = await talk.stored()
            assert stored[: len(talk.log)] == talk.log
            assert len(stored) <= len(talk.log) + 1
        await lab.aclose()


# --- callers that go, and the end -------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_does_not_stop_what_was_sent(own_lab: RedisLab, own_server: Server) -> None:
    """I10: the commit of a caller that went away is applied, and its neighbours get their answers."""
    store = own_lab.store()
    gone, stays = await begin(store, "a"), await begin(store, "a")
    own_server.freeze()
    leaving = asyncio.create_task(gone.commit("b"))
    staying = asyncio.create_task(stays.commit("b"))
    for _ in range(20):
        await asyncio.sleep(0)
    leaving.cancel()
    own_server.thaw()
    assert await staying == Ok()
    await gone.until_stored("a", "b")
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_closing_ends_every_wait_and_is_idempotent(own_lab: RedisLab, own_server: Server) -> None:
    store = own_lab.store()
    before = len(asyncio.all_tasks())
    await begin(store, "a")
    own_server.freeze()
    waiting = [asyncio.create_task(store.read(fresh_key(), 0, 1)) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    await store.aclose()
    await store.aclose()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    with pytest.raises(StoreUnavailable):
        await store.read(fresh_key(), 0, 1)
    assert len(asyncio.all_tasks()) == before
    own_server.thaw()
