"""Two calls of one session at one moment: the second, which waits for the lock of the first, must see all that it did.

Each test runs the first call in a transaction that stays open, starts the second, waits until the server says that it
waits, and lets the first commit. So the order is certain, and no luck is needed to meet the race.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from actors.model import Checkpoint, HostState
from actors.stores import postgres_calls as calls
from actors.stores.base import (
    Ahead,
    Buried,
    Deleted,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Ok,
    Regressed,
    Replayed,
    Turns,
)
from actors.stores.postgres_functions import FUNCTIONS, Call
from tests.contract.lab import ANNA, BERT, CARL, TTL_S, Talk, begin, fresh_key, take_over, turn
from tests.contract.postgres_lab import SCHEMA, PostgresLab

A = TypeVar("A")
TTL_MS = int(TTL_S * 1000)


@pytest_asyncio.fixture
async def lab(server_url: Callable[[str], str]) -> AsyncIterator[PostgresLab]:
    lab = PostgresLab(server_url("postgres"))
    try:
        yield lab
    finally:
        await lab.aclose()


async def race(
    lab: PostgresLab, first: Call[Any], second: Awaitable[A], before: Call[Any] | None = None
) -> tuple[Any, A]:
    """Both answers; the second call was waiting when the first one was committed, together with the one ``before``."""
    async with lab.transaction() as connection:
        if before is not None:
            await connection.fetchrow(FUNCTIONS.statement(SCHEMA, before.function), *before.arguments)
        row = await connection.fetchrow(FUNCTIONS.statement(SCHEMA, first.function), *first.arguments)
        waiting = asyncio.ensure_future(second)
        await lab.until_waiting(1)
    return first.decode(row), await waiting


def commit_of(talk: Talk, name: str, **fields: Any) -> Call[Any]:
    return calls.commit(talk.key, talk.lease, talk.last, turn(len(talk.log) + 1, name, **fields), None, TTL_MS)


async def test_of_two_commits_of_one_turn_the_second_is_a_replay(lab: PostgresLab) -> None:
    """I3: a repeat that comes while its original is being written."""
    talk = await begin(lab.store(), "a")
    assert await race(lab, commit_of(talk, "b"), talk.commit("b")) == (Ok(), Replayed(turn(2, "b")))
    assert await talk.stored() == ["a", "b"]


async def test_of_two_commits_of_one_turn_id_with_two_messages_the_second_is_a_mismatch(lab: PostgresLab) -> None:
    talk = await begin(lab.store(), "a")
    second = talk.commit("b", fingerprint="e" * 32)
    assert await race(lab, commit_of(talk, "b"), second) == (Ok(), Mismatch())


async def test_of_two_commits_for_one_place_the_second_is_behind(lab: PostgresLab) -> None:
    """I1, I4: it had seen the place free before it waited."""
    talk = await begin(lab.store(), "a")
    assert await race(lab, commit_of(talk, "b"), talk.commit("c")) == (Ok(), Ahead(2))
    assert await talk.stored() == ["a", "b"]


async def test_a_commit_behind_a_takeover_is_fenced(lab: PostgresLab) -> None:
    """I1: the lease was its own when it began to wait."""
    talk = await begin(lab.store(), "a")
    takeover = calls.claim(talk.key, "next", BERT, (ANNA.incarnation, talk.lease.epoch), TTL_MS)
    granted, refused = await race(lab, takeover, talk.commit("b"))
    assert isinstance(granted, Granted)
    assert refused == Fenced(BERT, granted.lease.epoch, 1)
    assert await talk.stored() == ["a"]


async def test_a_takeover_behind_a_commit_loads_its_turn(lab: PostgresLab) -> None:
    """I2: what is acknowledged is in the checkpoint that the next epoch starts from."""
    talk = await begin(lab.store(), "a")
    over = (ANNA.incarnation, talk.lease.epoch)
    answer, granted = await race(lab, commit_of(talk, "b"), talk.store.claim(talk.key, "next", BERT, over))
    assert answer == Ok()
    assert isinstance(granted, Granted)
    assert granted.checkpoint == Checkpoint((turn(1, "a"), turn(2, "b")))


async def test_a_takeover_behind_another_is_told_of_it(lab: PostgresLab) -> None:
    """A live holder is never robbed: whom it saw dead is not the holder any more."""
    talk = await begin(lab.store(), "a")
    over = (ANNA.incarnation, talk.lease.epoch)
    granted, held = await race(
        lab, calls.claim(talk.key, "next", BERT, over, TTL_MS), talk.store.claim(talk.key, "late", CARL, over)
    )
    assert held == Held(BERT, granted.lease.epoch)


async def test_of_two_claims_that_begin_a_session_the_second_is_told_of_the_first(lab: PostgresLab) -> None:
    """There is no row yet whose lock it could wait for: it waits for the first one's insert."""
    key, store = fresh_key(), lab.store()
    granted, held = await race(lab, calls.claim(key, "first", ANNA, None, TTL_MS), store.claim(key, "second", BERT))
    assert held == Held(ANNA, granted.lease.epoch)


