"""Claims that load the last turns only: what they bring, and that the store still knows all the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.errors import StoreUnavailable
from actors.stores.base import Fenced, Mismatch, Ok, Regressed, Replayed, SessionStore, Turns
from tests.contract.lab import ANNA, BERT, CARL, Lab, RedisLab, Talk, begin, fresh_key, take_over, turn


async def with_window(window: int, *turn_ids: str, store: SessionStore) -> Talk:
    """A session with these turns, the last ``window`` of which BERT has loaded."""
    first = await begin(store, *turn_ids)
    await first.release()
    talk = Talk(store, first.key, BERT)
    await talk.claim(window=window)
    return talk


@pytest.mark.parametrize(("window", "expected"), [(1, "e"), (3, "cde"), (5, "abcde"), (50, "abcde")])
async def test_a_claim_loads_the_last_turns_that_were_asked_for(
    store: SessionStore, window: int, expected: str
) -> None:
    talk = await with_window(window, *"abcde", store=store)
    assert talk.granted is not None
    assert [each.turn_id for each in talk.granted.checkpoint.turns] == list(expected)
    assert [each.turn_seq for each in talk.granted.checkpoint.turns] == list(range(6 - len(expected), 6))
    assert (talk.granted.checkpoint.turn_seq, talk.granted.checkpoint.last_turn_id) == (5, "e")


async def test_a_new_session_has_no_turns_in_any_window(store: SessionStore) -> None:
    granted = await Talk(store, fresh_key()).claim(window=3)
    assert granted.checkpoint.turns == () and granted.checkpoint.turn_seq == 0


async def test_the_state_is_loaded_whole_whatever_the_window(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await talk.commit("b", state=b'{"n":2}')
    await talk.say("c")
    assert (await talk.claim(window=1)).checkpoint.state == b'{"n":2}'


async def test_a_claim_that_is_repeated_loads_what_the_repeat_asks_for(store: SessionStore) -> None:
    talk = await with_window(1, "a", "b", "c", store=store)
    lease = talk.lease
    assert len((await talk.claim()).checkpoint.turns) == 3
    assert len((await talk.claim(window=2)).checkpoint.turns) == 2
    assert talk.lease == lease


async def test_a_takeover_loads_the_window_too(store: SessionStore) -> None:
    talk = await begin(store, "a", "b", "c")
    granted = await Talk(store, talk.key, CARL).claim(over=(ANNA.incarnation, talk.lease.epoch), window=2)
    assert [each.turn_id for each in granted.checkpoint.turns] == ["b", "c"] and granted.takeovers == 1


async def test_a_holder_of_the_last_turns_goes_on_with_the_log(store: SessionStore) -> None:
    """I1: who may write has nothing to do with how much of the log it has loaded."""
    talk = await with_window(2, *"abcde", store=store)
    await talk.say("f", "g")
    assert await talk.check() == Ok()
    assert await talk.stored() == list("abcdefg")
    assert await store.read(talk.key, 1, 2) == Turns((turn(2, "b"), turn(3, "c")), 7)
    assert await talk.release() == Ok()
    assert (await Talk(store, talk.key).claim()).checkpoint.turn_seq == 7


async def test_a_turn_from_before_the_window_is_not_committed_again(store: SessionStore) -> None:
    """I3: at most once while the session lives, whatever its holder has loaded."""
    talk = await with_window(1, *"abcde", store=store)
    assert await talk.commit("b", reply="computed again") == Replayed(turn(2, "b"))
    assert await talk.commit("b", fingerprint="e" * 32) == Mismatch()
    assert await talk.stored() == list("abcde")


@pytest.mark.parametrize("about", ["refused", "running"])
async def test_a_check_tells_that_a_turn_is_in_the_log(store: SessionStore, about: str) -> None:
    """I10: whoever is about to call it not done, or to run it, may have loaded less than there is."""
    talk = await with_window(1, "a", "b", "c", store=store)
    assert await talk.check(**{about: "a"}) == Replayed(turn(1, "a"))
    assert await talk.check(**{about: "c"}) == Replayed(turn(3, "c"))
    assert await talk.check(**{about: "unknown"}) == Ok()
    assert await talk.stored() == ["a", "b", "c"]


async def test_a_turn_that_is_in_the_log_is_not_noted_as_running(store: SessionStore) -> None:
    talk = await take_over(await begin(store, "a", "b"), BERT)
    assert isinstance(await talk.check(running="a"), Replayed)
    third = await take_over(talk, CARL)
    assert third.granted is not None and third.granted.suspects == ()


async def test_a_turn_that_is_refused_is_not_noted_as_running(store: SessionStore) -> None:
    talk = await take_over(await begin(store, "a"), BERT)
    assert await talk.check(refused="b") == Ok()
    third = await take_over(talk, CARL)
    assert third.granted is not None and third.granted.suspects == ()


async def test_whoever_lost_the_lease_is_not_told_what_is_in_the_log(store: SessionStore) -> None:
    """I8: it must not answer, so it needs no answer."""
    old = await begin(store, "a")
    new = await take_over(old)
    assert await old.check(refused="a") == Fenced(BERT, new.lease.epoch, 1)


async def test_lost_turns_are_noticed_by_a_holder_of_the_last_ones(lab: Lab) -> None:
    """The last turn's id and number say whether the log still begins with the holder's."""
    store = lab.store()
    first = await begin(store, *"abc")
    await first.release()
    talk = Talk(store, first.key, BERT)
    await talk.claim(window=2)
    saved = await lab.snapshot(talk.key)
    await talk.say("d")
    await lab.restore(talk.key, saved)
    assert await talk.check() == await talk.check(refused="a") == Regressed(3)
    assert await talk.commit("e") == Regressed(3)
    assert await talk.release() == Regressed(3)


@pytest.mark.parametrize("trimmed", [(1, -1), (0, -2)], ids=["the first turn", "the last turn"])
async def test_a_log_with_turns_missing_is_not_loaded_in_part_either(
    redis_lab: RedisLab, trimmed: tuple[int, int]
) -> None:
    talk = await begin(redis_lab.store(), *"abcde")
    redis_lab.client.ltrim(redis_lab.keys.of_session(talk.key)[1], *trimmed)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await talk.claim(window=2)


async def test_a_long_talk_costs_what_its_window_costs(redis_lab: RedisLab) -> None:
    """Counted at the server: the bytes of its answer to a claim."""
    window = 5
    talk = await begin(redis_lab.store(), *(f"{number:04}" for number in range(window)))

    async def cost() -> int:
        def sent() -> int:
            return int(redis_lab.client.info("stats")["total_net_output_bytes"])

        before, idle = sent(), -sent()
        idle += sent()
        await replace(talk).claim(window=window)
        return sent() - before - 2 * idle

    short = await cost()
    await talk.say(*(f"{number:04}" for number in range(window, 200)))
    assert abs(await cost() - short) < 100, "some numbers have grown a digit or two"
