"""The lab of a real PostgreSQL server, beside those of ``tests.contract.lab``.

All labs of a server share one schema, which is made once and emptied after every test: making tables costs more than
most tests do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, cast

import asyncpg

from actors.model import SessionKey
from actors.settings import StoreSettings
from actors.stores.postgres import PostgresStore
from actors.stores.postgres_fit import fit_connection
from actors.stores.postgres_functions import OF_SESSIONS, Functions
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_membership import PostgresMembership
from actors.stores.postgres_schema import prepare
from tests.contract.lab import PAGE_BYTES_MAX, TOMBSTONE_S, TTL_S
from tests.postgres_server import Sql

SCHEMA = "test"
EMPTY = f"""
DELETE FROM {SCHEMA}.sessions; DELETE FROM {SCHEMA}.turns; DELETE FROM {SCHEMA}.remains; DELETE FROM {SCHEMA}.members;
DELETE FROM {SCHEMA}.spares; DELETE FROM {SCHEMA}.beats; UPDATE {SCHEMA}.ring SET ring_version = 0
"""


@cache
def prepared(url: str) -> Sql:
    """A person's connection to the server, on which the tables have been made."""

    async def make() -> None:
        async with fit_connection(url, 10.0, warn=False) as connection:
            await prepare(connection, settings_for(url))

    sql = Sql(url)
    sql.run(make())
    return sql


def settings_for(url: str) -> StoreSettings:
    return StoreSettings.model_validate({"url": url, "prefix": SCHEMA})


class PostgresLab:
    """A real server."""

    kind = "postgres"

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self.settings = settings_for(url).model_copy(update={"timeout_s": timeout_s})
        self.sql = prepared(url)
        self._close: list[Callable[[], object]] = []
        self._stores: list[PostgresStore] = []
        self.stays_for_ever: set[SessionKey] = set()
        """Sessions that the test itself has made permanent (``ttl_s`` 0)."""

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> PostgresStore:
        store = PostgresStore(Lanes(self.settings, OF_SESSIONS), ttl_s, tombstone_s, page_bytes_max)
        self._stores.append(store)
        return store

    def opened(self, sweep_s: float) -> PostgresStore:
        """A store that sweeps by itself."""
        store = PostgresStore(Lanes(self.settings, OF_SESSIONS), TTL_S, TOMBSTONE_S, sweep_s=sweep_s)
        self._stores.append(store)
        return store

    async def make(self, functions: Functions) -> None:
        """Other functions beside the ones that are there."""
        async with fit_connection(self.settings.url, 10.0, warn=False) as connection:
            await prepare(connection, self.settings, functions)

    def unmake(self, functions: Functions) -> None:
        for name in functions.sources:
            self.sql.execute(f"DROP FUNCTION {functions.named(SCHEMA, name)}")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection with an open transaction, which is committed at the end."""
        connection = await asyncpg.connect(self.settings.url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def locked(self, *keys: SessionKey) -> AsyncIterator[None]:
        """As long as this lasts, whoever wants the lock of one of these sessions waits."""
        async with self.transaction() as connection:
            for key in keys:
                await connection.execute(
                    "SELECT FROM test.sessions WHERE tenant = $1 AND session_id = $2 FOR UPDATE", *_of(key)
                )
            yield

    async def until_waiting(self, count: int) -> None:
        """Until that many statements of the store wait for a lock."""
        async with asyncio.timeout(5):
            while self.sql.fetch(_WAITING)[0]["count"] < count:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.005)

    async def until_waiting_no_more(self) -> None:
        """Until none of them does."""
        async with asyncio.timeout(5):
            while self.sql.fetch(_WAITING)[0]["count"]:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.005)

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """As long as this lasts, no turn can be written, and the server says why in its own words."""
        self.sql.execute(_FULL)
        try:
            yield
        finally:
            self.sql.execute("DROP TRIGGER full_disk ON test.turns; DROP FUNCTION test.full_disk")

    def membership(self) -> PostgresMembership:
        membership = PostgresMembership.connect(self.settings, 1.0)
        self._close.append(membership.close)
        return membership

    def lose_membership(self) -> None:
        self.sql.execute(EMPTY)

    def age_beats(self) -> None:
        self.sql.execute("UPDATE test.beats SET seen_ms = 1")

    def keep_for_ever(self, key: SessionKey) -> None:
        self.stays_for_ever.add(key)

    async def snapshot(self, key: SessionKey) -> object:
        sessions = self.sql.fetch("SELECT * FROM test.sessions WHERE tenant = $1 AND session_id = $2", *_of(key))
        turns = self.sql.fetch("SELECT * FROM test.turns WHERE life = ANY ($1)", [row["life"] for row in sessions])
        return sessions, turns

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        sessions, turns = cast(tuple[list[Any], list[Any]], snapshot)
        lives = [row["life"] for row in (*sessions, *cast(Any, await self.snapshot(key))[0])]
        self.sql.execute("DELETE FROM test.sessions WHERE tenant = $1 AND session_id = $2", *_of(key))
        for table in ("turns", "remains"):
            self.sql.execute(f"DELETE FROM test.{table} WHERE life = ANY ($1)", lives)
        for table, rows in (("sessions", sessions), ("turns", turns)):
            for row in rows:
                places = ", ".join(f"${number + 1}" for number in range(len(row)))
                self.sql.execute(f"INSERT INTO test.{table} VALUES ({places})", *row)

    async def expire(self, key: SessionKey) -> None:
        self.sql.execute(
            "UPDATE test.sessions SET expires_ms = 1, sweep_hour = 1 WHERE tenant = $1 AND session_id = $2", *_of(key)
        )

    async def ttl_ms(self, key: SessionKey) -> int | None:
        rows = self.sql.fetch(
            "SELECT expires_ms FROM test.sessions WHERE tenant = $1 AND session_id = $2 AND expires_ms IS NOT NULL",
            *_of(key),
        )
        return rows[0]["expires_ms"] - self.now_ms() if rows else None

    async def pass_ms(self, duration_ms: int) -> None:
        # The server's clock can't be moved and tells nobody; there is no event to wait for.
        await asyncio.sleep(duration_ms / 1000 + 0.005)

    def now_ms(self) -> int:
        return int(self.sql.fetch("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms")[0]["ms"])

    def leaked(self) -> list[str]:
        """What would stay for ever: sessions without an expiry, turns that neither session nor sweep finds."""
        sessions = self.sql.fetch("SELECT tenant, session_id FROM test.sessions WHERE expires_ms IS NULL")
        keys = {SessionKey(row["session_id"], row["tenant"]) for row in sessions}
        turns = self.sql.fetch(
            "SELECT DISTINCT life FROM test.turns WHERE life NOT IN"
            " (SELECT life FROM test.sessions UNION ALL SELECT life FROM test.remains)"
        )
        return [*map(str, sorted(keys - self.stays_for_ever, key=str)), *(f"life {row['life']}" for row in turns)]

    async def aclose(self) -> None:
        for store in self._stores:
            await store.aclose()
        for close in self._close:
            close()
        leaked = self.leaked()
        self.sql.execute(EMPTY)
        assert not leaked, f"Neither expires nor is swept: {leaked}"


_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rehydra' AND wait_event_type = 'Lock'"


_FULL = """
CREATE FUNCTION test.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON test.turns FOR EACH ROW EXECUTE FUNCTION test.full_disk()
"""


def _of(key: SessionKey) -> tuple[str, str]:
    return (key.tenant, key.session_id)
