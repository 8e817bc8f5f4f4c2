"""What is PostgreSQL's own in the store: one round trip, expiry that somebody sweeps, and its functions' sources."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import SCHEMA_VERSION, Checkpoint, SessionKey, Turn
from actors.stores import postgres_calls as calls
from actors.stores.base import Buried, Deleted, Granted, Missing, Ok, Replayed, Turns
from actors.stores.postgres import PostgresStore
from actors.stores.postgres_functions import FUNCTIONS, OF_SESSIONS, SHARED, SQL_FOLDER, compose
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_schema import RELATIONS
from tests.contract.lab import ANNA, BERT, TOMBSTONE_S, TTL_S, Talk, begin, fresh_key, take_over, turn
from tests.contract.postgres_lab import PostgresLab
from tests.postgres_server import columns

GOLDEN = sorted(Path(__file__).with_name("golden").glob("postgres-v*.sql"))


@pytest_asyncio.fixture
async def postgres_lab(server_url: Callable[[str], str]) -> AsyncIterator[PostgresLab]:
    lab = PostgresLab(server_url("postgres"))
    try:
        yield lab
    finally:
        await lab.aclose()


# --- what a call costs ------------------------------------------------------------------------------------------


@dataclass
class Tap:
    """A wire to the server that writes down what the client sends: each time that it writes, the kinds of messages."""

    url: str = ""
    written: list[str] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str) -> AsyncIterator[Tap]:
        parts, tap = urlsplit(url), cls()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: bool) -> None:
            while data := await reader.read(1 << 20):
                if note:
                    tap.written.append(kinds(data))
                writer.write(data)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind = await asyncio.open_connection(parts.hostname, parts.port)
            with suppress(OSError):
                await asyncio.gather(carry(reader, behind[1], True), carry(behind[0], writer, False))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            tap.url = url.replace(f":{parts.port}/", f":{port}/") + "?sslmode=disable"
            yield tap


def kinds(data: bytes) -> str:
    """The kinds of the messages in ``data``: a letter each (PostgreSQL documentation, "Message Formats")."""
    found = ""
    while data:
        length = int.from_bytes(data[1:5], "big")
        found, data = found + chr(data[0]), data[1 + length :]
    return found


CALL = "BES"
"""Bind, execute, sync: nothing is parsed, looked up, begun, committed or reset."""


async def test_each_call_is_exactly_one_statement_and_one_round_trip(postgres_lab: PostgresLab) -> None:
    async with Tap.on(postgres_lab.settings.url) as tap:
        settings = postgres_lab.settings.model_copy(update={"url": tap.url})
        store = PostgresStore(Lanes(settings, OF_SESSIONS), TTL_S, TOMBSTONE_S)
        talk = await begin(store, "a")
        tap.written.clear()
        await talk.claim()
        await talk.commit("b", b"{}")
        await talk.check()
        await store.read(talk.key, 0, 10)
        await talk.release()
        await store.claim(talk.key, "other", BERT)
        await store.delete(talk.key, "k:delete")
        assert tap.written == [CALL] * 7
        await store.aclose()


async def test_a_turn_on_a_resident_session_costs_one_statement_however_long_the_log(postgres_lab: PostgresLab) -> None:
    """And no read: it is the commit alone that is called."""
    async with Tap.on(postgres_lab.settings.url) as tap:
        settings = postgres_lab.settings.model_copy(update={"url": tap.url})
        store = PostgresStore(Lanes(settings, OF_SESSIONS), TTL_S, TOMBSTONE_S)
        talk = await begin(store, *(f"k:{number}" for number in range(60)))
        tap.written.clear()
        await talk.say(*(f"m:{number}" for number in range(40)))
        assert tap.written == [CALL] * 40
        await store.aclose()


async def test_the_first_call_of_a_connection_finds_its_function_prepared(postgres_lab: PostgresLab) -> None:
    async with Tap.on(postgres_lab.settings.url) as tap:
        settings = postgres_lab.settings.model_copy(update={"url": tap.url})
        store = PostgresStore(Lanes(settings, OF_SESSIONS), TTL_S, TOMBSTONE_S)
        await store.read(fresh_key(), 0, 1)
        before = len(tap.written)
        await store.delete(fresh_key(), "k:delete")
        assert tap.written[before:] == [CALL]
        await store.aclose()


async def test_calls_at_one_moment_use_no_more_connections_than_allowed(postgres_lab: PostgresLab) -> None:
    """I6: bounded."""
    async with Tap.on(postgres_lab.settings.url) as tap:
        settings = postgres_lab.settings.model_copy(update={"url": tap.url, "connections_max": 3})
        store = PostgresStore(Lanes(settings, OF_SESSIONS), TTL_S, TOMBSTONE_S)
        talks = [await begin(store, "a") for _ in range(12)]
        assert await asyncio.gather(*(talk.commit("b") for talk in talks)) == [Ok()] * 12
        count = postgres_lab.sql.fetch("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rehydra'")
        assert count[0]["count"] <= 3
        await store.aclose()


async def test_some_lane_is_left_for_commits_while_sessions_are_loaded(postgres_lab: PostgresLab) -> None:
    """I6: a host to which many sessions move at one moment goes on with those that it has."""
    settings = postgres_lab.settings.model_copy(update={"connections_max": 2})
    store = PostgresStore(Lanes(settings, OF_SESSIONS), TTL_S, TOMBSTONE_S)
    talk, others = await begin(store, "a"), [await begin(store, "a") for _ in range(4)]
    async with postgres_lab.locked(*(other.key for other in others)):
        loading = [asyncio.create_task(store.claim(other.key, "next", BERT)) for other in others]
        await postgres_lab.until_waiting(1)
        assert await talk.commit("b") == Ok()
    assert len(await asyncio.gather(*loading)) == 4
    await store.aclose()


# --- expiry -----------------------------------------------------------------------------------------------------


def rows(lab: PostgresLab) -> tuple[int, int, int]:
    """How many sessions, turns and lives to be swept there are."""
    counted = lab.sql.fetch(
        "SELECT (SELECT count(*) FROM test.sessions), (SELECT count(*) FROM test.turns),"
        " (SELECT count(*) FROM test.remains)"
    )
    return tuple(counted[0])  # type: ignore[return-value]


async def test_what_has_expired_is_swept_and_nothing_else(postgres_lab: PostgresLab) -> None:
    store = postgres_lab.store()
    expired, lives = await begin(store, *"abc"), await begin(store, *"de")
    await postgres_lab.expire(expired.key)
    assert await store.read(expired.key, 0, 10) == Missing()
    assert rows(postgres_lab) == (2, 5, 0)
    await store.sweep()
    assert rows(postgres_lab) == (1, 2, 0)
    assert await lives.stored() == ["d", "e"]


async def test_a_deleted_session_keeps_neither_turns_nor_state_once_it_was_swept(postgres_lab: PostgresLab) -> None:
    talk = await begin(postgres_lab.store())
    await talk.commit("a", b'{"n":1}')
    await talk.store.delete(talk.key, "k:delete")
    await postgres_lab.store().sweep()
    assert rows(postgres_lab) == (1, 0, 0)
    (row,) = postgres_lab.sql.fetch("SELECT state, token, turn_seq, last_turn_id, epoch, deleted FROM test.sessions")
    assert tuple(row) == (b"", "", 0, b"", talk.lease.epoch + 1, True)
    assert await talk.store.read(talk.key, 0, 1) == Deleted()
    assert await talk.store.delete(talk.key, "k:delete") == Buried(ANNA)


async def test_turns_of_an_expired_life_are_not_found_by_the_next_and_are_swept(postgres_lab: PostgresLab) -> None:
    store = postgres_lab.store()
    old = await begin(store, *"abc")
    await postgres_lab.expire(old.key)
    new = await begin(store, key=old.key, host=BERT)
    assert new.granted is not None and new.granted.checkpoint == Checkpoint()
    await new.say("a")
    await store.sweep()
    assert rows(postgres_lab) == (1, 1, 0)
    assert await new.stored() == ["a"]


async def test_a_long_log_is_swept_in_pieces(postgres_lab: PostgresLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: no statement takes long, however much has gathered."""
    monkeypatch.setattr(calls, "SWEEP_TURNS_MAX", 4)
    monkeypatch.setattr(calls, "SWEEP_SESSIONS_MAX", 2)
    store = postgres_lab.store()
    for _ in range(5):
        talk = await begin(store, *"abcdef")
        await store.delete(talk.key, "k:delete")
        await postgres_lab.expire(talk.key)
    left = [rows(postgres_lab)]
    lanes = Lanes(postgres_lab.settings, OF_SESSIONS)
    while await lanes.call(calls.sweep()):
        left.append(rows(postgres_lab))
    assert rows(postgres_lab) == (0, 0, 0)
    assert all(0 <= before[1] - after[1] <= 4 and before[0] - after[0] <= 2 for before, after in pairwise(left))
    await lanes.aclose()


