"""What MongoDB alone can get wrong: requests, races, the size of a document, starting on a server that isn't fit.

Against mongomock-ng, unless ``TEST_MONGODB_URI`` names a server: then these and the whole suite run there too.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DocumentTooLarge,
    ExecutionTimeout,
    OperationFailure,
    ServerSelectionTimeoutError,
    WriteError,
)

from actors.errors import Misconfigured, Outcome, StoreFull, StoreUnavailable
from actors.model import SCHEMA_VERSION
from actors.settings import Settings
from actors.stores import open_membership, open_store, unfit_store
from actors.stores.base import Deleted, Fenced, Held, Ok, Replayed
from actors.stores.mongodb import documents, fit
from actors.stores.mongodb.errors import as_store_error
from tests.contract.lab import ANNA, BERT, TTL_S, Talk, begin, fresh_key, turn
from tests.contract.mongodb_lab import MongoLab
from tests.servers import free_port

URL = "mongodb://ann:hush@127.0.0.1:{port}/talks"


def calls_during(lab: MongoLab) -> list[str]:
    """What was called since this was asked last."""
    calls = list(lab.calls)
    lab.calls.clear()
    return calls


def interrupted(lab: MongoLab, before: str, act: Callable[[], Any]) -> None:
    """Once, before the next call of that name on the sessions: ``act``, and then the call goes on."""
    method = getattr(lab.sessions, before)

    def after_act(*args: Any, **kwargs: Any) -> Any:
        delattr(lab.sessions, before)
        act()
        return method(*args, **kwargs)

    setattr(lab.sessions, before, after_act)


# --- requests ---------------------------------------------------------------------------------------------------


async def test_a_turn_on_a_resident_session_costs_one_request_however_long_the_log(mongo_lab: MongoLab) -> None:
    talk = await begin(mongo_lab.store(), *(f"k:{number}" for number in range(20)))
    calls_during(mongo_lab)
    await talk.commit("b")
    await talk.commit("c", b'{"n":1}')
    assert calls_during(mongo_lab) == ["find_one_and_update"] * 2


async def test_every_other_call_costs_what_the_readme_says(mongo_lab: MongoLab) -> None:
    store = mongo_lab.store()
    talk = await begin(store, "a")
    calls_during(mongo_lab)
    new = Talk(store, fresh_key())
    for call, expected in (
        (new.claim, ["find_one", "insert_one"]),
        (talk.claim, ["find_one", "find_one_and_update"]),
        (talk.check, ["find_one"]),
        (lambda: talk.check(running="b"), ["find_one", "find_one_and_update"]),
        (lambda: store.read(talk.key, 0, 10), ["find_one"]),
        (
            lambda: store.commit(talk.key, talk.lease, "", turn(1, "a"), None),
            ["find_one_and_update", "find_one", "find_one"],
        ),
        (talk.release, ["find_one", "find_one_and_update"]),
        (lambda: store.delete(talk.key, "k:delete"), ["find_one", "find_one_and_update"]),
    ):
        await call()
        assert calls_during(mongo_lab) == expected


# --- races ------------------------------------------------------------------------------------------------------


async def test_a_claim_that_finds_the_lease_taken_in_between_looks_again(mongo_lab: MongoLab) -> None:
    """I1: decided and written is one step."""
    store = mongo_lab.store()
    for before in ("insert_one", "find_one_and_update"):
        key = fresh_key()
        if before == "find_one_and_update":
            talk = await begin(store, "a", key=key)
            await talk.release()
        rival = Talk(mongo_lab.store(), key, BERT)
        interrupted(mongo_lab, before, lambda rival=rival: asyncio.run(rival.claim()))  # type: ignore[misc]
        assert await store.claim(key, "token", ANNA) == Held(BERT, rival.lease.epoch)
        assert await rival.check() == Ok()


async def test_a_commit_that_is_overtaken_by_a_takeover_is_fenced(mongo_lab: MongoLab) -> None:
    """I1: whatever was true when it was sent."""
    talk = await begin(mongo_lab.store(), "a")
    rival = Talk(mongo_lab.store(), talk.key, BERT)
    over = (ANNA.incarnation, talk.lease.epoch)
    interrupted(mongo_lab, "find_one_and_update", lambda: asyncio.run(rival.claim(over)))
    assert await talk.commit("b") == Fenced(BERT, rival.lease.epoch, 1)


async def test_a_replay_whose_session_is_deleted_before_the_turn_is_read_says_deleted(mongo_lab: MongoLab) -> None:
    talk = await begin(mongo_lab.store(), "a")
    judged = talk.store._judged  # type: ignore[attr-defined]

    def then_deleted(*args: Any) -> Any:
        answer = judged(*args)
        talk.store._judged = judged  # type: ignore[attr-defined]
        asyncio.run(mongo_lab.store().delete(talk.key, "k:delete"))
        return answer

    talk.store._judged = then_deleted  # type: ignore[attr-defined]
    assert await talk.store.commit(talk.key, talk.lease, "", turn(1, "a"), None) == Deleted()


async def test_whoever_never_finds_the_session_at_rest_gives_up_and_says_unknown(mongo_lab: MongoLab) -> None:
    """I6, I10."""
    talk = await begin(mongo_lab.store(), "a")
    mongo_lab.sessions.find_one_and_update = lambda *_, **__: None  # type: ignore[attr-defined]
    for call in (talk.release, lambda: talk.commit("b")):
        with pytest.raises(StoreUnavailable, match="Too many") as lost:
            await call()
        assert lost.value.outcome is Outcome.UNKNOWN


async def test_a_damaged_log_is_an_error_and_not_a_shorter_talk(mongo_lab: MongoLab) -> None:
    talk = await begin(mongo_lab.store(), "a", "b")
    mongo_lab.sessions.update_one({"_id": documents.id_of(talk.key)}, {"$pop": {"log": -1}})
    with pytest.raises(StoreUnavailable, match="damaged"):
        await talk.claim()


async def test_a_caller_that_is_cancelled_does_not_stop_what_was_sent(mongo_lab: MongoLab) -> None:
    """I10: the commit of a caller that went away is applied, and its place is free again."""
    store = mongo_lab.store()
    talk = await begin(store, "a")
    begun, go_on = threading.Event(), threading.Event()
    interrupted(mongo_lab, "find_one_and_update", lambda: (begun.set(), go_on.wait(10)))
    leaving = asyncio.create_task(talk.commit("b"))
    await asyncio.to_thread(begun.wait, 10)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()
    await talk.until_stored("a", "b")
    assert await store.commit(talk.key, talk.lease, "a", turn(2, "b"), None) == Replayed(turn(2, "b"))


async def test_closing_lets_nobody_in_any_more(mongo_lab: MongoLab) -> None:
    store = mongo_lab.store()
    talk = await begin(store, "a")
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await talk.check()


# --- what is kept -------------------------------------------------------------------------------------------------


async def test_a_deleted_session_keeps_neither_log_nor_state(mongo_lab: MongoLab) -> None:
    talk = await begin(mongo_lab.store(), "a")
    await talk.commit("b", b'{"n":1}')
    await talk.store.delete(talk.key, "k:delete")
    document = mongo_lab.sessions.find_one({"_id": documents.id_of(talk.key)})
    assert (document["log"], document["state"]) == ([], b"")
    assert document["epoch"] == talk.lease.epoch + 1


async def test_the_server_clears_a_session_away_a_day_after_it_has_expired(mongo_lab: MongoLab) -> None:
    index = mongo_lab.sessions.index_information()["expires_at_1"]
    assert index["expireAfterSeconds"] == documents.CLEARED_AFTER_S == 86_400
    talk = await begin(mongo_lab.store(), "a")
    for_ever = await begin(mongo_lab.store(ttl_s=0), "a")
    when = [
        mongo_lab.sessions.find_one({"_id": documents.id_of(key)})["expires_at"] for key in (talk.key, for_ever.key)
    ]
    expected = datetime.fromtimestamp(mongo_lab.now_ms() / 1000 + TTL_S, UTC)
    assert abs(when[0].replace(tzinfo=UTC) - expected) < timedelta(milliseconds=2)
    assert when[1] is None


async def test_a_session_of_a_newer_program_is_refused_and_not_claimed(mongo_lab: MongoLab) -> None:
    talk = await begin(mongo_lab.store(), "a")
    await talk.release()
    newer = {"$set": {"schema_version": SCHEMA_VERSION + 1}}
    mongo_lab.sessions.update_one({"_id": documents.id_of(talk.key)}, newer)
    with pytest.raises(Misconfigured, match="schema_version"):
        await talk.claim()
    assert mongo_lab.sessions.find_one({"_id": documents.id_of(talk.key)})["incarnation"] is None


async def test_a_host_whose_clock_is_behind_begins_no_session_below_the_epoch_that_was(mongo_lab: MongoLab) -> None:
    """I1: epochs grow by counting; a clock only says where a session that nobody knows begins."""
    talk = await begin(mongo_lab.store(ttl_s=0.001), "a")
    mongo_lab._now_ms += 1
    ahead = talk.lease.epoch + 10_000_000
    mongo_lab.sessions.update_one({"_id": documents.id_of(talk.key)}, {"$set": {"epoch": ahead}})
    anew = Talk(talk.store, talk.key, BERT)
    await anew.claim()
    assert anew.lease.epoch == anew.lease.born == ahead + 1
    assert anew.log == []


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised", "outcome"),
    [
        (AutoReconnect("connection closed"), StoreUnavailable, Outcome.UNKNOWN),
        (ServerSelectionTimeoutError("no primary, Timeout: 2s, Topology: secrets"), StoreUnavailable, Outcome.UNKNOWN),
        (ExecutionTimeout("operation exceeded time limit", 50), StoreUnavailable, Outcome.UNKNOWN),
        (OperationFailure("not primary", 10107), StoreUnavailable, Outcome.UNKNOWN),
        (OperationFailure("not authorized", 13), StoreUnavailable, Outcome.UNKNOWN),
        (DocumentTooLarge("BSON document too large"), StoreFull, Outcome.NOT_DONE),
        (WriteError("Resulting document after update is larger than 16777216", 17419), StoreFull, Outcome.NOT_DONE),
        (OperationFailure("no space left", 14031), StoreFull, Outcome.NOT_DONE),
    ],
)
async def test_what_the_client_raises_is_told_as_what_is_known(
    mongo_lab: MongoLab, error: Any, raised: type[StoreUnavailable], outcome: Outcome
) -> None:
    """I10: nothing is called not done that may have been done."""

    def fail() -> None:
        raise error

    talk = await begin(mongo_lab.store(), "a")
    interrupted(mongo_lab, "find_one_and_update", fail)
    with pytest.raises(StoreUnavailable) as failed:
        await talk.commit("b")
    assert type(failed.value) is raised
    assert failed.value.outcome is outcome
    assert "secrets" not in as_store_error(error).detail


# --- starting -----------------------------------------------------------------------------------------------------


def settings_for(url: str, **more: Any) -> Settings:
    session = {"log_bytes_max": documents.LOG_BYTES_MAX, **more.pop("session", {})}
    return Settings.load({"store": {"url": url, "timeout_s": 0.3, **more}, "session": session})


async def refusal(url: str, **more: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        await open_store(settings_for(url, **more))
    assert "\n" not in refused.value.detail
    assert "hush" not in refused.value.detail
    return refused.value.detail


async def test_nobody_listening_is_said_without_the_password() -> None:
    port = free_port()
    url = URL.format(port=port)
    sentence = await refusal(url)
    assert sentence.startswith(f"The store at mongodb://127.0.0.1:{port}/talks can't be reached: ")
    assert (await unfit_store(settings_for(url))).startswith("The store at mongodb://127.0.0.1")
    membership = open_membership(settings_for(url))
    with pytest.raises(StoreUnavailable):
        membership.table()
    membership.close()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://ann:hush@host:port/talks",
        "mongodb://ann:hu@sh@host/talks",
        "mongodb://ann:hush@host/talks?readPreference=sometimes",
        "mongodb://ann:hush@host/talks?reedPreference=primary",
        "mongodb+srv://ann:hush@host:27017/talks",
    ],
)
async def test_a_url_that_is_none_is_said(url: str) -> None:
    assert "store.url isn't one for MongoDB" in await refusal(url)


@pytest.mark.parametrize(
    ("session", "said"),
    [
        ({"log_bytes_max": 64 << 20}, "session.log_bytes_max is 67108864"),
        ({"ttl_s": 500}, "session.ttl_s must exceed"),
    ],
)
async def test_settings_that_mongodb_cannot_keep_are_said(session: dict[str, Any], said: str) -> None:
    assert said in await refusal(URL.format(port=1), session=session)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationFailure("Authentication failed.", 18), "doesn't let us in"),
        (OperationFailure("command find requires authentication", 13), "doesn't let us in"),
        (OperationFailure("node is recovering", 11600), "can't be used"),
        (ConfigurationError("server reports wire version 2"), "can't be used"),
        (ServerSelectionTimeoutError("no servers, Timeout: 2s"), "can't be reached"),
    ],
)
async def test_a_server_that_does_not_let_us_in_is_said(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        @property
        def client(self) -> Any:
            raise error

    monkeypatch.setattr(fit, "_database", lambda *_: Refusing())
    assert said in await refusal(URL.format(port=1))


def hello(age_s: float = 0, **more: Any) -> dict[str, Any]:
    """What the primary of a set says, with a clock that is behind by so much."""
    told = datetime.now(UTC) - timedelta(seconds=age_s)
    return {"isWritablePrimary": True, "setName": "rs0", "localTime": told, **more}


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (hello, "linearizable"),
        (lambda: {"isWritablePrimary": True, "msg": "isdbgrid"}, "linearizable"),
        (lambda: {"isWritablePrimary": True}, "local"),
    ],
)
def test_reads_are_linearizable_where_another_primary_may_take_over(
    answer: Callable[[], dict[str, Any]], level: str
) -> None:
    """A primary that was deposed and doesn't know yet must not tell a holder that its lease stands (I8)."""
    assert fit.judged(answer(), "here").level == level


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"isWritablePrimary": False}, "no primary"),
        ({"age_s": 900}, "clock is +9"),
    ],
)
def test_a_server_that_takes_no_writes_or_has_another_time_is_refused(answer: dict[str, Any], said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        fit.judged(hello(**answer), "here")
    assert said in refused.value.detail


def test_a_single_server_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    fit.judged({"isWritablePrimary": True}, "here", warn=True)
    assert "single server" in caplog.text


def test_what_a_newer_program_or_another_one_wrote_is_refused(mongo_lab: MongoLab) -> None:
    schemas = mongo_lab.database[documents.schemas(mongo_lab.prefix)]
    fit.require_ours(mongo_lab.database, mongo_lab.prefix)
    schemas.update_one({"_id": documents.SCHEMA}, {"$set": {"schema_version": SCHEMA_VERSION + 1}})
    for look in (fit.require_ours, fit.prepare):
        with pytest.raises(Misconfigured, match=f"schema_version {SCHEMA_VERSION + 1}"):
            look(mongo_lab.database, mongo_lab.prefix)
    schemas.replace_one({"_id": documents.SCHEMA}, {"price": 12})
    with pytest.raises(Misconfigured, match="isn't Rehydra's"):
        fit.require_ours(mongo_lab.database, mongo_lab.prefix)


async def test_a_client_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    assert "pip install 'rehydra[mongodb]'" in await refusal(URL.format(port=1))


def test_connections_are_made_to_wait_for_a_majority_and_to_send_once() -> None:
    database = fit.connect("mongodb://127.0.0.1:1/talks?w=1&retryWrites=true", 0.5, 3)
    assert database.name == "talks"
    assert database.write_concern.document == {"w": "majority", "j": True}
    options = database.client.options
    assert (options.retry_writes, options.retry_reads, options.pool_options.max_pool_size) == (False, False, 3)
    assert fit.connect("mongodb://127.0.0.1:1", 0.5, 1).name == fit.DATABASE
    database.client.close()


def test_a_record_comes_back_as_it_was() -> None:
    from actors.stores.lease_rules import Record  # noqa: PLC0415

    record = Record(1, 2, 3, "token", replace(BERT, slot=""), 4, "run", ("a", "b"), "gone", 5, "last", 6, 1)
    assert documents.record_in({"_id": "x", **documents.fields_of(record)}) == record
