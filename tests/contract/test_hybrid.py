"""A hybrid store's two logs: the order of its writes, a crash between any two of them, and Redis that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import StoreUnavailable
from actors.model import HostRef, SessionKey
from actors.stores import hybrid_calls as calls
from actors.stores.base import Deleted, Fenced, Granted, Held, Missing, Ok, Regressed, Replayed, SessionStore
from actors.stores.hybrid import HybridStore
from actors.stores.postgres_functions import OF_HYBRID
from actors.stores.postgres_lanes import Lanes
from tests.contract.hybrid_lab import Host, HybridLab
from tests.contract.lab import ANNA, BERT, CARL, Talk, begin, fresh_key, turn

TALK = ("a", "b", "c", "d")


async def lab_with(ack: str, server_url: Callable[[str], str]) -> AsyncIterator[HybridLab]:
    lab = HybridLab(ack, server_url("valkey"), server_url("postgres"))
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest_asyncio.fixture(params=["durable", "hot"])
async def lab(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> AsyncIterator[HybridLab]:
    async for lab in lab_with(request.param, server_url):
        yield lab


@pytest_asyncio.fixture
async def hot(server_url: Callable[[str], str]) -> AsyncIterator[HybridLab]:
    async for lab in lab_with("hot", server_url):
        yield lab


async def claims(store: SessionStore, key: SessionKey, host: HostRef) -> Talk:
    """``host`` gets the session, from whoever holds it: that one is dead."""
    talk = Talk(store, key, host)
    held = await store.claim(key, "looks", host)
    if isinstance(held, Held):
        await talk.claim(over=(held.holder.incarnation, held.epoch))
    else:
        await talk.claim()
    return talk


async def hot_talk(lab: HybridLab, host: Host, *more: str) -> Talk:
    """A session with the turn "a" in both stores, and ``more`` in Redis alone: the host can't reach PostgreSQL."""
    talk = await begin(lab.store(host=host), "a")
    host.cut.add("postgres")
    await talk.say(*more)
    assert lab.postgres.sql.fetch("SELECT count(*) FROM test.turns")[0]["count"] == 1
    return talk


def counts(talk: Talk) -> dict[str, Any]:
    assert isinstance(talk.store, HybridStore)
    return talk.store.stats()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


def in_postgres(lab: HybridLab) -> list[str]:
    rows = lab.postgres.sql.fetch("SELECT turn_id FROM test.turns ORDER BY turn_seq")
    return [row["turn_id"].decode() for row in rows]


def in_redis(lab: HybridLab, key: SessionKey) -> int:
    return int(lab.redis.client.llen(lab.redis.keys.of_session(key)[1]))  # type: ignore[arg-type]


# --- the order of writes ----------------------------------------------------------------------------------------------


async def test_a_durable_turn_is_in_postgresql_before_it_is_in_redis(server_url: Callable[[str], str]) -> None:
    async for lab in lab_with("durable", server_url):
        host = Host()
        talk = await begin(lab.store(host=host), "a", "b")
        await talk.release()
        turns = ["postgres.commit", "redis.commit"] * 2
        leaving = ["postgres.release", "redis.archive"]
        assert host.asked == ["postgres.claim", "redis.install", *turns, *leaving]


async def test_the_first_turn_of_a_lease_has_postgresql_note_that_redis_confirms_the_next(
    hot: HybridLab,
) -> None:
    host = Host()
    talk = await begin(hot.store(host=host), "a")
    assert host.asked == ["postgres.claim", "redis.install", "redis.commit", "postgres.commit"]
    del host.asked[:]
    await talk.say("b")
    assert host.asked[0] == "redis.commit"
    await until(lambda: in_postgres(hot) == ["a", "b"])
    assert host.asked == ["redis.commit", "postgres.append"]


async def test_a_session_that_redis_has_is_loaded_from_there(lab: HybridLab) -> None:
    host, talk = Host(), await begin(lab.store(), *TALK)
    await talk.commit("e", b'{"n":1}')
    await talk.release()
    granted = await Talk(lab.store(host=host), talk.key, BERT).claim()
    assert [turn.turn_id for turn in granted.checkpoint.turns] == [*TALK, "e"]
    assert granted.checkpoint.state == b'{"n":1}'
    assert host.asked == ["postgres.claim", "redis.install"]