async def test_two_that_sweep_at_one_moment_do_not_wait_for_each_other(postgres_lab: PostgresLab) -> None:
    store = postgres_lab.store()
    talks = [await begin(store, *"abc") for _ in range(30)]
    for talk in talks:
        await store.delete(talk.key, "k:delete")
        await postgres_lab.expire(talk.key)
    async with postgres_lab.locked(*(talk.key for talk in talks[:10])):
        await asyncio.gather(*(postgres_lab.store().sweep() for _ in range(4)))
        assert rows(postgres_lab)[0] == 10
    await store.sweep()
    assert rows(postgres_lab) == (0, 0, 0)


async def test_an_open_store_sweeps_by_itself(postgres_lab: PostgresLab) -> None:
    store = postgres_lab.opened(sweep_s=0.02)
    talk = await begin(store, "a")
    await postgres_lab.expire(talk.key)
    async with asyncio.timeout(5):
        while rows(postgres_lab) != (0, 0, 0):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


async def test_an_epoch_grows_also_where_the_servers_clock_went_back(postgres_lab: PostgresLab) -> None:
    """As after a restore on another machine: the row of the expired life is still there, and counts."""
    store = postgres_lab.store()
    talk = await begin(store, "a")
    future = talk.lease.epoch + 10_000_000
    postgres_lab.sql.execute("UPDATE test.sessions SET epoch = $1", future)
    await postgres_lab.expire(talk.key)
    granted = await store.claim(talk.key, "next", BERT)
    assert isinstance(granted, Granted)
    assert granted.lease.epoch == granted.lease.born == future + 1


