"""The real functions on a real PostgreSQL, driven from the simulation over one blocking connection.

As ``redis_backend``: the production classes, and epochs from the server's clock, which runs in its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from actors.model import SessionKey
from actors.settings import StoreSettings
from actors.stores import postgres_calls as calls
from actors.stores.postgres import PostgresStore
from actors.stores.postgres_fit import fit_connection
from actors.stores.postgres_functions import OF_HYBRID, OF_MEMBERSHIP, Call
from actors.stores.postgres_membership import PostgresMembership
from actors.stores.postgres_schema import prepare
from actors.stores.postgres_sync import SyncTransport
from tests.postgres_server import Sql

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

A = TypeVar("A")
TIMEOUT_S = 10.0
TTL_S = TOMBSTONE_S = 1e6
"""Longer than any run: sessions expire when the nemesis says so. But every session must have an expiry."""
EMPTY = """
DELETE FROM sim.sessions; DELETE FROM sim.turns; DELETE FROM sim.remains; DELETE FROM sim.members;
DELETE FROM sim.spares; DELETE FROM sim.beats; UPDATE sim.ring SET ring_version = 0
"""
MAKE_ROOM = """
CREATE UNLOGGED TABLE sim.kept_sessions AS SELECT * FROM sim.sessions;
CREATE UNLOGGED TABLE sim.kept_turns AS SELECT * FROM sim.turns
"""
KEEP = """
DELETE FROM sim.kept_sessions; INSERT INTO sim.kept_sessions SELECT * FROM sim.sessions;
DELETE FROM sim.kept_turns; INSERT INTO sim.kept_turns SELECT * FROM sim.turns
"""
BRING_BACK = """
DELETE FROM sim.sessions; DELETE FROM sim.turns; DELETE FROM sim.remains;
INSERT INTO sim.sessions SELECT * FROM sim.kept_sessions; INSERT INTO sim.turns SELECT * FROM sim.kept_turns
"""
LEFT = """
SELECT 'session ' || s.session_id AS left FROM sim.sessions AS s WHERE s.expires_ms IS NULL
 UNION ALL
SELECT DISTINCT 'life ' || t.life FROM sim.turns AS t
 WHERE t.life NOT IN (SELECT life FROM sim.sessions UNION ALL SELECT life FROM sim.remains)
"""


@cache
def _prepared(url: str) -> tuple[Sql, SyncTransport, SyncTransport]:
    """The tables, and a connection each for a person, the sessions and the membership. All runs of a process share
    them: to connect takes longer than most of what happens in one."""
    settings, sql = StoreSettings.model_validate({"url": url, "prefix": "sim"}), Sql(url)

    async def make() -> None:
        async with fit_connection(url, TIMEOUT_S, warn=False) as connection:
            await prepare(connection, settings)

    sql.run(make())
    sql.execute(MAKE_ROOM)
    return sql, SyncTransport(settings, OF_HYBRID, TIMEOUT_S), SyncTransport(settings, OF_MEMBERSHIP, TIMEOUT_S)


class Blocking:
    """A transport that has its answer when it returns."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    async def call(self, call: Call[A]) -> A:
        return self._transport.call(call)

    async def aclose(self) -> None:
        self._transport.close()


class PostgresBackend:
    """The stores of one run, in tables that are emptied first."""

    def __init__(self, url: str) -> None:
        self._sql, self._transport, members = _prepared(url)
        self._sql.execute(EMPTY + ";" + KEEP)
        self.wire = Blocking(self._transport)
        self.sessions: PostgresStore = PostgresStore(self.wire, TTL_S, TOMBSTONE_S)
        self.members: PostgresMembership = PostgresMembership(members)
        self._expired = 0

    @classmethod
    def on(cls, url: str) -> Callable[[Cluster], PostgresBackend]:
        return lambda cluster: cls(url)

    def expire(self, key: SessionKey) -> None:
        of = (key.tenant, key.session_id)
        self._pass("SELECT epoch FROM sim.sessions WHERE tenant = $1 AND session_id = $2", *of)
        self._sql.execute(
            "UPDATE sim.sessions SET expires_ms = 1, sweep_hour = 1 WHERE tenant = $1 AND session_id = $2", *of
        )
        # Every other time its row is still there when it begins anew.
        self._expired += 1
        if self._expired % 2:
            self._transport.call(calls.sweep())

    def snapshot(self) -> None:
        self._sql.execute(KEEP)

    def restore(self) -> None:
        self._pass("SELECT max(epoch) AS epoch FROM sim.sessions")
        self._sql.execute(BRING_BACK)

    def close(self) -> list[str]:
        return [row["left"] for row in self._sql.fetch(LEFT)]

    def _pass(self, of: str, *arguments: Any) -> None:
        """Wait until the server's clock is beyond that epoch: a matter of milliseconds."""
        epoch = max((row["epoch"] or 0 for row in self._sql.fetch(of, *arguments)), default=0)
        while self._sql.fetch("SELECT extract(epoch FROM clock_timestamp()) * 1000 <= $1 AS yet", epoch)[0]["yet"]:
            time.sleep(0.001)
