"""Taking the lease: who gets it, who doesn't, and what a repeat is told."""

from __future__ import annotations

import asyncio

from actors.model import Checkpoint, HostRef, Lease
from actors.stores.base import SUSPECTS_BYTES_MAX, Fenced, Granted, Held, Ok, SessionStore
from tests.contract.lab import ANNA, BERT, CARL, Lab, Talk, begin, fresh_key, take_over, turn


async def test_a_session_begins_with_its_first_claim_at_the_stores_time(lab: Lab) -> None:
    store = lab.store()
    before_ms = lab.now_ms()
    granted = await store.claim(fresh_key(), "token", ANNA)
    assert isinstance(granted, Granted)
    assert before_ms <= granted.lease.epoch <= lab.now_ms()
    assert granted == Granted(Lease(granted.lease.epoch, "token", granted.lease.epoch), Checkpoint(), 0)


async def test_a_held_lease_names_its_holder_and_epoch(store: SessionStore) -> None:
    talk = await begin(store, "a")
    assert await store.claim(talk.key, "other", BERT) == Held(ANNA, talk.lease.epoch)
    assert await talk.check() == Ok()


async def test_of_two_claimers_at_one_moment_exactly_one_is_granted(store: SessionStore) -> None:
    """I1: one accepted writer."""
    key = fresh_key()
    answers = await asyncio.gather(
        *(store.claim(key, f"token-{number}", HostRef(f"inc-{number}", "", "a:1")) for number in range(20))
    )
    granted = [answer for answer in answers if isinstance(answer, Granted)]
    held = [answer for answer in answers if isinstance(answer, Held)]
    assert len(granted) == 1
    assert {answer.epoch for answer in held} == {granted[0].lease.epoch}
    assert len({answer.holder for answer in held}) == 1


async def test_a_repeated_claim_gets_the_same_grant_with_the_checkpoint_as_it_is_now(store: SessionStore) -> None:
    talk = await begin(store)
    first = talk.lease
    await talk.say("a")
    again = await talk.claim()
    assert again.lease == first
    assert talk.log == ["a"]


async def test_a_claim_loads_turns_and_state_in_one_answer(store: SessionStore) -> None:
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await talk.commit("b")
    await talk.release()
    granted = await Talk(store, talk.key, BERT).claim()
    assert granted.checkpoint == Checkpoint((turn(1, "a"), turn(2, "b")), b'{"n":1}')