async def test_a_window_never_hides_what_postgresql_lacks(hot: HybridLab) -> None:
    """The last turn is loaded, and all that Redis alone had is brought to PostgreSQL."""
    talk = await hot_talk(hot, Host(), "b", "c", "d")
    granted = await Talk(hot.store(), talk.key, BERT).claim(over=(ANNA.incarnation, talk.lease.epoch), window=1)
    assert [turn.turn_id for turn in granted.checkpoint.turns] == ["d"]
    assert in_postgres(hot) == [*TALK]


@pytest.mark.parametrize("away", [False, True], ids=["Redis is empty", "Redis is away"])
async def test_a_window_is_read_from_postgresql_where_redis_has_no_copy(lab: HybridLab, away: bool) -> None:
    """A copy is filled with the whole log, whatever its holder needs of it."""
    talk = await begin(lab.store(), *TALK)
    await talk.release()
    lab.redis.client.delete(*lab.redis.keys.of_session(talk.key))
    host = Host()
    host.cut |= {"redis"} if away else set()
    holder = Talk(lab.store(host=host), talk.key, BERT)
    granted = await holder.claim(window=2)
    assert [turn.turn_id for turn in granted.checkpoint.turns] == ["c", "d"]
    assert in_redis(lab, talk.key) == (0 if away else 4)
    await holder.say("e")
    assert await holder.stored() == [*TALK, "e"]


async def test_a_damaged_copy_of_one_session_is_no_reason_to_do_without_redis(lab: HybridLab) -> None:
    """PostgreSQL's log counts for that session; for all others nothing has changed."""
    talk = await begin(lab.store(), *TALK)
    await talk.release()
    await lab.settle()
    _, log, _ = lab.redis.keys.of_session(talk.key)
    another: Any = lab.redis.client.lindex(log, 2)
    lab.redis.client.lset(log, 1, another)
    holder = Talk(lab.store(), talk.key, BERT)
    granted = await holder.claim()
    assert [turn.turn_id for turn in granted.checkpoint.turns] == [*TALK]
    assert not counts(holder)["degraded"]


# --- a crash between any two writes -----------------------------------------------------------------------------------


async def lives(store: SessionStore, key: SessionKey, said: list[str]) -> None:
    """A session's life; what was confirmed of it stands in ``said``."""
    talk = Talk(store, key)
    await talk.claim()
    for turn_id in TALK:
        assert await talk.commit(turn_id) == Ok()
        said.append(turn_id)
    assert await talk.release() == Ok()
    assert isinstance(await talk.claim(), Granted)
    assert await talk.commit("e") == Ok()
    said.append("e")


async def test_whatever_a_host_has_confirmed_is_there_when_it_dies_between_any_two_writes(lab: HybridLab) -> None:
    """I2, I9: and no turn is there that it didn't say, or twice (I3)."""
    for writes in range(30):
        host, key, said = Host(writes_left=writes), fresh_key(), list[str]()
        try:
            await lives(lab.store(host=host), key, said)
        except StoreUnavailable:
            assert host.dead
        finished = not host.dead
        host.die()
        successor = await claims(lab.store(), key, BERT)
        assert successor.log[: len(said)] == said
        assert successor.log in (said, [*said, *[*TALK, "e"][len(said) :][:1]])
        await successor.say("z")
        assert await successor.stored() == successor.log
        if finished:
            return
    pytest.fail("It never came to its end.")


async def test_a_takeover_that_dies_between_any_two_writes_loses_nothing_and_the_next_one_ends_it(
    hot: HybridLab,
) -> None:
    """I2: turns that Redis alone has, because their host died before PostgreSQL had them."""
    for writes in range(10):
        dead, dying = Host(), Host(writes_left=writes)
        talk = await begin(hot.store(host=dead), "a")
        dead.cut.add("postgres")
        await talk.say("b", "c")
        dead.die()
        try:
            await claims(hot.store(host=dying), talk.key, BERT)
        except StoreUnavailable:
            assert dying.dead
        finished = not dying.dead
        dying.die()
        third = await claims(hot.store(), talk.key, CARL)
        assert third.log == ["a", "b", "c"]
        await third.say("d")
        assert await third.stored() == ["a", "b", "c", "d"]
        if finished:
            return
    pytest.fail("It never came to its end.")


