"""One expiry on all that belongs to a session, renewed by claim and commit, by the store's clock alone."""

from __future__ import annotations

from actors.model import Checkpoint
from actors.stores.base import Fenced, Missing, Ok, SessionStore
from tests.contract.lab import BERT, TTL_S, Lab, RedisLab, Talk, begin, turn


async def test_a_session_expires_as_a_whole(lab: Lab) -> None:
    store = lab.store(ttl_s=0.2)
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await lab.pass_ms(200)
    assert await store.read(talk.key, 0, 10) == Missing()
    assert await talk.commit("b") == Fenced(None, 0, 0)
    granted = await Talk(store, talk.key, BERT).claim()
    assert granted.checkpoint == Checkpoint()
    assert granted.lease.born > talk.lease.born


async def test_a_commit_renews_the_expiry(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.pass_ms(50)
    before_ms = await lab.ttl_ms(talk.key)
    await talk.say("b")
    after_ms = await lab.ttl_ms(talk.key)
    assert before_ms is not None
    assert after_ms is not None
    assert before_ms <= TTL_S * 1000 - 50
    assert after_ms > before_ms


async def test_a_claim_renews_the_expiry(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.pass_ms(50)
    before_ms = await lab.ttl_ms(talk.key)
    await talk.claim()
    after_ms = await lab.ttl_ms(talk.key)
    assert before_ms is not None
    assert after_ms is not None
    assert after_ms > before_ms


async def test_a_refused_commit_does_not_renew_the_expiry(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.pass_ms(20)
    before_ms = await lab.ttl_ms(talk.key)
    await talk.store.commit(talk.key, talk.lease, "x", turn(2, "b"), None)
    after_ms = await lab.ttl_ms(talk.key)
    assert before_ms is not None
    assert after_ms is not None
    assert after_ms <= before_ms


async def test_with_ttl_0_a_session_never_expires(lab: Lab) -> None:
    talk = await begin(lab.store(ttl_s=0), "a")
    lab.keep_for_ever(talk.key)
    assert await lab.ttl_ms(talk.key) is None
    assert await talk.stored() == ["a"]


async def test_with_ttl_0_a_tombstone_expires_all_the_same(lab: Lab) -> None:
    store = lab.store(ttl_s=0)
    talk = await begin(store, "a")
    await store.delete(talk.key, "k:delete")
    assert await lab.ttl_ms(talk.key) is not None


async def test_a_session_that_had_an_expiry_loses_it_when_ttl_becomes_0(redis_lab: RedisLab) -> None:
    talk = await begin(redis_lab.store(), "a")
    talk.store = redis_lab.store(ttl_s=0)
    await talk.say("b")
    names = redis_lab.keys.of_session(talk.key)
    redis_lab.keep_for_ever(talk.key)
    assert [redis_lab.client.ttl(name) for name in names] == [-1, -1, -1]


async def test_all_keys_of_a_session_expire_at_the_same_millisecond(redis_lab: RedisLab) -> None:
    """Else a lease could outlive its log, and a session seem to have lost its turns."""
    talk = await begin(redis_lab.store(), "a")
    names = redis_lab.keys.of_session(talk.key)
    for _ in range(5):
        await talk.say(f"k:{len(talk.log)}")
        assert len(redis_lab.expires_ms(*names)) == 1
    await talk.claim()
    assert len(redis_lab.expires_ms(*names)) == 1


async def test_what_is_left_of_an_expired_life_does_not_get_into_the_next(redis_lab: RedisLab) -> None:
    """A server may drop the lease a moment before the log: a claim in between must not find the old turns."""
    talk = await begin(redis_lab.store(), "a")
    redis_lab.client.delete(redis_lab.keys.of_session(talk.key)[0])
    granted = await Talk(talk.store, talk.key, BERT).claim()
    assert granted.checkpoint == Checkpoint()
    again = Talk(talk.store, talk.key, BERT)
    await again.claim()
    assert await again.commit("a") == Ok()


async def test_sessions_expire_each_for_itself(lab: Lab, store: SessionStore) -> None:
    one, other = await begin(store, "a"), await begin(store, "a")
    await lab.expire(one.key)
    assert await one.stored() == []
    assert await other.stored() == ["a"]
