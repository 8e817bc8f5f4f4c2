"""Group commit on a real server: what shares a pipeline, what is told apart, and what happens when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import Outcome, StoreFull, StoreUnavailable
from actors.settings import StoreSettings
from actors.stores.base import Deleted, Fenced, Ok, Replayed, Turns
from actors.stores.redis import RedisStore
from actors.stores.redis_pipeline import Pipelines
from actors.stores.scripts import SCRIPTS
from tests.contract.lab import BERT, TOMBSTONE_S, TTL_S, RedisLab, Talk, begin, fresh_key, take_over, turn
from tests.servers import Durability, Server

Open = Callable[..., RedisStore]
DURABLE = Durability()


@pytest_asyncio.fixture
async def open_store(redis_lab: RedisLab) -> AsyncIterator[Open]:
    """A store with these pipeline settings, on the shared server."""
    stores: list[RedisStore] = []

    def open_store(lanes: int = 1, **settings: Any) -> RedisStore:
        values = redis_lab.settings.model_copy(update=settings)
        stores.append(RedisStore(Pipelines(values, lanes), redis_lab.keys, TTL_S, TOMBSTONE_S))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.aclose()


@pytest_asyncio.fixture
async def own_lab(own_server: Server) -> AsyncIterator[RedisLab]:
    """A lab on a server that this test may break. Calls time out after 0.5 s."""
    lab = RedisLab(own_server.kind, own_server.url)
    lab.settings = lab.settings.model_copy(update={"timeout_s": 0.5})
    try:
        yield lab
    finally:
        await lab.aclose()


def reads(lab: RedisLab) -> int:
    """How often the server has read from a socket: once per pipeline that fits its buffer."""
    return int(lab.client.info("stats")["total_reads_processed"])


async def reads_during(lab: RedisLab, *calls: Awaitable[Any]) -> int:
    before = reads(lab)
    await asyncio.gather(*calls)
    return reads(lab) - before - 1


# --- what shares a pipeline -------------------------------------------------------------------------------------


async def test_each_call_is_exactly_one_command(redis_lab: RedisLab) -> None:
    store = redis_lab.store()
    talk = await begin(store, "a")
    for call in (
        talk.claim,
        lambda: talk.commit("b", b"{}"),
        talk.check,
        lambda: store.read(talk.key, 0, 10),
        talk.release,
        lambda: take_over_free(talk),
        lambda: store.delete(talk.key, "k:delete"),
    ):
        await call()  # The first time a server may have to be given the script.
        before = redis_lab.evalsha_calls()
        await call()
        assert redis_lab.evalsha_calls() - before == 1


async def take_over_free(talk: Talk) -> object:
    return await talk.store.claim(talk.key, "other", BERT)


async def test_a_turn_on_a_resident_session_costs_one_command_however_long_the_log(redis_lab: RedisLab) -> None:
    talk = await begin(redis_lab.store(), "a")
    before = redis_lab.evalsha_calls()
    await talk.say(*(f"k:{number}" for number in range(40)))
    assert redis_lab.evalsha_calls() - before == 40


async def test_commits_of_different_sessions_that_wait_at_one_moment_share_a_pipeline(
    redis_lab: RedisLab, open_store: Open
) -> None:
    store = open_store()
    talks = [await begin(store, "a") for _ in range(10)]
    assert await reads_during(redis_lab, *(talk.commit("b") for talk in talks)) == 1


async def test_a_pipeline_carries_at_most_one_commit_of_a_session(redis_lab: RedisLab, open_store: Open) -> None:
    store = open_store()
    talk, other = await begin(store, "a"), await begin(store, "a")
    commits = [store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) for _ in range(3)]
    assert await reads_during(redis_lab, *commits, other.commit("b")) == 3
    assert await talk.stored() == ["a", "b"]


async def test_a_pipeline_carries_no_more_calls_than_allowed(redis_lab: RedisLab, open_store: Open) -> None:
    """I6: bounded."""
    store = open_store(pipeline_calls_max=4)
    talks = [await begin(store, "a") for _ in range(12)]
    assert await reads_during(redis_lab, *(talk.commit("b") for talk in talks)) == 3


async def test_a_pipeline_carries_no_more_bytes_than_allowed(redis_lab: RedisLab, open_store: Open) -> None:
    """I6: bounded."""
    store = open_store(pipeline_bytes_max=5000)
    talks = [await begin(store, "a") for _ in range(8)]
    assert await reads_during(redis_lab, *(talk.commit("b", message="x" * 1800) for talk in talks)) == 4


async def test_a_single_call_larger_than_a_pipeline_goes_alone(open_store: Open) -> None:
    store = open_store(pipeline_bytes_max=1000)
    talks = [await begin(store, "a") for _ in range(3)]
    answers = await asyncio.gather(*(talk.commit("b", message="x" * 50_000) for talk in talks))
    assert answers == [Ok()] * 3


async def test_calls_of_every_kind_may_share_a_pipeline(redis_lab: RedisLab, open_store: Open) -> None:
    store = open_store()
    talks = [await begin(store, "a") for _ in range(5)]
    await talks[4].release()
    calls = (
        talks[0].commit("b"),
        talks[1].check(),
        talks[2].release(),
        store.read(talks[3].key, 0, 10),
        store.claim(talks[4].key, "next", BERT),
        store.delete(fresh_key(), "k:delete"),
    )
    await asyncio.gather(talks[1].check(), talks[2].check(), store.delete(fresh_key(), "x"))  # loads what is new
    assert await reads_during(redis_lab, *calls) == 1


@pytest.mark.parametrize("lanes", [1, 2, 4])
async def test_many_commits_over_few_connections_all_arrive(open_store: Open, lanes: int) -> None:
    """I4: each session's turns in its own order, however they were grouped."""
    store = open_store(lanes)
    talks = [await begin(store) for _ in range(30)]
    names = [f"k:{number}" for number in range(15)]
    await asyncio.gather(*(talk.say(*names) for talk in talks))
    assert all([await talk.stored() == names for talk in talks])


