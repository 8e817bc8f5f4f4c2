"""Starting against a PostgreSQL that isn't fit, or on tables that aren't ours: one clear sentence, without secrets."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import SCHEMA_VERSION, Table
from actors.settings import Settings
from actors.stores import open_membership, open_store, postgres_fit, postgres_schema, unfit_store
from actors.stores.base import Granted
from actors.stores.postgres_functions import FUNCTIONS
from actors.stores.postgres_schema import LAYOUTS, RELATIONS
from deploy import cluster
from tests.contract.lab import ANNA, begin, fresh_key
from tests.contract.postgres_lab import prepared
from tests.postgres_server import PostgresServer, Sql, start_postgres
from tests.servers import free_port

PREFIX = "fit"


@pytest.fixture
def url(server_url: Callable[[str], str]) -> str:
    return server_url("postgres")


@pytest.fixture
def sql(url: str) -> Iterator[Sql]:
    """A person at the server; afterwards the schema of these tests is gone."""
    sql = prepared(url)
    yield sql
    sql.execute(f"DROP SCHEMA IF EXISTS {PREFIX} CASCADE")


@pytest.fixture
def weak(sql: Sql, url: str) -> Iterator[str]:
    """URL of a user who may do nothing but connect."""
    sql.execute("CREATE ROLE weak LOGIN PASSWORD 'pw'")
    yield url.replace("rehydra:a%20secret@", "weak:pw@")
    sql.execute("DROP OWNED BY weak CASCADE")
    sql.execute("DROP ROLE weak")


def settings_for(url: str, **store: Any) -> Settings:
    return Settings.load({"store": {"url": url, "prefix": PREFIX, "timeout_s": 2.0, **store}})


async def opens(url: str, **store: Any) -> None:
    """It opens, and can be used."""
    sessions, membership = await open_store(settings_for(url, **store))
    assert isinstance(await sessions.claim(fresh_key(), "token", ANNA), Granted)
    assert await asyncio.to_thread(membership.table) is not None
    await sessions.aclose()
    membership.close()


async def refusal(url: str, **store: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        await open_store(settings_for(url, **store))
    assert "\n" not in refused.value.detail
    assert "secret" not in refused.value.detail
    return refused.value.detail


# --- the server -------------------------------------------------------------------------------------------------


async def test_a_fit_server_is_opened_and_used(sql: Sql, url: str) -> None:
    for _ in range(2):
        await opens(url)
    assert await unfit_store(settings_for(url)) == ""
    (row,) = sql.fetch(f"SELECT * FROM {PREFIX}.layout")
    assert tuple(row) == (len(LAYOUTS), SCHEMA_VERSION)


async def test_nobody_listening_is_said() -> None:
    port = free_port()
    gone = f"postgresql://127.0.0.1:{port}/postgres"
    assert f"{gone} can't be reached" in await refusal(gone)
    assert "can't be reached" in await unfit_store(settings_for(gone))


async def test_a_server_that_does_not_answer_is_said(own_postgres: PostgresServer) -> None:
    own_postgres.freeze()
    assert "can't be reached" in await refusal(own_postgres.url, timeout_s=0.5)
    own_postgres.thaw()


@pytest.mark.parametrize("wrong", ["postgresql://u:secret@[::1/x", "postgresql://u:secret@h:port/x", "postgresq://h/x"])
async def test_a_url_that_is_none_is_said(wrong: str) -> None:
    assert "store.url" in await refusal(wrong)


@pytest.mark.parametrize("user", ["rehydra", "rehydra:wrong-secret", "nobody:wrong-secret"])
async def test_a_wrong_password_is_said_without_naming_it(url: str, user: str) -> None:
    assert "doesn't let us in" in await refusal(url.replace("rehydra:a%20secret", user))


async def test_a_database_that_is_not_there_is_said(url: str) -> None:
    assert "has no such database" in await refusal(url.replace("/postgres", "/nowhere"))


async def test_a_server_that_is_too_old_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_fit, "OLDEST", 99)
    assert "at least 99 is needed" in await refusal(url)


async def test_a_standby_is_refused() -> None:
    server = start_postgres()
    try:
        server.make_standby()
        assert "is a standby" in await refusal(server.url)
    finally:
        server.stop()


async def test_a_user_who_may_only_read_is_refused(sql: Sql, weak: str) -> None:
    sql.execute("ALTER ROLE weak SET default_transaction_read_only = on")
    assert "read-only" in await refusal(weak)


async def test_a_server_without_a_connection_left_is_said(sql: Sql, weak: str) -> None:
    sql.execute("ALTER ROLE weak CONNECTION LIMIT 0")
    assert "no connection left" in await refusal(weak)


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
async def test_a_server_that_may_forget_is_used_with_a_warning(
    sql: Sql, url: str, weak: str, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The server of these tests runs with fsync off, as everybody is told.
    await opens(url)
    sql.execute(f"ALTER ROLE weak SET synchronous_commit = off; GRANT ALL ON SCHEMA {PREFIX} TO weak")
    sql.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {PREFIX} TO weak")
    sql.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {PREFIX} TO weak")
    with caplog.at_level(logging.WARNING, logger="actors.stores"):
        await opens(weak)
        assert f"{setting} = off" in caplog.text
        caplog.clear()
        assert await unfit_store(settings_for(weak)) == ""
        await opens(url)
    assert ("synchronous_commit" not in caplog.text) and ("fsync" in caplog.text)


async def test_a_missing_client_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "rehydra[postgres]" in await refusal("postgresql://127.0.0.1:1/x")
    with pytest.raises(Misconfigured, match="rehydra"):
        open_membership(settings_for("postgresql://127.0.0.1:1/x"))


# --- the tables -------------------------------------------------------------------------------------------------


async def test_hosts_that_start_at_one_moment_make_the_tables_once(sql: Sql, url: str) -> None:
    await asyncio.gather(*(opens(url) for _ in range(6)))
    assert sql.fetch(f"SELECT count(*) AS rows FROM {PREFIX}.layout")[0]["rows"] == 1


async def test_an_edge_that_is_there_before_any_host_makes_them_too(sql: Sql, url: str) -> None:
    """And so does the first of a newer program, whose functions nobody has made yet."""
    memberships = [open_membership(settings_for(url)) for _ in range(3)]
    tables = await asyncio.gather(*(asyncio.to_thread(membership.table) for membership in memberships))
    assert tables == [Table(0, {})] * 3
    for membership in memberships:
        membership.close()
    sql.execute(f"DROP FUNCTION {FUNCTIONS.named(PREFIX, 'table')}")
    membership = open_membership(settings_for(url))
    assert await asyncio.to_thread(membership.table) == Table(0, {})
    membership.close()
    await opens(url)


async def test_an_edge_that_may_not_make_them_says_so(weak: str) -> None:
    membership = open_membership(settings_for(weak))
    with pytest.raises(StoreUnavailable, match="may not make the tables"):
        await asyncio.to_thread(membership.table)
    membership.close()


async def test_a_start_that_ends_in_the_middle_has_made_nothing(
    sql: Sql, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(FUNCTIONS, sources={**FUNCTIONS.sources, "table": "no SQL"})
    monkeypatch.setattr(postgres_schema.prepare, "__defaults__", (broken, LAYOUTS))
    assert "can't be used" in await refusal(url)
    assert sql.fetch("SELECT FROM pg_namespace WHERE nspname = $1", PREFIX) == []
    monkeypatch.undo()
    await opens(url)


async def test_a_layout_is_brought_up_to_date_with_what_it_holds(
    sql: Sql, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, membership = await open_store(settings_for(url))
    talk = await begin(sessions, "a", "b")
    next_layout = "ALTER TABLE rehydra.sessions ADD COLUMN more text NOT NULL DEFAULT 'x'"
    monkeypatch.setattr(postgres_schema.prepare, "__defaults__", (FUNCTIONS, (*LAYOUTS, next_layout)))
    await opens(url)
    assert sql.fetch(f"SELECT layout FROM {PREFIX}.layout")[0]["layout"] == len(LAYOUTS) + 1
    await talk.say("c")  # A host of the older program goes on.
    assert await talk.stored() == ["a", "b", "c"]
    await sessions.aclose()
    membership.close()
    monkeypatch.undo()
    assert f"layout {len(LAYOUTS) + 1}" in await refusal(url)


async def test_what_a_newer_program_wrote_is_refused(sql: Sql, url: str) -> None:
    await opens(url)
    sql.execute(f"UPDATE {PREFIX}.layout SET schema_version = {SCHEMA_VERSION + 1}")
    assert f"schema_version {SCHEMA_VERSION + 1}" in await refusal(url)
    assert sql.fetch(f"SELECT schema_version FROM {PREFIX}.layout")[0][0] == SCHEMA_VERSION + 1


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE {0}.sessions (id text)",
        "CREATE TABLE {0}.layout (layout text)",
        "CREATE VIEW {0}.layout AS SELECT 1 AS layout, 1 AS schema_version",
        "CREATE TABLE {0}.layout (layout integer, schema_version integer)",
    ],
    ids=["a table", "another layout", "a view", "an empty layout"],
)
async def test_a_foreign_table_under_our_name_is_refused(sql: Sql, url: str, foreign: str) -> None:
    sql.execute(f"CREATE SCHEMA {PREFIX}; {foreign.format(PREFIX)}")
    sentence = await refusal(url)
    assert "isn't Rehydra's" in sentence
    assert "store.prefix" in sentence


async def test_foreign_tables_of_other_names_are_left_alone(sql: Sql, url: str) -> None:
    sql.execute(f"CREATE SCHEMA {PREFIX}; CREATE TABLE {PREFIX}.bills (id text)")
    await opens(url)


async def test_a_table_that_is_missing_is_said(sql: Sql, url: str) -> None:
    await opens(url)
    sql.execute(f"DROP TABLE {PREFIX}.turns")
    assert f"{PREFIX}.turns is missing" in await refusal(url)


async def test_every_relation_of_the_layouts_is_looked_for(sql: Sql, url: str) -> None:
    await opens(url)
    found = sql.fetch(
        "SELECT relname::text FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'S')", PREFIX
    )
    assert {row["relname"] for row in found} == set(RELATIONS)


async def test_a_user_who_may_not_make_tables_is_refused(weak: str) -> None:
    assert "may not make the tables" in await refusal(weak)


async def test_a_user_who_may_only_use_what_another_made_is_welcome(sql: Sql, url: str, weak: str) -> None:
    await opens(url)
    assert "may not read the table" in await refusal(weak)
    sql.execute(f"GRANT USAGE ON SCHEMA {PREFIX} TO weak; GRANT SELECT ON ALL TABLES IN SCHEMA {PREFIX} TO weak")
    assert "may not read and write" in await refusal(weak)
    sql.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {PREFIX} TO weak")
    sql.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {PREFIX} TO weak")
    await opens(weak)


async def test_a_user_who_was_given_the_schema_alone_makes_the_tables(sql: Sql, weak: str) -> None:
    sql.execute(f"CREATE SCHEMA {PREFIX} AUTHORIZATION weak")
    await opens(weak)


async def test_a_prefix_that_no_schema_may_have_is_said(url: str) -> None:
    assert "unacceptable schema name" in await refusal(url, prefix="pg_mine")


async def test_any_prefix_that_a_setting_takes_is_a_schema(url: str, sql: Sql) -> None:
    await opens(url, prefix="Re-hydra.8000_x")
    sql.execute('DROP SCHEMA "Re-hydra.8000_x" CASCADE')


# --- as a person meets it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["isn't Rehydra's", "doesn't let us in", "has no such database", "can't be reached"])
def test_deploy_ends_with_2_and_one_line(
    sql: Sql, url: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql.execute(f"CREATE SCHEMA {PREFIX}; CREATE TABLE {PREFIX}.sessions (id text)")
    told = {
        "isn't Rehydra's": url,
        "doesn't let us in": url.replace("a%20secret", "wrong-secret"),
        "has no such database": url.replace("/postgres", "/nowhere"),
        "can't be reached": f"postgresql://127.0.0.1:{free_port()}/x",
    }
    monkeypatch.setenv("REHYDRA_STORE__URL", told[why])
    monkeypatch.setenv("REHYDRA_STORE__PREFIX", PREFIX)
    report = os.open(tmp_path / "report", os.O_CREAT | os.O_WRONLY)
    monkeypatch.setattr(sys, "argv", ["deploy.cluster", "--hosts=1", f"--temp-dir={tmp_path}", f"--report-to={report}"])
    assert cluster.main() == 2
    (line,) = (tmp_path / "report").read_text().splitlines()
    assert why in line
    assert "secret" not in line


async def test_what_fails_after_the_connection_was_made_is_one_sentence_too(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise asyncpg.InterfaceError("the connection ended\nDETAIL: of it")

    monkeypatch.setattr("actors.stores.postgres.prepare", fails)
    assert (await refusal(url)).endswith("can't be used: the connection ended")
