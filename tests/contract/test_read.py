"""Reading committed turns: by anybody, in pages, without a lease."""

from __future__ import annotations

import pytest

from actors.stores.base import Missing, SessionStore, Turns
from tests.contract.lab import Lab, begin, fresh_key, take_over, turn


async def test_a_session_that_never_was_is_missing(store: SessionStore) -> None:
    assert await store.read(fresh_key(), 0, 10) == Missing()


async def test_a_session_without_turns_is_there_and_empty(store: SessionStore) -> None:
    talk = await begin(store)
    assert await store.read(talk.key, 0, 10) == Turns((), 0)


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        (0, 10, "abcde"),
        (0, 2, "ab"),
        (2, 2, "cd"),
        (4, 2, "e"),
        (5, 2, ""),
        (99, 2, ""),
        (0, 0, ""),
        (3, 0, ""),
        (1, 1, "b"),
    ],
)
async def test_a_page_holds_the_turns_after_a_number_up_to_a_limit(
    store: SessionStore, after: int, limit: int, expected: str
) -> None:
    talk = await begin(store, *"abcde")
    page = await store.read(talk.key, after, limit)
    assert page == Turns(tuple(turn(ord(name) - 96, name) for name in expected), 5)


async def test_pages_put_together_are_the_log(store: SessionStore) -> None:
    talk = await begin(store, *(f"k:{number}" for number in range(25)))
    seen: list[str] = []
    while isinstance(page := await store.read(talk.key, len(seen), 7), Turns) and page.turns:
        seen += [turn.turn_id for turn in page.turns]
    assert seen == talk.log


@pytest.mark.parametrize(("bytes_max", "first"), [(1, 1), (2_500, 2), (25_000, 24), (1 << 20, 40)])
async def test_a_page_ends_before_it_is_too_large_but_has_a_turn(lab: Lab, bytes_max: int, first: int) -> None:
    """I6: bounded where it is made, so that nobody has to hold more."""
    store = lab.store(page_bytes_max=bytes_max)
    talk = await begin(store)
    for number in range(40):
        await talk.commit(f"k:{number}", message="x" * 900)
    seen: list[int] = []
    while isinstance(page := await store.read(talk.key, len(seen), 100), Turns) and page.turns:
        assert page.turn_seq == 40 and abs(len(page.turns) - min(first, 40 - len(seen))) <= first // 8
        seen += [turn.turn_seq for turn in page.turns]
    assert seen == list(range(1, 41))


async def test_reading_needs_no_lease_and_disturbs_none(store: SessionStore) -> None:
    talk = await begin(store, "a")
    await store.read(talk.key, 0, 10)
    await talk.say("b")
    new = await take_over(talk)
    assert await talk.stored() == await new.stored() == ["a", "b"]


async def test_reading_does_not_keep_a_session_alive(lab: Lab) -> None:
    store = lab.store()
    talk = await begin(store, "a")
    before_ms = await lab.ttl_ms(talk.key)
    await lab.pass_ms(20)
    await store.read(talk.key, 0, 10)
    after_ms = await lab.ttl_ms(talk.key)
    assert before_ms is not None
    assert after_ms is not None
    assert after_ms < before_ms
