"""Group commit on a real server: what shares a pipeline, what is told apart, and what happens when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import Outcome, StoreUnavailable
from actors.stores.base import Deleted, Fenced, Ok, Replayed, Turns
from actors.stores.redis import RedisStore
from actors.stores.redis_pipeline import LOADS_MAX, Pipelines
from actors.stores.scripts import SCRIPTS
from tests.contract.lab import BERT, TOMBSTONE_S, TTL_S, RedisLab, Talk, begin, fresh_key, take_over, turn
from tests.servers import Durability

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


async def test_a_pipeline_loads_few_sessions_at_a_time(redis_lab: RedisLab, open_store: Open) -> None:
    """I6: their logs may be long, and what is in one pipeline has one time-out."""
    store = open_store()
    talks = [await begin(store, "a") for _ in range(6)]
    for talk in talks[:3]:
        await talk.release()
    claims = [store.claim(talk.key, "next", BERT) for talk in talks[:3]]
    reads = [store.read(talk.key, 0, 10) for talk in talks[:3]]
    commits = [talk.commit("b") for talk in talks[3:]]
    assert await reads_during(redis_lab, *claims, *reads, *commits) == 6 // LOADS_MAX


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


async def test_a_call_that_was_cancelled_before_it_was_sent_is_not_sent(redis_lab: RedisLab, open_store: Open) -> None:
    store = open_store()
    talk = await begin(store, "a")
    leaving = asyncio.create_task(talk.commit("b"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await talk.stored() == ["a"]