async def test_a_delete_that_dies_between_its_writes_has_deleted(lab: HybridLab) -> None:
    for writes in (1, 2):
        talk, host = await begin(lab.store(), "a", "b"), Host(writes_left=writes)
        try:
            await lab.store(host=host).delete(talk.key, "k:delete")
        except StoreUnavailable:
            assert lab.ack == "hot" and writes == 1, "its holder may still speak"
        assert await lab.store().read(talk.key, 0, 10) == Deleted()
        assert await talk.commit("c") == (Ok() if lab.ack == "hot" and writes == 1 else Deleted())
        assert await talk.check() == Deleted()


# --- who holds what ---------------------------------------------------------------------------------------------------


async def test_the_next_holder_brings_to_postgresql_what_redis_alone_had(hot: HybridLab) -> None:
    dead = Host()
    talk = await hot_talk(hot, dead, "b", "c")
    dead.die()
    successor = await claims(hot.store(), talk.key, BERT)
    assert successor.log == in_postgres(hot) == ["a", "b", "c"]
    assert await successor.store.commit(talk.key, successor.lease, "c", turn(4, "b"), None) == Replayed(turn(2, "b"))


async def test_a_session_is_not_taken_over_without_redis_while_turns_may_be_there_alone(hot: HybridLab) -> None:
    """I1: its holder can't be told from a dead one, reaches Redis, and goes on to confirm turns there."""
    there, cut_off = Host(), Host(cut={"redis"})
    talk = await hot_talk(hot, there, "b")
    with pytest.raises(StoreUnavailable, match="in Redis alone"):
        await claims(hot.store(host=cut_off), talk.key, BERT)
    with pytest.raises(StoreUnavailable, match="in Redis alone"):
        await hot.store(host=cut_off).read(talk.key, 0, 10)
    await talk.say("c")
    successor = await claims(hot.store(), talk.key, CARL)
    assert successor.log == ["a", "b", "c"]


async def test_turns_that_redis_alone_has_are_read_by_any_host(hot: HybridLab) -> None:
    """I2: acknowledged means in every later read."""
    talk = await hot_talk(hot, Host(), "b", "c")
    reader = Talk(hot.store(), talk.key)
    assert await reader.stored() == ["a", "b", "c"]


async def test_who_was_taken_over_from_is_fenced_and_has_not_regressed(hot: HybridLab) -> None:
    """Its last turns are in PostgreSQL, brought there by another host."""
    old = Host()
    talk = await hot_talk(hot, old, "b")
    successor = await claims(hot.store(), talk.key, BERT)
    old.cut.clear()
    answer = await talk.commit("c")
    assert isinstance(answer, Fenced)
    assert (answer.holder, answer.epoch) == (BERT, successor.lease.epoch)
    assert counts(talk)["lost_turns"] == 0


async def test_before_the_next_lease_is_in_redis_the_old_one_goes_on_and_what_it_confirms_is_taken_along(
    hot: HybridLab,
) -> None:
    old, go_on = Host(), asyncio.Event()
    talk = await hot_talk(hot, old, "b")
    new = Host(pauses={"redis.install": go_on})
    taking_over = asyncio.create_task(claims(hot.store(host=new), talk.key, BERT))
    await until(lambda: "redis.install" in new.asked)
    old.cut.clear()
    assert await talk.commit("c") == Ok()
    with pytest.raises(StoreUnavailable, match="taking this session over"):
        await talk.check()
    go_on.set()
    assert (await taking_over).log == ["a", "b", "c"]
    assert isinstance(await talk.check(), Fenced)
    assert counts(talk)["lost_turns"] == 0