async def test_a_free_lease_is_granted_with_the_next_epoch(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    granted = await Talk(store, talk.key, BERT).claim()
    assert granted.lease.epoch == talk.lease.epoch + 1
    assert granted.lease.born == talk.lease.born
    assert granted.takeovers == 0


async def test_a_host_gets_back_what_it_holds_itself_and_its_earlier_activation_is_fenced(store: SessionStore) -> None:
    """I1: the claim of a dead activation of this host doesn't stand in the way, and can't commit either."""
    earlier = await begin(store, "a")
    later = Talk(store, earlier.key, ANNA)
    granted = await later.claim()
    assert granted.lease.epoch == earlier.lease.epoch + 1
    assert granted.takeovers == 0
    assert await earlier.commit("b") == Fenced(ANNA, granted.lease.epoch, 1)


async def test_a_new_slot_of_the_same_incarnation_is_named_after_the_next_claim(store: SessionStore) -> None:
    talk = await begin(store)
    moved = HostRef(ANNA.incarnation, "slot-9", ANNA.address)
    await Talk(store, talk.key, moved).claim()
    held = await store.claim(talk.key, "other", BERT)
    assert isinstance(held, Held)
    assert held.holder == moved


async def test_a_takeover_needs_the_very_holder_and_epoch_that_stand_in_the_lease(store: SessionStore) -> None:
    """A live holder is never robbed: what was seen of it must still be true."""
    talk = await begin(store, "a")
    epoch = talk.lease.epoch
    for over in ((ANNA.incarnation, epoch - 1), (ANNA.incarnation, epoch + 1), (CARL.incarnation, epoch), ("", epoch)):
        assert await store.claim(talk.key, "robber", BERT, over) == Held(ANNA, epoch)
    assert await talk.commit("b") == Ok()


async def test_a_takeover_with_a_stale_epoch_of_the_same_holder_is_refused(store: SessionStore) -> None:
    talk = await begin(store, "a")
    stale = (ANNA.incarnation, talk.lease.epoch)
    again = Talk(store, talk.key, ANNA)
    await again.claim()
    assert await store.claim(talk.key, "robber", BERT, stale) == Held(ANNA, again.lease.epoch)


async def test_a_takeover_fences_the_old_holder(store: SessionStore) -> None:
    """I1, I8: the old holder's commit is refused, and it learns who holds the session now."""
    old = await begin(store, "a")
    new = await take_over(old)
    assert new.lease.epoch == old.lease.epoch + 1
    assert await old.commit("b") == Fenced(BERT, new.lease.epoch, 1)
    assert await new.stored() == ["a"]


async def test_a_repeated_takeover_gets_the_same_grant_and_counts_once(store: SessionStore) -> None:
    old = await begin(store, "a")
    new = Talk(store, old.key, BERT)
    over = (ANNA.incarnation, old.lease.epoch)
    first = await new.claim(over)
    assert await new.claim(over) == first
    assert first.takeovers == 1


async def test_takeovers_count_up_until_a_commit(store: SessionStore) -> None:
    talk = await begin(store, "a")
    second = await take_over(talk, BERT)
    third = await take_over(second, CARL)
    assert third.granted is not None
    assert third.granted.takeovers == 2
    await third.say("b")
    fourth = await take_over(third, ANNA)
    assert fourth.granted is not None
    assert fourth.granted.takeovers == 1


async def test_a_release_ends_the_count_of_takeovers_because_that_host_lived(store: SessionStore) -> None:
    talk = await take_over(await begin(store, "a"))
    await talk.release()
    granted = await Talk(store, talk.key, CARL).claim()
    assert granted.takeovers == 0


async def dies_running(holder: Talk, turn_id: str, successor: HostRef) -> Talk:
    """The holder notes what it runs, if anything, and is taken over from."""
    if turn_id:
        assert await holder.check(running=turn_id) == Ok()
    return await take_over(holder, successor)


def suspects(talk: Talk) -> tuple[int, tuple[str, ...]]:
    assert talk.granted is not None
    return talk.granted.takeovers, talk.granted.suspects


async def test_a_takeover_names_the_turns_that_dead_holders_had_noted(store: SessionStore) -> None:
    second = await take_over(await begin(store, "a"), BERT)
    assert suspects(second) == (1, ())
    third = await dies_running(second, "k:one, two", CARL)
    assert suspects(third) == (2, ("k:one, two",))
    assert await third.claim() == third.granted
    fourth = await dies_running(await dies_running(third, "k:other", ANNA), "k:one, two", BERT)
    assert suspects(fourth) == (4, ("k:one, two", "k:other", "k:one, two"))


async def test_a_dead_holder_that_had_noted_nothing_adds_no_suspect(store: SessionStore) -> None:
    third = await dies_running(await take_over(await begin(store, "a"), BERT), "killer", CARL)
    assert suspects(await dies_running(third, "", ANNA)) == (3, ("killer",))


async def test_what_was_noted_before_any_takeover_or_before_a_commit_accuses_nobody(store: SessionStore) -> None:
    second = await dies_running(await begin(store, "a"), "b", BERT)
    assert suspects(second) == (1, ())
    await second.check(running="b")
    await second.say("b")
    third = await take_over(second, CARL)
    assert suspects(third) == (1, ())
    assert suspects(await take_over(third, ANNA)) == (2, ())


async def test_a_release_forgets_the_suspects(store: SessionStore) -> None:
    third = await dies_running(await take_over(await begin(store, "a"), BERT), "c", CARL)
    await third.release()
    fourth = await begin(store, key=third.key, host=BERT)
    assert suspects(fourth) == (0, ())
    assert suspects(await take_over(await take_over(fourth, ANNA), CARL)) == (2, ())


async def test_a_holder_that_claims_again_does_not_accuse_what_it_runs_itself(store: SessionStore) -> None:
    second = await take_over(await begin(store, "a"), BERT)
    await second.check(running="b")
    second.token = ""
    await second.claim()
    assert suspects(second) == (1, ())


async def test_a_stale_holder_notes_nothing(store: SessionStore) -> None:
    second = await take_over(await begin(store, "a"), BERT)
    third = await take_over(second, CARL)
    assert isinstance(await second.check(running="b"), Fenced)
    assert suspects(await take_over(third, ANNA)) == (3, ())


async def test_many_suspects_are_forgotten_oldest_first(store: SessionStore) -> None:
    holder = await take_over(await begin(store, "a"), BERT)
    for number in range(70):
        holder = await dies_running(holder, f"{number:0200}", (ANNA, BERT, CARL)[number % 3 - 1])
    kept = suspects(holder)[1]
    assert kept == tuple(f"{number:0200}" for number in range(70 - SUSPECTS_BYTES_MAX // 201, 70))


async def test_over_a_lease_that_is_free_by_now_is_a_plain_claim(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    granted = await Talk(store, talk.key, BERT).claim(over=(ANNA.incarnation, talk.lease.epoch))
    assert granted.takeovers == 0


async def test_over_a_session_that_has_expired_begins_it_anew(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store, "a")
    await lab.expire(talk.key)
    await lab.pass_ms(2)
    granted = await Talk(store, talk.key, BERT).claim(over=(ANNA.incarnation, talk.lease.epoch))
    assert granted.takeovers == 0
    assert granted.lease.born == granted.lease.epoch
    assert granted.checkpoint == Checkpoint()


async def test_a_session_that_begins_anew_has_a_greater_epoch_than_ever(lab: Lab) -> None:
    """An epoch must not restart low, or a holder of the expired life would seem to be current."""
    store = lab.store()
    talk = await begin(store, "a")
    await lab.expire(talk.key)
    await lab.pass_ms(2)
    anew = Talk(store, talk.key, BERT)
    await anew.claim()
    assert anew.lease.epoch > talk.lease.epoch


async def test_epochs_only_grow(store: SessionStore) -> None:
    talk = await begin(store)
    epochs = [talk.lease.epoch]
    for host in (BERT, ANNA, CARL, BERT):
        talk = await take_over(talk, host)
        epochs.append(talk.lease.epoch)
    assert epochs == list(range(epochs[0], epochs[0] + 5))


async def test_a_delayed_repeat_of_an_earlier_claim_after_a_release_is_a_new_grant(store: SessionStore) -> None:
    """It can't be told from a claim; the epoch that it gets is another one, so what was released stays fenced."""
    talk = await begin(store, "a")
    first = talk.lease
    await talk.release()
    again = await talk.claim()
    assert again.lease.epoch == first.epoch + 1
    stale = await store.commit(talk.key, first, "a", turn(2, "b"), None)
    assert stale == Fenced(ANNA, again.lease.epoch, 1)


async def test_sessions_of_two_tenants_under_one_id_are_two_sessions(store: SessionStore) -> None:
    key = fresh_key("red")
    red = await begin(store, "a", key=key)
    blue = await begin(store, key=type(key)(key.session_id, "blue"), host=BERT)
    assert await blue.stored() == []
    assert await red.stored() == ["a"]