# --- the functions ----------------------------------------------------------------------------------------------

NAMES = sorted(FUNCTIONS.sources)
INCLUDED = {"lock", "fence", "refuse", "table_answer"}


def header(name: str) -> str:
    lines = (SQL_FOLDER / f"{name}.sql").read_text("utf-8").splitlines()
    return "\n".join(line for at, line in enumerate(lines) if all(line.startswith("--") for line in lines[: at + 1]))


def test_every_file_is_a_function_a_layout_or_included() -> None:
    files = {path.stem for path in SQL_FOLDER.glob("*.sql")}
    assert {name for name in files if not name.startswith("layout_")} == set(NAMES) | INCLUDED
    texts = [path.read_text("utf-8") for path in SQL_FOLDER.glob("*.sql")]
    assert [name for name in INCLUDED if not any(f"-- include: {name}.sql\n" in text for text in texts)] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SHARED])
def test_a_header_names_every_argument_and_every_answer(name: str) -> None:
    told, source = header(name), compose(name)
    assert told.startswith(f"-- {name}: ")
    declared = source.partition("FUNCTION")[2].partition("OUT")[0]
    used = set(re.findall(r"\b_[a-z_]+\b", declared)) - {"_tenant", "_session_id"}
    assert used == set(re.findall(r"^-- (_[a-z_]+)(?:  |$)", told, re.M))
    answers = set(re.findall(r"answer := '(\w+)'", source)) | set(re.findall(r"THEN '(\w+)'", source))
    if name not in ("commit", "check", "release"):
        answers -= {"fenced", "regressed"}
    assert answers - {"fenced", "regressed"} <= set(re.findall(r"^-- (\w+)", told, re.M))


def test_a_function_is_named_by_what_all_of_them_say(postgres_lab: PostgresLab) -> None:
    found = postgres_lab.sql.fetch("SELECT proname::text FROM pg_proc WHERE pronamespace = 'test'::regnamespace")
    assert {f"{name}_{FUNCTIONS.digest}" for name in NAMES} <= {row["proname"] for row in found}


def test_what_is_called_is_quoted_and_has_its_schema() -> None:
    assert not set(NAMES) & set(RELATIONS), "one name can't be replaced by two"
    placed = FUNCTIONS.placed("a.b", "SELECT rehydra.time_ms(), nextval('rehydra.lives') FROM rehydra.turns")
    assert placed == f"""SELECT "a.b"."time_ms_{FUNCTIONS.digest}"(), nextval('"a.b".lives') FROM "a.b".turns"""