@pytest.mark.parametrize(
    "ask", [lambda talk: talk.commit("c"), Talk.check, Talk.release], ids=["commit", "check", "release"]
)
async def test_whose_turns_are_being_brought_to_postgresql_is_fenced_and_has_not_regressed(
    hot: HybridLab, ask: Callable[[Talk], Any]
) -> None:
    """The next holder has them from Redis, and PostgreSQL doesn't have them yet."""
    old, go_on = Host(), asyncio.Event()
    talk = await hot_talk(hot, old, "b")
    new = Host(pauses={"postgres.append": go_on})
    taking_over = asyncio.create_task(claims(hot.store(host=new), talk.key, BERT))
    await until(lambda: "postgres.append" in new.asked)
    old.cut.clear()
    answer = await ask(talk)
    assert isinstance(answer, Fenced) and answer.holder == BERT
    go_on.set()
    assert (await taking_over).log == ["a", "b"]
    assert counts(talk)["lost_turns"] == 0


async def test_a_host_that_may_still_have_a_commit_on_its_way_to_redis_asks_redis_before_it_goes_on(
    hot: HybridLab,
) -> None:
    host = Host()
    talk = await begin(hot.store(host=host), "a")
    host.cut = {"redis", "postgres"}
    with pytest.raises(StoreUnavailable):
        await talk.commit("b")
    host.cut = {"redis"}
    with pytest.raises(StoreUnavailable, match="in Redis alone"):
        await Talk(talk.store, talk.key).claim()
    host.cut = set()
    await until(lambda: not counts(talk)["degraded"])
    again = Talk(talk.store, talk.key)
    await again.claim()
    assert again.log == ["a"]


async def test_that_nothing_is_hot_any_more_is_not_heard_when_it_comes_after_a_later_turn(hot: HybridLab) -> None:
    talk = await begin(hot.store(), "a", "b")
    await hot.settle()
    lanes = Lanes(hot.postgres.settings, OF_HYBRID)
    of_old = calls.append(talk.key, talk.lease, "a", [], 1, None, 1_000_000, hot=False)
    assert await lanes.call(of_old) == calls.Appended(hot=True)
    of_now = calls.append(talk.key, talk.lease, "b", [], 2, None, 1_000_000, hot=False)
    assert await lanes.call(of_now) == calls.Appended(hot=False)
    await lanes.aclose()


async def test_a_plain_postgresql_host_leaves_a_hot_session_alone(hot: HybridLab) -> None:
    talk = await hot_talk(hot, Host(), "b")
    with pytest.raises(StoreUnavailable, match="ack=hot"):
        await hot.postgres.store().claim(talk.key, "token", BERT, (ANNA.incarnation, talk.lease.epoch))


async def test_a_released_session_can_be_had_by_a_plain_postgresql_host(lab: HybridLab) -> None:
    talk = await begin(lab.store(), *TALK)
    await talk.release()
    plain = await begin(lab.postgres.store(), key=talk.key, host=BERT)
    assert plain.log == list(TALK)
    await plain.say("e")
    await plain.release()
    assert (await claims(lab.store(), talk.key, CARL)).log == [*TALK, "e"]


# --- Redis forgets ----------------------------------------------------------------------------------------------------


async def test_an_expiry_in_redis_archives_and_never_destroys(lab: HybridLab) -> None:
    talk = await begin(lab.store(hot_ttl_s=0.05), *TALK)
    await talk.commit("e", b'{"n":1}')
    await talk.release()
    await until(lambda: not lab.redis.client.exists(*lab.redis.keys.of_session(talk.key)))
    successor = await claims(lab.store(), talk.key, BERT)
    assert successor.log == [*TALK, "e"]
    assert successor.granted is not None
    assert successor.granted.checkpoint.state == b'{"n":1}'
    assert in_redis(lab, talk.key) == 5


async def test_a_flushed_redis_costs_a_live_host_nothing(lab: HybridLab) -> None:
    talk = await begin(lab.store(), *TALK)
    await lab.redis.expire(talk.key)
    await talk.say("e")
    assert await talk.check() == Ok()
    assert await Talk(lab.store(), talk.key).stored() == [*TALK, "e"]
    await until(lambda: in_redis(lab, talk.key) == 5)
    await talk.say("f", "g")
    assert in_redis(lab, talk.key) == 7


async def test_turns_that_postgresql_lacked_are_brought_there_by_their_host_when_redis_is_flushed(
    hot: HybridLab,
) -> None:
    host = Host()
    talk = await hot_talk(hot, host, "b", "c")
    await hot.redis.expire(talk.key)
    host.cut.clear()
    await talk.say("d")
    assert in_postgres(hot) == ["a", "b", "c", "d"]