@pytest.mark.parametrize("call", ["claim", "commit", "check", "release"])
async def test_a_call_behind_the_begin_of_a_sessions_next_life_is_of_that_life(lab: PostgresLab, call: str) -> None:
    """The row is the same, so whoever waited for it finds the new life, and not that there is nothing."""
    old = await begin(lab.store(), "a")
    await lab.expire(old.key)
    late = {
        "claim": old.store.claim(old.key, "late", CARL),
        "commit": old.store.commit(old.key, old.lease, "a", turn(2, "b"), None),
        "check": old.check(),
        "release": old.release(),
    }
    granted, answer = await race(lab, calls.claim(old.key, "next", BERT, None, TTL_MS), late.pop(call))
    for unused in late.values():
        unused.close()
    assert granted.lease.born > old.lease.born
    epoch = granted.lease.epoch
    assert answer == (Held(BERT, epoch) if call == "claim" else Fenced(BERT, epoch, 0))


async def test_a_commit_behind_a_release_is_fenced_and_a_release_behind_a_commit_is_not(lab: PostgresLab) -> None:
    one, other = await begin(lab.store(), "a"), await begin(lab.store(), "a")
    release = calls.release(one.key, one.lease, 1, "a")
    assert await race(lab, release, one.commit("b")) == (Ok(), Fenced(None, one.lease.epoch, 1))
    assert await race(lab, commit_of(other, "b"), other.release()) == (Ok(), Ok())
    assert await other.stored() == ["a", "b"]


async def test_a_claim_behind_a_release_is_granted_and_a_stale_release_behind_a_claim_frees_nothing(
    lab: PostgresLab,
) -> None:
    talk = await begin(lab.store(), "a")
    answer, granted = await race(
        lab, calls.release(talk.key, talk.lease, 1, "a"), talk.store.claim(talk.key, "next", BERT)
    )
    assert answer == Ok()
    assert isinstance(granted, Granted)
    over = (BERT.incarnation, granted.lease.epoch)
    late = talk.store.release(talk.key, granted.lease, 1, "a")
    taken, refused = await race(lab, calls.claim(talk.key, "third", CARL, over, TTL_MS), late)
    assert refused == Fenced(CARL, taken.lease.epoch, 1)


@pytest.mark.parametrize("call", ["claim", "commit", "check", "release"])
async def test_a_call_behind_a_delete_finds_the_tombstone(lab: PostgresLab, call: str) -> None:
    talk = await begin(lab.store(), "a")
    late = {
        "claim": talk.store.claim(talk.key, "late", CARL),
        "commit": talk.commit("b"),
        "check": talk.check(),
        "release": talk.release(),
    }
    answers = await race(lab, calls.delete(talk.key, 60_000), late.pop(call))
    for unused in late.values():
        unused.close()
    assert answers == (Buried(ANNA), Deleted())