async def test_a_function_that_was_exchanged_is_the_one_that_runs(postgres_lab: PostgresLab) -> None:
    """How planted bugs reach the server; and how a newer program's functions stand beside these."""
    talk = await begin(postgres_lab.store(), "a")
    text = FUNCTIONS.sources["read"].replace("answer := 'turns'", "answer := 'missing'")
    other = replace(FUNCTIONS, sources={**FUNCTIONS.sources, "read": text}, digest="other")
    await postgres_lab.make(other)
    lanes = Lanes(postgres_lab.settings, OF_SESSIONS, functions=other)
    assert await PostgresStore(lanes, TTL_S, TOMBSTONE_S).read(talk.key, 0, 1) == Missing()
    assert await talk.stored() == ["a"]
    await lanes.aclose()
    postgres_lab.unmake(other)


async def test_functions_that_were_lost_under_a_host_are_made_anew(postgres_lab: PostgresLab) -> None:
    """As a script that Redis has forgotten: after a restore of the schema, say."""
    talk = await begin(postgres_lab.store(), "a")
    postgres_lab.sql.execute(f"DROP FUNCTION {FUNCTIONS.named('test', 'commit')}")
    with pytest.raises(StoreUnavailable):
        await talk.commit("b")
    assert await talk.commit("b") == Ok()
    assert await talk.stored() == ["a", "b"]


# --- records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", [pytest.param(path.read_text("utf-8"), id=path.stem) for path in GOLDEN])
async def test_every_session_ever_stored_can_be_claimed_read_and_continued(
    postgres_lab: PostgresLab, golden: str
) -> None:
    """What a program of that layout has written. A file is never changed; a new layout gets a file of its own."""
    postgres_lab.sql.execute(golden)
    key, store = SessionKey("golden", "red"), postgres_lab.store()
    turns = (
        Turn(1, "k:1", "f" * 32, "Hello, \u65e5\u672c!", 'reply "one"', {"a": [1, None]}, 1700000000000, 1700000000123),
        Turn(2, "r:2\x00", "e" * 32, "message 2", "reply 2", None, 1700000000001, 1700000000456),
    )
    assert await store.read(key, 0, 10) == Turns(turns, 2)
    granted = await store.claim(key, "token", BERT)
    assert isinstance(granted, Granted)
    assert granted.checkpoint == Checkpoint(turns, b'{"n":1}')
    assert (granted.lease.epoch, granted.lease.born) == (1700000000002, 1700000000000)
    talk = Talk(store, key, BERT, "token", ["k:1", "r:2\x00"], granted)
    assert await store.commit(key, talk.lease, talk.last, turn(3, "k:1"), None) == Replayed(turns[0])
    assert await talk.commit("k:3") == Ok()


async def test_what_is_written_today_is_golden(postgres_lab: PostgresLab) -> None:
    """The columns are a format too."""
    talk = await begin(postgres_lab.store(), "a")
    for table in ("sessions", "turns"):
        written = columns(postgres_lab.sql, f"test.{table}")
        assert f"INSERT INTO test.{table} ({', '.join(written)})" in GOLDEN[-1].read_text("utf-8")
    await talk.release()


async def test_a_session_of_a_newer_program_is_refused_and_not_claimed(postgres_lab: PostgresLab) -> None:
    talk = await begin(postgres_lab.store(), "a")
    await talk.release()
    postgres_lab.sql.execute("UPDATE test.sessions SET schema_version = $1", SCHEMA_VERSION + 1)
    with pytest.raises(Misconfigured, match="schema_version"):
        await talk.claim()
    assert postgres_lab.sql.fetch("SELECT incarnation FROM test.sessions")[0]["incarnation"] == ""


async def test_a_log_that_somebody_has_shortened_is_damaged_and_not_forked(postgres_lab: PostgresLab) -> None:
    talk = await begin(postgres_lab.store(), *"abc")
    postgres_lab.sql.execute("DELETE FROM test.turns WHERE turn_seq = 2")
    with pytest.raises(StoreUnavailable, match="damaged"):
        await take_over(talk)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await Talk(talk.store, talk.key, BERT).claim(window=2)
