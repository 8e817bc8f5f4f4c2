"""DELETE: the session goes at once, and nothing that was under way brings it back."""

from __future__ import annotations

import asyncio

from actors.model import Checkpoint
from actors.stores.base import Buried, Deleted, Granted, Missing, Ok, SessionStore
from loadtest.redis_leases import holders
from tests.contract.lab import BERT, Lab, RedisLab, Talk, begin, fresh_key

DELETE = "k:delete"


async def test_a_deleted_session_answers_deleted_to_everybody(store: SessionStore) -> None:
    talk = await begin(store, "a")
    assert await store.delete(talk.key, DELETE) == Buried(talk.host)
    assert await store.read(talk.key, 0, 10) == Deleted()
    assert await store.claim(talk.key, "other", BERT) == Deleted()
    assert await store.claim(talk.key, "other", BERT, (talk.host.incarnation, talk.lease.epoch)) == Deleted()
    assert await store.claim(talk.key, talk.token, talk.host) == Deleted()
    assert await talk.commit("b") == Deleted()


async def test_a_repeated_delete_gets_the_same_answer(store: SessionStore) -> None:
    """It names the holder again: whoever deleted first may have died before it told that one."""
    talk = await begin(store, "a")
    assert [await store.delete(talk.key, DELETE) for _ in range(3)] == [Buried(talk.host)] * 3
    assert await store.delete(talk.key, "k:another") == Buried(talk.host)


async def test_deleting_what_never_was_answers_missing(store: SessionStore) -> None:
    assert await store.delete(fresh_key(), DELETE) == Missing()


async def test_a_session_that_nobody_holds_can_be_deleted(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    assert [await store.delete(talk.key, DELETE) for _ in range(2)] == [Buried(None)] * 2
    assert await store.claim(talk.key, "other", BERT) == Deleted()


async def test_a_delete_beats_the_commit_of_the_running_turn(store: SessionStore) -> None:
    """I1: in whichever order they arrive, nothing is left of the session."""
    talks = [await begin(store, "a") for _ in range(8)]
    for talk in talks:
        deleted, committed = await asyncio.gather(store.delete(talk.key, DELETE), talk.commit("b"))
        assert deleted == Buried(talk.host)
        assert committed in (Ok(), Deleted())
        assert await store.read(talk.key, 0, 10) == Deleted()


async def test_the_tombstone_stands_as_long_as_a_repeat_may_come_and_no_longer(lab: Lab) -> None:
    store = lab.store(tombstone_s=0.2)
    talk = await begin(store, "a")
    await store.delete(talk.key, DELETE)
    remaining_ms = await lab.ttl_ms(talk.key)
    assert remaining_ms is not None
    assert 0 < remaining_ms <= 200
    await lab.pass_ms(200)
    assert await store.read(talk.key, 0, 10) == Missing()
    assert await store.delete(talk.key, DELETE) == Missing()


async def test_a_repeated_delete_does_not_prolong_the_tombstone(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store, "a")
    await store.delete(talk.key, DELETE)
    first_ms = await lab.ttl_ms(talk.key)
    await lab.pass_ms(20)
    await store.delete(talk.key, DELETE)
    second_ms = await lab.ttl_ms(talk.key)
    assert first_ms is not None
    assert second_ms is not None
    assert second_ms < first_ms


async def test_a_session_begins_empty_once_its_tombstone_has_gone(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await store.delete(talk.key, DELETE)
    await lab.expire(talk.key)
    await lab.pass_ms(2)
    anew = Talk(store, talk.key, BERT)
    granted = await anew.claim()
    assert granted.checkpoint == Checkpoint()
    assert granted.lease.epoch > talk.lease.epoch
    assert await anew.commit("a") == Ok()


async def test_a_deleted_session_keeps_neither_log_nor_ids_nor_state(redis_lab: RedisLab) -> None:
    store = redis_lab.store()
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await store.delete(talk.key, DELETE)
    lease, log, ids = redis_lab.keys.of_session(talk.key)
    assert redis_lab.client.exists(log, ids) == 0
    fields = redis_lab.client.hgetall(lease)
    assert isinstance(fields, dict)
    holder = {b"incarnation", b"slot", b"address"}
    assert set(fields) == {b"schema_version", b"born", b"epoch", b"deleted"} | holder
    assert int(fields[b"epoch"]) == talk.lease.epoch + 1


async def test_a_deleted_session_counts_as_held_by_nobody(own_lab: RedisLab) -> None:
    """A tombstone keeps its last holder's name: a scale-down whose victim it was would be accused of keeping it."""
    talking, deleted = await begin(own_lab.store()), await begin(own_lab.store())
    await own_lab.store().delete(deleted.key, DELETE)
    assert await holders(own_lab.settings.url) == {talking.key.session_id: talking.host.incarnation}


async def test_a_claim_after_the_delete_of_another_session_is_not_touched(store: SessionStore) -> None:
    one, other = await begin(store, "a"), await begin(store, "a")
    await store.delete(one.key, DELETE)
    assert isinstance(await store.claim(other.key, other.token, other.host), Granted)
