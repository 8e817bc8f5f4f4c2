"""What DynamoDB alone can get wrong: requests, sizes of items, races between several writes, clocks, what is left."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from actors.errors import Misconfigured, Outcome, StoreFull, StoreUnavailable
from actors.model import SCHEMA_VERSION, Checkpoint, HostState
from actors.settings import Settings
from actors.stores.base import Buried, Deleted, Fenced, Granted, Held, Missing, Ok, Replayed, Turns
from actors.stores.dynamodb import items
from actors.stores.dynamodb.errors import Contested
from actors.stores.dynamodb.sweep import AFTER_MS, sweep
from deploy import sweep as sweep_program
from tests.contract.dynamodb_lab import Counted, DynamoLab
from tests.contract.lab import ANNA, BERT, CARL, TTL_S, Talk, begin, fresh_key, turn

DELETE = "k:delete"
TEXT = random.Random(1).randbytes(900_000).decode("latin-1")
"""1.3 MB of UTF-8 that no compression makes small."""


async def sent_during(lab: DynamoLab, *calls: Callable[[], Awaitable[Any]]) -> list[list[str]]:
    """The requests of each of these calls."""
    sent = []
    for call in calls:
        before = [len(transport.sent) for transport in lab.transports]
        await call()
        new = [transport.sent[at:] for transport, at in zip(lab.transports, before, strict=True)]
        sent.append([operation for some in new for operation in some])
    return sent


def interrupted(lab: DynamoLab, before: str, act: Callable[[], Awaitable[Any]]) -> None:
    """Once, before the next request of that kind of the lab's first store: ``act``, and then the request goes on."""
    transport = lab.transports[0]
    call = transport.call

    async def after_act(operation: str, **request: Any) -> dict[str, Any]:
        if operation == before:
            transport.call = call  # type: ignore[method-assign]
            await act()
        return await call(operation, **request)

    transport.call = after_act  # type: ignore[method-assign]


def dies(lab: DynamoLab, before: str) -> None:
    """The lab's first store is not heard of any more from the next request of that kind on."""

    async def die() -> None:
        await lab.transports[0].aclose()

    interrupted(lab, before, die)


# --- requests ---------------------------------------------------------------------------------------------------


async def test_a_turn_on_a_resident_session_costs_one_request_however_long_the_log(dynamo_lab: DynamoLab) -> None:
    talk = await begin(dynamo_lab.store(), *(f"k:{number}" for number in range(8)))
    sent = await sent_during(dynamo_lab, lambda: talk.commit("b"), lambda: talk.commit("c", b'{"n":1}'))
    assert sent == [["transact_write_items"]] * 2


async def test_every_other_call_costs_what_the_readme_says(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    talk = await begin(store, "a")
    new = Talk(store, fresh_key())
    sent = await sent_during(
        dynamo_lab,
        new.claim,
        talk.claim,
        talk.check,
        lambda: talk.check(running="b"),
        lambda: store.read(talk.key, 0, 10),
        lambda: store.commit(talk.key, talk.lease, "", turn(1, "a"), None),
        talk.release,
        lambda: store.delete(talk.key, DELETE),
    )
    assert sent == [
        ["get_item", "put_item"],
        ["get_item", "put_item", "query"],
        ["get_item"],
        ["transact_get_items", "put_item"],
        ["get_item", "query"],
        ["transact_write_items", "transact_get_items", "query"],
        ["get_item", "put_item"],
        ["get_item", "put_item", "query", "batch_write_item"],
    ]


async def test_the_queue_has_an_end(dynamo_lab: DynamoLab) -> None:
    """I6: beyond it a call fails at once, and waiting for a place is bounded too."""
    settings = dynamo_lab.settings.model_copy(update={"connections_max": 1, "waiting_max": 1, "timeout_s": 0.05})
    transport = Counted(dynamo_lab.address, settings)
    await transport._places.take()
    waiting = asyncio.create_task(transport.call("get_item"))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="waiting_max"):
        await transport.call("get_item")
    with pytest.raises(StoreUnavailable, match="queueing"):
        await waiting
    await transport.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await transport.call("get_item")


# --- sizes ------------------------------------------------------------------------------------------------------


