"""The only way into the log: what is accepted, what a repeat is told, and in which order it is judged."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from actors.model import Lease
from actors.stores.base import (
    Ahead,
    Deleted,
    Fenced,
    Mismatch,
    Ok,
    Regressed,
    Replayed,
    SessionStore,
    Turns,
)
from tests.contract.lab import ANNA, BERT, CARL, Lab, Talk, begin, fresh_key, take_over, turn


async def test_a_committed_turn_is_in_every_later_read(store: SessionStore) -> None:
    """I2: acknowledged means durable."""
    talk = await begin(store)
    assert await talk.commit("a") == Ok()
    assert await store.read(talk.key, 0, 10) == Turns((turn(1, "a"),), 1)


async def test_turns_are_appended_in_the_order_of_their_commits(store: SessionStore) -> None:
    """I4: the log is the order in which turns were accepted."""
    talk = await begin(store, *"abcdefg")
    assert await talk.stored() == list("abcdefg")


async def test_a_repeated_commit_is_answered_with_the_recorded_turn_and_applied_once(store: SessionStore) -> None:
    """I3: the repeat of a commit whose reply was lost."""
    talk = await begin(store, "a")
    committed = turn(2, "b", reply="the one and only")
    assert await store.commit(talk.key, talk.lease, "a", committed, None) == Ok()
    for _ in range(3):
        assert await store.commit(talk.key, talk.lease, "a", committed, None) == Replayed(committed)
    assert await talk.stored() == ["a", "b"]


async def test_a_known_turn_id_is_replayed_wherever_it_stands_in_the_log(store: SessionStore) -> None:
    """I3: also when turns have come after it, and whatever the new attempt computed."""
    talk = await begin(store, "a", "b", "c")
    answer = await store.commit(talk.key, talk.lease, "c", turn(4, "a", reply="computed again"), None)
    assert answer == Replayed(turn(1, "a"))
    assert await talk.stored() == ["a", "b", "c"]


async def test_a_turn_id_stays_known_across_takeovers(store: SessionStore) -> None:
    """I3: at most once while the session lives, not only while its holder does."""
    talk = await take_over(await take_over(await begin(store, "a", "b"), BERT), CARL)
    assert await talk.commit("a") == Replayed(turn(1, "a"))


async def test_another_message_under_a_known_turn_id_is_a_mismatch(store: SessionStore) -> None:
    talk = await begin(store, "a", "b")
    answer = await store.commit(talk.key, talk.lease, "b", turn(3, "a", fingerprint="e" * 32), None)
    assert answer == Mismatch()
    assert await talk.stored() == ["a", "b"]


async def test_a_stale_epoch_cannot_commit(store: SessionStore) -> None:
    """I1: the fencing token decides, however alive the old holder is."""
    old = await begin(store, "a")
    new = await take_over(old)
    assert await old.commit("b") == Fenced(BERT, new.lease.epoch, 1)
    assert await new.stored() == ["a"]


async def test_the_right_epoch_with_another_token_cannot_commit(store: SessionStore) -> None:
    """I1: two claims may share an epoch after the store lost its tail; the token tells them apart."""
    talk = await begin(store, "a")
    forged = replace(talk.lease, token="another")
    answer = await store.commit(talk.key, forged, "a", turn(2, "b"), None)
    assert answer == Fenced(ANNA, talk.lease.epoch, 1)
    assert await talk.stored() == ["a"]


async def test_a_released_lease_cannot_commit(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    assert await talk.commit("b") == Fenced(None, talk.lease.epoch, 1)
    assert await talk.stored() == ["a"]


async def test_an_empty_token_does_not_pass_for_a_released_lease(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.release()
    answer = await store.commit(talk.key, replace(talk.lease, token=""), "a", turn(2, "b"), None)
    assert answer == Fenced(None, talk.lease.epoch, 1)


async def test_a_commit_into_a_session_that_has_expired_is_fenced_with_epoch_0(lab: Lab) -> None:
    """A missing lease means expired, never regressed."""
    talk = await begin(lab.store(), "a")
    await lab.expire(talk.key)
    assert await talk.commit("b") == Fenced(None, 0, 0)


async def test_a_commit_into_a_session_that_never_was_is_fenced_and_makes_none(store: SessionStore) -> None:
    key = fresh_key()
    assert await store.commit(key, Lease(5, "token", 5), "", turn(1, "a"), None) == Fenced(None, 0, 0)
    assert await Talk(store, key).stored() == []


async def test_a_commit_into_a_later_life_of_the_session_is_fenced_and_not_regressed(lab: Lab) -> None:
    store = lab.store()
    old = await begin(store, "a", "b")
    await lab.expire(old.key)
    await lab.pass_ms(2)
    anew = await begin(store, "x", key=old.key, host=BERT)
    assert await old.commit("c") == Fenced(BERT, anew.lease.epoch, 1)
    assert await anew.stored() == ["x"]


async def test_a_holder_that_misses_turns_is_told_that_the_store_is_ahead(store: SessionStore) -> None:
    talk = await begin(store, "a", "b", "c")
    assert await store.commit(talk.key, talk.lease, "a", turn(2, "x"), None) == Ahead(3)
    assert await store.commit(talk.key, talk.lease, "", turn(1, "x"), None) == Ahead(3)
    assert await talk.stored() == ["a", "b", "c"]


async def test_a_holder_with_turns_that_the_store_lacks_is_told_that_it_regressed(store: SessionStore) -> None:
    """I1: turn_seq must be the next."""
    talk = await begin(store, "a")
    assert await store.commit(talk.key, talk.lease, "b", turn(3, "c"), None) == Regressed(1)
    assert await talk.stored() == ["a"]


async def test_the_predecessor_must_be_the_last_turn(store: SessionStore) -> None:
    """I1: the right turn_seq on top of another turn is a fork."""
    talk = await begin(store, "a", "b")
    assert await store.commit(talk.key, talk.lease, "x", turn(3, "c"), None) == Regressed(2)
    assert await store.commit(talk.key, talk.lease, "a", turn(3, "c"), None) == Regressed(2)
    assert await talk.stored() == ["a", "b"]


async def test_a_shorter_log_that_is_not_a_prefix_has_regressed_and_is_not_just_behind(store: SessionStore) -> None:
    talk = await begin(store, "a", "b", "c")
    assert await store.commit(talk.key, talk.lease, "x", turn(3, "d"), None) == Regressed(3)


async def test_deleted_is_judged_before_the_fence(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await store.delete(talk.key, "k:delete")
    stale = replace(talk.lease, epoch=talk.lease.epoch - 1)
    assert await store.commit(talk.key, stale, "a", turn(2, "b"), None) == Deleted()


async def test_the_fence_is_judged_before_a_known_turn_id(store: SessionStore) -> None:
    """I8: who is fenced gets no replay to answer with, though the turn is known."""
    old = await begin(store, "a")
    committed = turn(2, "b")
    assert await store.commit(old.key, old.lease, "a", committed, None) == Ok()
    new = await take_over(old)
    assert await store.commit(old.key, old.lease, "a", committed, None) == Fenced(BERT, new.lease.epoch, 2)
    mismatch = turn(2, "b", fingerprint="e" * 32)
    assert await store.commit(old.key, old.lease, "a", mismatch, None) == Fenced(BERT, new.lease.epoch, 2)


async def test_a_known_turn_id_is_judged_before_the_sequence(store: SessionStore) -> None:
    talk = await begin(store, "a", "b")
    assert await store.commit(talk.key, talk.lease, "zz", turn(9, "a"), None) == Replayed(turn(1, "a"))
    assert await store.commit(talk.key, talk.lease, "", turn(1, "b", fingerprint="e" * 32), None) == Mismatch()


async def test_a_refused_commit_changes_nothing(lab: Lab) -> None:
    """I10: every refusal means not done."""
    store = lab.store()
    old = await begin(store, "a")
    new = await take_over(old)
    await new.commit("b", b'{"n":1}')
    before = await store.read(new.key, 0, 10)
    state = b'{"n":2}'
    for lease, previous, attempt in (
        (old.lease, "b", turn(3, "x")),
        (new.lease, "a", turn(2, "x")),
        (new.lease, "x", turn(3, "x")),
        (new.lease, "y", turn(9, "x")),
        (new.lease, "b", turn(3, "a")),
        (new.lease, "b", turn(3, "a", fingerprint="e" * 32)),
    ):
        assert await store.commit(new.key, lease, previous, attempt, state) != Ok()
    assert await store.read(new.key, 0, 10) == before
    again = await new.claim()
    assert again.checkpoint.state == b'{"n":1}'


async def test_a_commit_without_state_leaves_the_state_and_with_one_replaces_it(store: SessionStore) -> None:
    talk = await begin(store)
    await talk.commit("a", b'{"n":1}')
    await talk.commit("b", None)
    assert (await talk.claim()).checkpoint.state == b'{"n":1}'
    await talk.commit("c", b"{}")
    assert (await talk.claim()).checkpoint.state == b"{}"


async def test_commits_of_many_sessions_at_one_moment_are_each_judged_alone(store: SessionStore) -> None:
    talks = [await begin(store, "a") for _ in range(12)]
    fenced = talks[3::4]
    for talk in fenced:
        await take_over(talk)
    answers = await asyncio.gather(*(talk.commit("b") for talk in talks))
    assert [answer == Ok() for answer in answers] == [talk not in fenced for talk in talks]


async def test_two_commits_of_one_turn_at_one_moment_are_applied_once(store: SessionStore) -> None:
    """I3: a repeat that overtakes its original."""
    talk = await begin(store, "a")
    answers = await asyncio.gather(*(store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) for _ in range(8)))
    assert answers.count(Ok()) == 1
    assert answers.count(Replayed(turn(2, "b"))) == 7
    assert await talk.stored() == ["a", "b"]


async def test_two_turns_for_one_place_are_not_both_accepted(store: SessionStore) -> None:
    """I1, I4: of two attempts at the same turn_seq one wins and the other learns that the log has grown."""
    talk = await begin(store, "a")
    answers = await asyncio.gather(
        *(store.commit(talk.key, talk.lease, "a", turn(2, name), None) for name in ("b", "c", "d"))
    )
    assert answers.count(Ok()) == 1
    assert answers.count(Ahead(2)) == 2


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "a\x00b", "日本語 ✓ 🎉", '"quoted" \\ \r\n', "\u2028\u2029\ufeff", "x" * 1_000_000, "é" * 400_000],
    ids=["empty", "nul", "nul inside", "unicode", "escapes", "separators", "1 MB", "800 kB of UTF-8"],
)
async def test_texts_come_back_as_they_were(store: SessionStore, text: str) -> None:
    talk = await begin(store)
    committed = turn(
        1, "k:" + text[:100], message=text, reply=text, metadata={"text": text[:1000], "deep": [1, {"a": None}]}
    )
    assert await store.commit(talk.key, talk.lease, "", committed, b'{"n":1}') == Ok()
    assert await store.commit(talk.key, talk.lease, "", committed, None) == Replayed(committed)
    assert (await talk.claim()).checkpoint.turns == (committed,)
    assert await store.read(talk.key, 0, 1) == Turns((committed,), 1)


async def test_a_text_that_is_not_utf_8_is_refused_before_anything_is_sent(store: SessionStore) -> None:
    talk = await begin(store)
    with pytest.raises(ValueError, match="surrogates"):
        await store.commit(talk.key, talk.lease, "", turn(1, "a", reply="\ud800"), None)
    assert await talk.stored() == []


async def test_turn_ids_are_compared_byte_for_byte(store: SessionStore) -> None:
    talk = await begin(store, "k:1", "k:1 ", "K:1", "k:1:2", "r:1", "k:\u00e9", "k:e\u0301")
    assert len(await talk.stored()) == 7


async def test_a_long_log_is_loaded_whole(store: SessionStore) -> None:
    talk = await begin(store, *(f"k:{number}" for number in range(300)))
    known = list(talk.log)
    await talk.claim()
    assert talk.log == known