async def test_a_commit_behind_a_sweep_of_its_session_finds_it_expired(lab: PostgresLab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.expire(talk.key)
    _, answer = await race(lab, calls.sweep(), talk.commit("b"))
    assert answer == Fenced(None, 0, 0)


async def test_what_expires_while_a_call_waits_for_it_has_expired(lab: PostgresLab) -> None:
    """The clock is read after the wait: at the beginning of the transaction the session was still there."""
    talk = await begin(lab.store(), "a")
    lab.sql.execute("UPDATE test.sessions SET expires_ms = $1", lab.now_ms() + 300)
    async with lab.locked(talk.key):
        waiting = asyncio.create_task(talk.commit("b"))
        await lab.until_waiting(1)
        await lab.pass_ms(300)
    assert await waiting == Fenced(None, 0, 0)


async def test_a_claim_behind_a_sweep_of_its_session_begins_it_anew(lab: PostgresLab) -> None:
    talk = await begin(lab.store(), "a")
    await lab.expire(talk.key)
    _, granted = await race(lab, calls.sweep(), talk.store.claim(talk.key, "next", BERT))
    assert isinstance(granted, Granted)
    assert granted.checkpoint == Checkpoint()
    assert granted.lease.epoch > talk.lease.epoch


async def test_a_check_behind_a_commit_knows_its_turn(lab: PostgresLab) -> None:
    """The log is looked at after the wait: else a turn that has just come would seem to be lost."""
    talk = await begin(lab.store(), "a")
    ahead = talk.store.check(talk.key, talk.lease, 2, "b")
    assert await race(lab, commit_of(talk, "b"), ahead) == (Ok(), Ok())
    assert await talk.store.check(talk.key, talk.lease, 3, "c") == Regressed(2)


async def test_a_check_behind_two_commits_knows_the_turn_that_is_not_the_last(lab: PostgresLab) -> None:
    """The lock brings the newest lease, but only a look at the log after it finds a turn that the wait has brought."""
    talk = await begin(lab.store(), "a")
    one = commit_of(talk, "b")
    other = calls.commit(talk.key, talk.lease, "b", turn(3, "c"), None, TTL_MS)
    ahead = talk.store.check(talk.key, talk.lease, 2, "b")
    assert await race(lab, other, ahead, before=one) == (Ok(), Ok())


async def test_a_note_behind_a_takeover_accuses_nobody(lab: PostgresLab) -> None:
    second = await take_over(await begin(lab.store(), "a"), BERT)
    over = (BERT.incarnation, second.lease.epoch)
    granted, refused = await race(
        lab, calls.claim(second.key, "third", CARL, over, TTL_MS), second.check(running="killer")
    )
    assert refused == Fenced(CARL, granted.lease.epoch, 1)
    third = Talk(second.store, second.key, CARL, "third", ["a"], granted)
    fourth = await take_over(third, ANNA)
    assert fourth.granted is not None
    assert fourth.granted.suspects == ()


async def test_reading_waits_for_nobody_and_sees_one_moment(lab: PostgresLab) -> None:
    talk = await begin(lab.store(), "a")
    async with lab.transaction() as connection:
        call = commit_of(talk, "b")
        await connection.fetchrow(FUNCTIONS.statement(SCHEMA, call.function), *call.arguments)
        assert await talk.store.read(talk.key, 0, 10) == Turns((turn(1, "a"),), 1)
    assert await talk.store.read(talk.key, 0, 10) == Turns((turn(1, "a"), turn(2, "b")), 2)


# --- many at one moment -----------------------------------------------------------------------------------------


async def test_among_hosts_that_fight_for_a_session_every_acknowledged_turn_stays_and_none_is_doubled(
    lab: PostgresLab,
) -> None:
    """I1, I2, I3: by chance, over connections of their own, with takeovers, releases and repeats."""
    key, acknowledged = fresh_key(), list[str]()

    async def fight(number: int) -> None:
        host = (ANNA, BERT, CARL)[number % 3]
        store, over = lab.store(), None
        for round_ in range(12):
            answer = await store.claim(key, f"token-{number}-{round_}", host, over)
            if isinstance(answer, Held):
                over = (answer.holder.incarnation, answer.epoch)
                continue
            assert isinstance(answer, Granted)
            log = [turn.turn_id for turn in answer.checkpoint.turns]
            name = f"t-{number}-{round_}"
            attempt = turn(len(log) + 1, name)
            told = await asyncio.gather(
                *(store.commit(key, answer.lease, log[-1] if log else "", attempt, None) for _ in range(2))
            )
            acknowledged.extend([name] * any(reply == Ok() for reply in told))
            assert told.count(Ok()) <= 1
            if round_ % 3 == 0:
                await store.release(key, answer.lease, len(log), log[-1] if log else "")

    await asyncio.gather(*(fight(number) for number in range(6)))
    page = await lab.store().read(key, 0, 1000)
    assert isinstance(page, Turns)
    stored = [turn.turn_id for turn in page.turns]
    assert sorted(stored) == sorted(acknowledged)
    assert [turn.turn_seq for turn in page.turns] == list(range(1, len(stored) + 1))
    assert len(stored) > 6


@asynccontextmanager
async def _table_locked(lab: PostgresLab) -> AsyncIterator[None]:
    async with lab.transaction() as connection:
        await connection.execute(f"SELECT FROM {SCHEMA}.ring FOR UPDATE")
        yield


async def test_a_beat_waits_for_no_change_of_the_table(lab: PostgresLab) -> None:
    """A host must not seem dead because another one joins, or hangs while it does."""
    membership = lab.membership()
    membership.join("inc-1", "a:1", 1, 1, 4)
    async with _table_locked(lab):
        reply = await asyncio.to_thread(membership.beat, "inc-1", "a:1", HostState.SERVING, -1)
        assert reply.listed
        joining = asyncio.create_task(asyncio.to_thread(lab.membership().join, "inc-2", "a:2", 1, 1, 4))
        await lab.until_waiting(1)
        assert set((await asyncio.to_thread(membership.table)).members) == {"slot-0"}
    assert set((await joining).members) == {"slot-0", "slot-1"}