async def test_a_turn_larger_than_an_item_is_kept_in_parts_and_comes_back_whole(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    talk = await begin(store, "a")
    large = turn(2, "b", reply=TEXT)
    assert await store.commit(talk.key, talk.lease, "a", large, b"{}") == Ok()
    await talk.claim()
    await talk.say("c")
    names = [item["sk"]["S"] for item in dynamo_lab.stored(dynamo_lab.names.session(talk.key)) if "parts" in item]
    assert len(names) > 4
    assert (await talk.claim()).checkpoint == Checkpoint((turn(1, "a"), large, turn(3, "c")), b"{}")
    assert await store.read(talk.key, 1, 2) == Turns((large,), 3), "a page ends before it is too large"
    assert await store.commit(talk.key, talk.lease, "a", large, None) == Replayed(large)


async def test_a_turn_larger_than_a_transaction_is_refused_as_not_done(dynamo_lab: DynamoLab) -> None:
    """I10."""
    talk = await begin(dynamo_lab.store(), "a")
    huge = random.Random(2).randbytes(4_000_000).decode("latin-1")
    with pytest.raises(StoreFull, match="in one transaction") as refused:
        await talk.commit("b", reply=huge)
    assert refused.value.outcome is Outcome.NOT_DONE
    assert await talk.commit("b") == Ok()


async def test_a_state_larger_than_an_item_is_refused_as_not_done(dynamo_lab: DynamoLab) -> None:
    """I10: the whole transaction is, the turn too."""
    talk = await begin(dynamo_lab.store(), "a")
    with pytest.raises(StoreFull) as refused:
        await talk.commit("b", b"x" * 420_000)
    assert refused.value.outcome is Outcome.NOT_DONE
    assert await talk.stored() == ["a"]


# --- races ------------------------------------------------------------------------------------------------------


async def test_a_claim_that_finds_the_lease_taken_in_between_looks_again(dynamo_lab: DynamoLab) -> None:
    """I1: decided and written is one step."""
    store, other = dynamo_lab.store(), dynamo_lab.store()
    rival = Talk(other, fresh_key(), BERT)
    interrupted(dynamo_lab, "put_item", rival.claim)
    assert await store.claim(rival.key, "token", ANNA) == Held(BERT, rival.lease.epoch)
    assert await rival.commit("a") == Ok()


async def test_a_claim_that_is_taken_over_while_it_loads_is_told_so(dynamo_lab: DynamoLab) -> None:
    """What it loads must be what its epoch starts from: a turn with a newer state has come since."""
    store = dynamo_lab.store()
    talk = await begin(dynamo_lab.store(), "a")
    await talk.release()

    async def take_it() -> None:
        holder = await dynamo_lab.transports[1].call(
            "get_item",
            TableName=dynamo_lab.table,
            Key=items.key_of(dynamo_lab.names.session(talk.key), items.LEASE),
        )
        rival = Talk(talk.store, talk.key, CARL)
        await rival.claim(over=(ANNA.incarnation, items.record_in(holder["Item"]).epoch))
        await rival.commit("b", b'{"n":2}')

    interrupted(dynamo_lab, "query", take_it)
    answer = await store.claim(talk.key, "token", ANNA)
    assert isinstance(answer, Held)
    assert answer.holder == CARL


async def test_whoever_loads_a_session_that_is_deleted_meanwhile_is_told_so(dynamo_lab: DynamoLab) -> None:
    store, other = dynamo_lab.store(), dynamo_lab.store()
    calls: tuple[Callable[[Talk], Awaitable[Any]], ...] = (
        lambda talk: store.claim(talk.key, "token", ANNA),
        lambda talk: store.read(talk.key, 0, 10),
        lambda talk: store.commit(talk.key, talk.lease, "", turn(1, "a"), None),
    )
    for call in calls:
        talk = await begin(other, "a", "b")
        interrupted(dynamo_lab, "query", partial(other.delete, talk.key, DELETE))
        assert await call(talk) == Deleted()


async def test_a_commit_that_is_overtaken_by_a_takeover_is_fenced(dynamo_lab: DynamoLab) -> None:
    """I1: whatever was true when it was sent."""
    store, other = dynamo_lab.store(), dynamo_lab.store()
    talk = await begin(store, "a")
    rival = Talk(other, talk.key, BERT)
    interrupted(dynamo_lab, "transact_write_items", lambda: rival.claim((ANNA.incarnation, talk.lease.epoch)))
    assert await talk.commit("b") == Fenced(BERT, rival.lease.epoch, 1)


async def test_a_commit_that_was_cancelled_by_a_conflict_is_sent_again(dynamo_lab: DynamoLab) -> None:
    """DynamoDB cancels a transaction when another one of the same item is under way, whatever comes of that one."""
    talk = await begin(dynamo_lab.store(), "a")
    transport = dynamo_lab.transports[0]
    call, conflicts = transport.call, 3

    async def busy(operation: str, **request: Any) -> dict[str, Any]:
        nonlocal conflicts
        if operation.startswith("transact_") and conflicts:
            conflicts -= 1
            raise Contested("TransactionConflict")
        return await call(operation, **request)

    transport.call = busy  # type: ignore[method-assign]
    assert await talk.commit("b") == Ok()
    assert conflicts == 0
    assert await talk.stored() == ["a", "b"]


async def test_whoever_never_finds_the_session_at_rest_gives_up_and_says_unknown(dynamo_lab: DynamoLab) -> None:
    """I6, I10."""
    talk = await begin(dynamo_lab.store(), "a")
    other = dynamo_lab.transports[0]
    call = other.call

    async def restless(operation: str, **request: Any) -> dict[str, Any]:
        if operation == "put_item":
            request["ExpressionAttributeValues"] = {":rev": items.number(0)}
        return await call(operation, **request)

    other.call = restless  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="Too many") as lost:
        await talk.release()
    assert lost.value.outcome is Outcome.UNKNOWN