# --- errors are told apart --------------------------------------------------------------------------------------


async def test_one_broken_session_does_not_disturb_the_others_in_its_pipeline(
    redis_lab: RedisLab, open_store: Open
) -> None:
    store = open_store()
    talks = [await begin(store, "a") for _ in range(5)]
    redis_lab.client.set(redis_lab.keys.of_session(talks[2].key)[1], "not a list", ex=60)
    answers = await asyncio.gather(*(talk.commit("b") for talk in talks), return_exceptions=True)
    assert isinstance(answers[2], StoreUnavailable)
    assert answers[2].outcome is Outcome.UNKNOWN
    assert [answer for at, answer in enumerate(answers) if at != 2] == [Ok()] * 4


async def test_different_answers_in_one_pipeline_reach_their_own_callers(open_store: Open) -> None:
    store = open_store()
    fine, known, fenced, deleted = [await begin(store, "a") for _ in range(4)]
    new = await take_over(fenced)
    await store.delete(deleted.key, "k:delete")
    answers = await asyncio.gather(
        fine.commit("b"), known.commit("a"), fenced.commit("b"), deleted.commit("b"), store.read(fine.key, 9, 1)
    )
    assert list(answers[:4]) == [Ok(), Replayed(turn(1, "a")), Fenced(BERT, new.lease.epoch, 1), Deleted()]
    assert isinstance(answers[4], Turns)


async def test_a_damaged_log_is_an_error_and_not_a_shorter_talk(redis_lab: RedisLab) -> None:
    store = redis_lab.store()
    talk = await begin(store, "a", "b")
    redis_lab.client.rpop(redis_lab.keys.of_session(talk.key)[1])
    with pytest.raises(StoreUnavailable, match="damaged"):
        await talk.claim()


async def test_scripts_that_the_server_has_forgotten_are_given_to_it_again(own_lab: RedisLab) -> None:
    store = own_lab.store()
    talks = [await begin(store, "a") for _ in range(6)]
    own_lab.client.script_flush()
    answers = await asyncio.gather(*(talk.commit("b") for talk in talks))
    assert answers == [Ok()] * 6
    assert [await talk.stored() for talk in talks] == [["a", "b"]] * 6


async def test_only_the_calls_with_a_forgotten_script_are_sent_again(own_lab: RedisLab) -> None:
    store = RedisStore(Pipelines(own_lab.settings, 1), own_lab.keys, TTL_S, TOMBSTONE_S)
    talks = [await begin(store, "a") for _ in range(4)]
    own_lab.client.script_flush()
    own_lab.client.script_load(SCRIPTS["commit"].source)
    before = own_lab.evalsha_calls()
    answers = await asyncio.gather(*(talk.commit("b") for talk in talks), talks[0].check())
    assert answers == [Ok()] * 5
    assert own_lab.evalsha_calls() - before == 4 + 2
    await store.aclose()


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
    assert await other.store.delete(other.key, "k:delete") == Ok()
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
    await until_stored(talk, "a", "b")
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def until_stored(talk: Talk, *turn_ids: str) -> None:
    async with asyncio.timeout(5):
        while await talk.stored() != list(turn_ids):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


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
    await until_stored(gone, "a", "b")
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_call_that_was_cancelled_before_it_was_sent_is_not_sent(redis_lab: RedisLab, open_store: Open) -> None:
    store = open_store()
    talk = await begin(store, "a")
    leaving = asyncio.create_task(talk.commit("b"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await talk.stored() == ["a"]


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