async def test_what_died_with_redis_and_its_host_is_reported_once_and_the_session_goes_on(hot: HybridLab) -> None:
    dead = Host()
    talk = await hot_talk(hot, dead, "b")
    dead.die()
    await hot.redis.expire(talk.key)
    dying = await claims(hot.store(), talk.key, BERT)
    assert dying.log == ["a"]
    successor = await claims(hot.store(), talk.key, CARL)
    assert await successor.commit("c") == Regressed(1)
    again = Talk(successor.store, talk.key, CARL)
    await again.claim()
    await again.say("c", "d")
    assert await again.stored() == ["a", "c", "d"]


async def test_a_redis_with_older_data_never_wins(lab: HybridLab) -> None:
    talk = await begin(lab.store(), "a")
    old = await lab.redis.snapshot(talk.key)
    await talk.say("b", "c")
    await lab.settle()
    await lab.redis.restore(talk.key, old)
    if lab.ack == "hot":
        # Another host can't know whether Redis has lost more than PostgreSQL ever had.
        with pytest.raises(StoreUnavailable, match="in Redis alone"):
            await lab.store().read(talk.key, 0, 10)
    else:
        assert await Talk(lab.store(), talk.key).stored() == ["a", "b", "c"]
    assert await talk.stored() == ["a", "b", "c"]
    await talk.say("d")
    await talk.release()
    await lab.redis.restore(talk.key, old)
    successor = await claims(lab.store(), talk.key, BERT)
    assert successor.log == ["a", "b", "c", "d"]
    await successor.say("e")
    assert await successor.stored() == ["a", "b", "c", "d", "e"]


async def test_a_redis_that_went_back_to_an_older_lease_confirms_nothing_that_stays_unreported(hot: HybridLab) -> None:
    """The old holder lives, and finds its lease in Redis again."""
    talk = await begin(hot.store(), "a")
    old = await hot.redis.snapshot(talk.key)
    successor = await claims(hot.store(), talk.key, BERT)
    await successor.say("b")
    await hot.redis.restore(talk.key, old)
    assert await talk.commit("x") == Ok(), "as if Redis were alone"
    await until(lambda: counts(talk)["lost_turns"] == 1)
    assert await talk.commit("y") == Regressed(2)
    await successor.say("c")
    assert await successor.stored() == ["a", "b", "c"]


async def test_a_redis_with_a_later_lease_than_postgresql_is_surpassed(hot: HybridLab) -> None:
    """PostgreSQL has lost what it had confirmed: epochs only grow all the same, and nobody is left with a lease."""
    talk = await begin(hot.store(), "a")
    old = await hot.postgres.snapshot(talk.key)
    third = await claims(hot.store(), talk.key, CARL)
    await third.say("b")
    await hot.settle()
    await hot.postgres.restore(talk.key, old)
    successor = await claims(hot.store(), talk.key, BERT)
    assert successor.lease.epoch > third.lease.epoch
    assert not isinstance(await third.commit("c"), Ok)
    await successor.say("d")
    assert await successor.stored() == successor.log


async def test_a_delayed_claim_does_not_undo_a_later_one(lab: HybridLab) -> None:
    """It was granted by PostgreSQL, and comes to Redis after the next lease has."""
    key, go_on = fresh_key(), asyncio.Event()
    slow = Host(pauses={"redis.install": go_on})
    delayed = asyncio.create_task(lab.store(host=slow).claim(key, "slow", ANNA))
    await until(lambda: "redis.install" in slow.asked)
    later = await claims(lab.store(), key, BERT)
    await later.say("a", "b")
    go_on.set()
    assert await delayed == Held(BERT, later.lease.epoch)
    assert slow.asked == ["postgres.claim", "redis.install", "postgres.surpass"]
    await later.say("c")
    assert await later.stored() == ["a", "b", "c"]


async def test_a_session_that_never_was_is_missing_in_both(lab: HybridLab) -> None:
    assert await lab.store().read(fresh_key(), 0, 10) == Missing()
