"""The store loses what it had confirmed: it is noticed, reported as that, and never forked silently.

``restore`` plays the promoted replica, or the crash under ``appendfsync everysec``.
"""

from __future__ import annotations

from actors.stores.base import Fenced, Ok, Regressed, Replayed
from tests.contract.lab import BERT, CARL, Lab, Talk, begin, take_over, turn


async def test_a_lost_turn_is_noticed_by_the_next_commit(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    await talk.say("b", "c")
    await lab.restore(talk.key, before)
    assert await talk.commit("d") == Regressed(1)
    assert await talk.stored() == ["a"]


async def test_a_lost_takeover_is_noticed_by_the_new_holder_as_an_epoch_from_the_future(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    new = await take_over(talk)
    await lab.restore(talk.key, before)
    assert await new.commit("b") == Regressed(1)
    assert await new.check() == Regressed(1)
    assert await new.release() == Regressed(1)


async def test_the_holder_whose_lease_came_back_goes_on(lab: Lab) -> None:
    """From the store's log the old lease is current again, and its log is the store's: nothing of it was lost."""
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    await take_over(talk)
    await lab.restore(talk.key, before)
    assert await talk.commit("b") == Ok()


async def test_two_claims_of_one_epoch_are_told_apart_by_their_token(lab: Lab) -> None:
    """I1: the store forgot the first claim and gave its epoch away again."""
    talk = await begin(lab.store(), "a")
    await talk.release()
    before = await lab.snapshot(talk.key)
    first = Talk(talk.store, talk.key, BERT)
    await first.claim()
    await lab.restore(talk.key, before)
    second = Talk(talk.store, talk.key, CARL)
    await second.claim()
    assert second.lease.epoch == first.lease.epoch
    assert await first.commit("b") == Fenced(CARL, second.lease.epoch, 1)
    assert await second.commit("c") == Ok()
    assert await first.stored() == ["a", "c"]


async def test_a_lost_turn_under_an_epoch_that_was_given_away_again_is_regressed_and_not_fenced(lab: Lab) -> None:
    """The client was told of "b": it must be told that it is gone, not that somebody else holds the session."""
    talk = await begin(lab.store(), "a")
    await talk.release()
    before = await lab.snapshot(talk.key)
    first = Talk(talk.store, talk.key, BERT)
    await first.claim()
    await first.say("b")
    await lab.restore(talk.key, before)
    second = Talk(talk.store, talk.key, CARL)
    await second.claim()
    await second.say("x", "y")
    assert await first.commit("c") == Regressed(3)
    assert await first.check() == Regressed(3)
    assert await first.release() == Regressed(3)
    assert await second.commit("z") == Ok()


async def test_a_lost_turn_under_an_older_epoch_is_regressed_and_not_fenced(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    await talk.say("b")
    await lab.restore(talk.key, before)
    new = await take_over(talk)
    assert new.lease.epoch > talk.lease.epoch
    assert await talk.commit("c") == Regressed(1)
    assert await talk.check() == Regressed(1)
    assert await talk.release() == Regressed(1)
    assert await new.check() == Ok()


async def test_a_fenced_holder_whose_turns_are_all_there_is_fenced_and_not_regressed(lab: Lab) -> None:
    talk = await begin(lab.store(), "a", "b")
    new = await take_over(talk)
    await new.say("c", "d")
    assert await talk.commit("x") == Fenced(BERT, new.lease.epoch, 4)


async def test_the_same_turn_in_another_place_does_not_make_a_prefix(lab: Lab) -> None:
    talk = await begin(lab.store())
    before = await lab.snapshot(talk.key)
    await talk.say("a", "b")
    await lab.restore(talk.key, before)
    new = await take_over(talk)
    await new.say("b", "a")
    assert await talk.commit("c") == Regressed(2)


async def test_a_claim_after_a_loss_goes_on_from_the_stores_log(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    await talk.say("b")
    await lab.restore(talk.key, before)
    assert await talk.commit("c") == Regressed(1)
    again = Talk(talk.store, talk.key)
    await again.claim()
    assert again.log == ["a"]
    assert await again.commit("b") == Ok()


async def test_a_lost_commit_that_is_repeated_at_once_is_simply_applied(lab: Lab) -> None:
    """I3: its reply was lost and then the turn itself: the repeat finds its place free."""
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Ok()
    await lab.restore(talk.key, before)
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Ok()
    assert await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def test_a_lost_release_lets_its_repeat_through(lab: Lab) -> None:
    talk = await begin(lab.store(), "a")
    before = await lab.snapshot(talk.key)
    assert await talk.release() == Ok()
    await lab.restore(talk.key, before)
    assert await talk.release() == Ok()


async def test_a_session_that_was_lost_with_its_beginning_counts_as_expired(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store, "a")
    await lab.expire(talk.key)
    assert await talk.commit("b") == Fenced(None, 0, 0)
    assert await talk.check() == Fenced(None, 0, 0)
