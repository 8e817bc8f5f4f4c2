"""Giving a lease back, and asking whether it still stands."""

from __future__ import annotations

from dataclasses import replace

from actors.stores.base import Deleted, Fenced, Granted, Ok, Regressed, SessionStore
from tests.contract.lab import ANNA, BERT, Lab, Talk, begin, fresh_key, take_over


async def test_a_released_lease_can_be_claimed_by_anybody(store: SessionStore) -> None:
    talk = await begin(store, "a")
    assert await talk.release() == Ok()
    assert isinstance(await store.claim(talk.key, "next", BERT), Granted)


async def test_a_repeated_release_answers_ok(store: SessionStore) -> None:
    talk = await begin(store, "a")
    assert [await talk.release() for _ in range(3)] == [Ok(), Ok(), Ok()]


async def test_releasing_a_session_that_has_expired_answers_ok_and_makes_none(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store, "a")
    await lab.expire(talk.key)
    assert await talk.release() == Ok()
    assert await talk.stored() == []


async def test_releasing_a_session_that_never_was_answers_ok(store: SessionStore) -> None:
    talk = await begin(store)
    assert await replace(talk, key=fresh_key()).release() == Ok()


async def test_a_stale_release_does_not_free_the_lease_of_the_next_holder(store: SessionStore) -> None:
    """I1: a delayed release must not open the door to a third host."""
    old = await begin(store, "a")
    new = await take_over(old)
    assert await old.release() == Fenced(BERT, new.lease.epoch, 1)
    assert await new.commit("b") == Ok()


async def test_a_repeated_release_does_not_free_the_lease_that_was_claimed_in_between(store: SessionStore) -> None:
    old = await begin(store, "a")
    await old.release()
    new = await begin(store, key=old.key, host=BERT)
    assert await old.release() == Fenced(BERT, new.lease.epoch, 1)
    assert await new.check() == Ok()


async def test_a_release_with_another_token_is_fenced(store: SessionStore) -> None:
    talk = await begin(store, "a")
    forged = replace(talk.lease, token="another")
    assert await store.release(talk.key, forged, 1, "a") == Fenced(ANNA, talk.lease.epoch, 1)
    assert await talk.check() == Ok()


async def test_a_release_into_a_later_life_of_the_session_is_fenced(lab: Lab) -> None:
    store = lab.store()
    old = await begin(store, "a")
    await lab.expire(old.key)
    await lab.pass_ms(2)
    anew = await begin(store, key=old.key, host=BERT)
    assert await old.release() == Fenced(BERT, anew.lease.epoch, 0)
    assert await anew.check() == Ok()


async def test_a_release_keeps_log_state_and_epoch(store: SessionStore) -> None:
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await talk.release()
    granted = await Talk(store, talk.key, BERT).claim()
    assert granted.lease.epoch == talk.lease.epoch + 1
    assert granted.checkpoint.state == b'{"n":1}'
    assert len(granted.checkpoint.turns) == 1


async def test_a_release_by_a_holder_that_knows_fewer_turns_is_ok(store: SessionStore) -> None:
    """Its last commit was applied though it never learned so: nothing was lost."""
    talk = await begin(store, "a", "b")
    assert await store.release(talk.key, talk.lease, 1, "a") == Ok()


async def test_a_release_that_finds_turns_missing_says_so_and_frees_the_lease_all_the_same(store: SessionStore) -> None:
    talk = await begin(store, "a")
    assert await store.release(talk.key, talk.lease, 2, "b") == Regressed(1)
    assert await store.release(talk.key, talk.lease, 2, "b") == Regressed(1)
    assert isinstance(await store.claim(talk.key, "next", BERT), Granted)


async def test_a_deleted_session_answers_deleted_to_release_and_check(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await store.delete(talk.key, "k:delete")
    assert await talk.release() == Deleted()
    assert await talk.check() == Deleted()


async def test_a_current_lease_checks_ok(store: SessionStore) -> None:
    talk = await begin(store)
    assert await talk.check() == Ok()
    await talk.say("a", "b")
    assert await talk.check() == Ok()
    assert await store.check(talk.key, talk.lease, 1, "a") == Ok()


async def test_a_stale_lease_checks_fenced_and_names_the_holder(store: SessionStore) -> None:
    """I8: asked before a host speaks of a turn that it did not commit."""
    old = await begin(store, "a")
    new = await take_over(old)
    assert await old.check() == Fenced(BERT, new.lease.epoch, 1)
    await new.release()
    assert await old.check() == Fenced(None, new.lease.epoch, 1)


async def test_a_released_lease_checks_fenced_without_a_holder(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    assert await talk.check() == Fenced(None, talk.lease.epoch, 1)


async def test_a_lease_of_an_expired_session_checks_fenced_with_epoch_0(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.expire(talk.key)
    assert await talk.check() == Fenced(None, 0, 0)


async def test_a_check_changes_nothing(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.pass_ms(20)
    before_ms = await lab.ttl_ms(talk.key)
    assert await talk.check() == Ok()
    after_ms = await lab.ttl_ms(talk.key)
    assert before_ms is not None
    assert after_ms is not None
    assert after_ms <= before_ms
