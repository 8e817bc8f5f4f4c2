"""The replay guard, on every store that has one: which turn of those made from one state is accepted, and repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.errors import Misconfigured
from actors.model import Sealed, SessionKey
from actors.settings import Settings
from actors.stores import open_guard
from actors.stores.base import Mismatch, Ok
from actors.stores.guard import Guard, Mark, MemoryGuard, Repeated, Superseded
from actors.stores.redis_guard import RedisGuard
from actors.stores.redis_pipeline import Pipelines
from tests.contract.lab import Lab, RedisLab, fresh_key

TTL_S, ANSWER_S = 3600.0, 600.0


def guard_of(lab: Lab, ttl_s: float = TTL_S, answer_s: float = ANSWER_S) -> Guard:
    """A guard on the store of this lab, closed with it."""
    if isinstance(lab, RedisLab):
        guard = RedisGuard(Pipelines(lab.settings), lab.keys, ttl_s, answer_s)
        lab.guards.append(guard)
        return guard
    return MemoryGuard(lab.now_ms, ttl_s, answer_s)


def made(name: str) -> Sealed:
    """A new state. ``name`` stands for all of it."""
    return Sealed(f"rs1.{name}", name, None)


def first(key: SessionKey, turn_id: str = "k:1") -> Mark:
    return Mark(key, 0, "", turn_id, "f")


def after(mark: Mark, state_id: str, turn_id: str) -> Mark:
    return Mark(mark.key, mark.turn_seq + 1, state_id, turn_id, "f")


async def test_turn_after_turn_is_accepted(lab: Lab) -> None:
    guard, mark = guard_of(lab), first(fresh_key())
    for number in range(1, 6):
        assert await guard.look(mark) == Ok()
        assert await guard.accept(mark, made(f"state-{number}")) == Ok()
        mark = after(mark, f"state-{number}", f"k:{number + 1}")


async def test_an_older_state_is_superseded_however_old(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    two = after(one, "a", "k:2")
    await guard.accept(one, made("a"))
    await guard.accept(two, made("b"))
    for replay in (replace(one, turn_id="k:x"), replace(two, turn_id="k:y"), one):
        assert await guard.look(replay) == Superseded(2)
        assert await guard.accept(replay, made("c")) == Superseded(2)
    assert await guard.accept(after(two, "b", "k:3"), made("c")) == Ok(), "and nothing of it was kept"


async def test_of_two_turns_from_one_state_one_is_accepted(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    await guard.accept(one, made("a"))
    left, right = after(one, "a", "k:left"), after(one, "a", "k:right")
    assert await guard.look(left) == await guard.look(right) == Ok()
    assert await guard.accept(left, made("b")) == Ok()
    assert await guard.accept(right, made("c")) == Superseded(2)
    assert await guard.look(after(right, "c", "k:3")) == Superseded(2), "as old as the newest, and another one"


async def test_of_many_turns_at_one_time_exactly_one_is_accepted(lab: Lab) -> None:
    # Of several hosts, where the store can have several.
    guards = [guard_of(lab) for _ in range(3)] if isinstance(lab, RedisLab) else [guard_of(lab)] * 3
    one = first(fresh_key())
    await guards[0].accept(one, made("a"))
    answers = await asyncio.gather(
        *(guards[n % 3].accept(after(one, "a", f"k:{n}"), made(f"b-{n}")) for n in range(30))
    )
    assert sorted(map(repr, answers)) == sorted(map(repr, [Ok(), *[Superseded(2)] * 29]))


async def test_a_repeat_gets_the_recorded_answer_before_and_after_its_run(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    await guard.accept(one, made("a"))
    assert await guard.look(one) == Repeated("rs1.a")
    assert await guard.accept(one, made("another run's")) == Repeated("rs1.a")
    assert await guard.accept(after(one, "a", "k:2"), made("b")) == Ok()


async def test_an_accept_whose_answer_was_lost_is_answered_with_its_own_state(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    assert await guard.accept(one, made("a")) == Ok()
    assert await guard.accept(one, made("a")) == Repeated("rs1.a")


async def test_another_message_under_the_same_turn_id_is_a_mismatch(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    await guard.accept(one, made("a"))
    for call in (guard.look(replace(one, fingerprint="g")), guard.accept(replace(one, fingerprint="g"), made("b"))):
        assert await call == Mismatch()


async def test_conversations_do_not_know_each_other(lab: Lab) -> None:
    guard, key = guard_of(lab), fresh_key()
    for each in (key, fresh_key(), SessionKey(key.session_id, "acme")):
        assert await guard.accept(first(each), made("a")) == Ok()


async def test_a_state_newer_than_what_is_known_proves_itself(lab: Lab) -> None:
    """The store lost its tail, or the guard was off for a while."""
    guard, one = guard_of(lab), first(fresh_key())
    await guard.accept(one, made("a"))
    ahead = Mark(one.key, 5, "e", "k:6", "f")
    assert await guard.accept(ahead, made("g")) == Ok()
    assert await guard.look(replace(ahead, turn_id="k:x")) == Superseded(6)
    assert await guard.accept(Mark(fresh_key(), 5, "e", "k:6", "f"), made("g")) == Ok()


async def test_looking_changes_nothing(lab: Lab) -> None:
    guard, one = guard_of(lab), first(fresh_key())
    await guard.look(one)
    if isinstance(lab, RedisLab):
        assert not lab.client.exists(*lab.keys.of_sealed(one.key))
    assert await guard.look(replace(one, turn_id="k:other")) == Ok()


async def test_the_answer_is_forgotten_before_the_conversation_and_that_in_the_end(lab: Lab) -> None:
    guard, one = guard_of(lab, ttl_s=0.2, answer_s=0.05), first(fresh_key())
    await guard.accept(one, made("a"))
    await lab.pass_ms(60)
    assert await guard.look(one) == Repeated(None)
    assert await guard.look(replace(one, turn_id="k:x")) == Superseded(1)
    await lab.pass_ms(200)
    assert await guard.look(one) == Ok()


async def test_each_accepted_turn_renews_what_is_remembered(redis_lab: RedisLab) -> None:
    guard, one = guard_of(redis_lab), first(fresh_key())
    await guard.accept(one, made("a"))
    newest, answer = redis_lab.keys.of_sealed(one.key)
    redis_lab.client.pexpire(newest, 1_000)
    await guard.accept(after(one, "a", "k:2"), made("b"))
    assert 0 <= TTL_S * 1000 - redis_lab.client.pttl(newest) < 60_000
    assert 0 <= ANSWER_S * 1000 - redis_lab.client.pttl(answer) < 60_000


async def test_a_call_is_one_script_and_one_round_trip(redis_lab: RedisLab) -> None:
    guard, one = guard_of(redis_lab), first(fresh_key())
    await guard.accept(one, made("a"))
    before = redis_lab.evalsha_calls()
    await guard.look(one)
    await guard.accept(after(one, "a", "k:2"), made("b"))
    assert redis_lab.evalsha_calls() == before + 2


def test_the_guard_in_memory_forgets_what_nobody_asks_for() -> None:
    now_ms = 0
    guard = MemoryGuard(lambda: now_ms, 10, 1)

    async def scenario() -> None:
        nonlocal now_ms
        for number in range(100):
            now_ms += 1_000
            await guard.accept(first(SessionKey(f"s-{number}")), made("a"))

    asyncio.run(scenario())
    assert len(guard._lines) <= 11


# --- which guard ----------------------------------------------------------------------------------------------------


def settings(guard: str, store: str) -> Settings:
    return Settings.load({"sealed": {"guard": guard}, "store": {"url": store}})


async def test_without_the_setting_there_is_none() -> None:
    assert await open_guard(settings("", "memory://")) is None


async def test_the_stores_own_server_or_another(server_url: Callable[[str], str]) -> None:
    url = server_url("valkey")
    assert isinstance(await open_guard(settings("store", "memory://")), MemoryGuard)
    for guard in (await open_guard(settings("store", url)), await open_guard(settings(url, "memory://"))):
        assert isinstance(guard, RedisGuard)
        assert await guard.look(first(fresh_key())) == Ok()
        await guard.aclose()


@pytest.mark.parametrize(("guard", "store"), [("on", "memory://"), ("postgresql://h/d", "memory://")])
async def test_what_cannot_be_a_guard_is_refused_in_one_line(guard: str, store: str) -> None:
    with pytest.raises(Misconfigured, match=r"sealed\.guard"):
        await open_guard(settings(guard, store))


async def test_a_guard_that_does_not_answer_is_refused_by_its_own_name() -> None:
    with pytest.raises(Misconfigured, match=r"sealed\.guard"):
        await open_guard(settings("redis://u:secret@127.0.0.1:1/0", "memory://"))
