"""Who holds which session, as a PostgreSQL store has it: ``incarnation`` in every row of ``sessions``, save those that
are ``deleted``: a tombstone names its last holder, which has nothing to give back any more. Rows that have expired stay
until they are swept, and hold nothing.

Whoever changes these names in the runtime finds every planned scale-down accused of leases that nobody releases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

WAIT_S = 5.0
SCHEMA = "rehydra"
"""Which a store has that isn't told another prefix."""
SQL = """
SELECT session_id, incarnation FROM {schema}.sessions
 WHERE incarnation <> '' AND NOT deleted
   AND (expires_ms IS NULL OR expires_ms > 1000 * extract(epoch FROM clock_timestamp()))
"""


@asynccontextmanager
async def asking(url: str, schema: str = SCHEMA) -> AsyncIterator[Callable[[], Awaitable[dict[str, str]]]]:
    """Ask on one connection: a new one for each question would be felt by those who are measured. OSError if the server
    can't be reached or refuses."""
    try:
        connection = await asyncpg.connect(url, timeout=WAIT_S, command_timeout=WAIT_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise OSError(f"PostgreSQL: {error}") from error

    async def holders() -> dict[str, str]:
        try:
            rows = await connection.fetch(SQL.format(schema=schema))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise OSError(f"PostgreSQL: {error}") from error
        return {str(row["session_id"]): str(row["incarnation"]) for row in rows}

    try:
        yield holders
    finally:
        connection.terminate()