async def test_a_damaged_log_is_an_error_and_not_a_shorter_talk(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    talk = await begin(store, "a", "b")
    gone = items.key_of(dynamo_lab.names.session(talk.key), items.turn_name(talk.lease.born, 1))
    dynamo_lab.client.delete_item(TableName=dynamo_lab.table, Key=gone)
    for call in (talk.claim(), store.read(talk.key, 0, 5), store.commit(talk.key, talk.lease, "", turn(1, "a"), None)):
        with pytest.raises(StoreUnavailable, match="damaged"):
            await call


# --- what is left -----------------------------------------------------------------------------------------------


async def test_a_deleted_session_keeps_neither_log_nor_ids_nor_state(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    talk = await begin(store, *(f"k:{number}" for number in range(14)))
    await talk.commit("last", b'{"n":1}')
    await store.delete(talk.key, DELETE)
    (tombstone,) = dynamo_lab.stored(dynamo_lab.names.session(talk.key))
    record = items.record_in(tombstone)
    assert (record.epoch, record.holder, record.deleted) == (talk.lease.epoch + 1, ANNA, DELETE)
    assert int(tombstone[items.EXPIRE_AT]["N"]) == record.expires_ms // 1000 + 1, "DynamoDB clears it away itself"


async def test_a_delete_that_dies_before_it_has_cleared_the_log_has_deleted_and_its_repeat_clears(
    dynamo_lab: DynamoLab,
) -> None:
    """I9: the tombstone is the deletion."""
    talk = await begin(dynamo_lab.store(), "a", "b")
    dies(dynamo_lab, "batch_write_item")
    with pytest.raises(StoreUnavailable):
        await talk.store.delete(talk.key, DELETE)
    talk.store = dynamo_lab.store()
    assert await talk.commit("c") == Deleted()
    assert len(dynamo_lab.stored(dynamo_lab.names.session(talk.key))) == 5
    assert await talk.store.delete(talk.key, DELETE) == Buried(ANNA)
    assert len(dynamo_lab.stored(dynamo_lab.names.session(talk.key))) == 1


async def test_what_is_left_of_an_expired_life_does_not_get_into_the_next(dynamo_lab: DynamoLab) -> None:
    talk = await begin(dynamo_lab.store(), "a")
    await talk.commit("b", b'{"n":1}')
    dynamo_lab._now_ms += int(TTL_S * 1000)
    anew = Talk(talk.store, talk.key, BERT)
    assert (await anew.claim()).checkpoint == Checkpoint()
    assert await anew.commit("a") == Ok()
    assert await anew.stored() == ["a"]
    assert await talk.check() == Fenced(BERT, anew.lease.epoch, 1)


async def test_sweeping_leaves_nothing_of_what_has_ended_and_all_of_what_lives(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    expired, lost, buried, anew = [await begin(store, "a", "b") for _ in range(4)]
    await expired.commit("c", b"{}")
    await dynamo_lab.expire(lost.key)
    for_ever = await begin(dynamo_lab.store(ttl_s=0), "a")
    dynamo_lab._now_ms += int(TTL_S * 1000)
    dynamo_lab.membership().join("inc-1", "a:1", 1, 1, 4)
    again = await begin(store, "x", key=anew.key)
    lives = await begin(store, "a")
    await begin(store, "a", key=buried.key)
    dies(dynamo_lab, "batch_write_item")
    with pytest.raises(StoreUnavailable):
        await store.delete(buried.key, DELETE)
    store = dynamo_lab.store()
    for talk in (again, lives, for_ever):
        talk.store = store
    before = [await talk.claim() for talk in (again, lives, for_ever)]
    await sweep(dynamo_lab.transports[-1], dynamo_lab.names.prefix, dynamo_lab.now_ms())
    assert dynamo_lab.stored(dynamo_lab.names.session(expired.key)), "not a day has passed"
    await sweep(dynamo_lab.transports[-1], dynamo_lab.names.prefix, dynamo_lab.now_ms() + AFTER_MS)
    partitions = {item["pk"]["S"] for item in dynamo_lab.stored()}
    sessions = {dynamo_lab.names.session(talk.key) for talk in (again, lives, for_ever, buried)}
    assert partitions == sessions | {dynamo_lab.names.members}
    assert len(dynamo_lab.stored(dynamo_lab.names.session(buried.key))) == 1
    assert len(dynamo_lab.stored(dynamo_lab.names.session(again.key))) == 3
    assert [await talk.claim() for talk in (again, lives, for_ever)] == before


async def test_sweeping_spares_a_session_that_begins_again_while_it_is_swept(dynamo_lab: DynamoLab) -> None:
    store = dynamo_lab.store()
    old = await begin(dynamo_lab.store(), "a")
    dynamo_lab._now_ms += int(TTL_S * 1000) + AFTER_MS + 1
    anew = Talk(old.store, old.key, BERT)
    interrupted(dynamo_lab, "delete_item", anew.claim)
    await sweep(dynamo_lab.transports[0], dynamo_lab.names.prefix, dynamo_lab.now_ms())
    assert await anew.commit("x") == Ok()
    assert await Talk(store, old.key).stored() == ["x"]


async def test_the_sweep_is_a_program(dynamo_lab: DynamoLab) -> None:
    talk = await begin(dynamo_lab.store(), "a")
    settings = Settings.load({"store": dynamo_lab.settings.model_dump()})
    said = await sweep_program.run(settings)
    assert re.fullmatch(r"3 of \d+ items were of sessions that have ended, and are deleted\.", said)
    assert await talk.store.read(talk.key, 0, 1) == Missing()
    with pytest.raises(Misconfigured, match="no DynamoDB table"):
        await sweep_program.run(Settings.load())


# --- clocks -----------------------------------------------------------------------------------------------------


async def test_a_host_whose_clock_is_behind_begins_no_session_below_the_epoch_that_was(dynamo_lab: DynamoLab) -> None:
    """I1: epochs grow by counting; a clock only says where a session that nobody knows begins."""
    talk = await begin(dynamo_lab.store(ttl_s=0.001), "a")
    dynamo_lab._now_ms += 1
    pk = dynamo_lab.names.session(talk.key)
    ahead = replace(items.record_in(dynamo_lab.item(pk, items.LEASE)), epoch=talk.lease.epoch + 10_000_000)
    dynamo_lab.client.put_item(TableName=dynamo_lab.table, Item=items.lease_item(pk, ahead))
    granted = await talk.store.claim(talk.key, "token", BERT)
    assert isinstance(granted, Granted)
    assert granted.lease.epoch == granted.lease.born == ahead.epoch + 1


async def test_a_host_whose_clock_is_ahead_ends_a_session_early_and_its_holder_is_fenced(
    dynamo_lab: DynamoLab,
) -> None:
    """I1: a wrong clock costs a session its life, and never gives it two writers."""
    talk = await begin(dynamo_lab.store(), "a")
    hasty = dynamo_lab.store()
    hasty._now_ms = lambda: dynamo_lab.now_ms() + int(TTL_S * 1000)
    assert await hasty.read(talk.key, 0, 1) == Missing()
    granted = await hasty.claim(talk.key, "token", BERT)
    assert isinstance(granted, Granted)
    assert await talk.commit("b") == Fenced(BERT, granted.lease.epoch, 0)
    assert await talk.stored() == []


# --- membership -------------------------------------------------------------------------------------------------


def test_of_two_changes_of_the_table_at_one_moment_none_is_lost(dynamo_lab: DynamoLab) -> None:
    membership = dynamo_lab.membership()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda at: membership.join(f"inc-{at}", f"a:{at}", 1, 1, 64), range(6)))
        first = membership.table().ring_version
        list(threads.map(lambda at: membership.leave(f"inc-{at}", gone=True), range(6)))
    assert membership.table().ring_version == first + 6
    assert membership.table().members == {}


def test_a_host_that_leaves_for_good_takes_its_beats_along_in_the_same_step(dynamo_lab: DynamoLab) -> None:
    membership = dynamo_lab.membership()
    membership.join("inc-1", "a:1", 1, 1, 4)
    membership.beat("inc-1", "a:1", HostState.SERVING, -1)
    membership.leave("inc-1", gone=True)
    assert [item["sk"]["S"] for item in dynamo_lab.stored(dynamo_lab.names.members)] == [items.ROSTER]


# --- what newer programs wrote ------------------------------------------------------------------------------------


async def test_a_session_of_a_newer_program_is_refused_and_not_claimed(dynamo_lab: DynamoLab) -> None:
    talk = await begin(dynamo_lab.store(), "a")
    await talk.release()
    pk = dynamo_lab.names.session(talk.key)
    newer = replace(items.record_in(dynamo_lab.item(pk, items.LEASE)), schema_version=SCHEMA_VERSION + 1)
    dynamo_lab.client.put_item(TableName=dynamo_lab.table, Item=items.lease_item(pk, newer))
    with pytest.raises(Misconfigured, match="schema_version"):
        await talk.claim()
    assert items.record_in(dynamo_lab.item(pk, items.LEASE)) == newer
