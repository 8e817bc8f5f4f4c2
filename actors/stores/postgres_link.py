"""One connection to PostgreSQL, on which the functions that will be called are prepared.

A call is one message out (bind, execute, sync) and one answer back: no transaction is opened, nothing is looked up,
and nothing is sent when the connection is put aside. The server commits at the sync, and says that it is ready again
only when the commit is on the disk; asyncpg gives a result to nobody before that (``_process__bind_execute``), so an
answer is never ahead of its commit (I2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import asyncpg

from actors.settings import StoreSettings
from actors.stores.postgres_functions import FUNCTIONS, Answer, Call, Functions
from actors.stores.postgres_schema import prepare

CLOSE_S: Final = 1.0
OPEN_S: Final = 60.0
"""asyncpg wants a limit of its own; whoever connects has a shorter one."""


async def connect(url: str, timeout_s: float, statement_s: float) -> Any:
    """An asyncpg connection. The server gives up a statement after ``statement_s``, also when we have gone."""
    return await asyncpg.connect(
        url,
        timeout=timeout_s,
        # Statements are prepared by hand, once; what is in a cache may be thrown out of it and cost a round trip again.
        statement_cache_size=0,
        server_settings={
            "application_name": "rehydra",
            # What the functions are right under, whatever the server's default is: see DECISIONS.md.
            "default_transaction_isolation": "read committed",
            "statement_timeout": str(max(1, int(statement_s * 1000))),
            # Plans are kept as long as the connection, and tables begin empty, where reading all of them looks
            # cheapest.
            "enable_seqscan": "off",
            "jit": "off",
        },
    )


class Link:
    """A connection with its prepared functions. One call at a time."""

    def __init__(self, connection: Any, prepared: dict[str, Any]) -> None:
        self._connection = connection
        self._prepared = prepared

    @classmethod
    async def open(
        cls, settings: StoreSettings, names: Sequence[str], statement_s: float, functions: Functions = FUNCTIONS
    ) -> Self:
        """Connect and prepare. Raises what asyncpg raises, OSError and Misconfigured; the caller bounds the time.

        Functions that aren't there are made, as a script that Redis doesn't know is loaded: an edge may be the first of
        a newer program, or of all.
        """
        connection = await connect(settings.url, OPEN_S, statement_s)
        try:
            try:
                prepared = await _prepared(connection, settings.prefix, names, functions)
            except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError):
                await prepare(connection, settings, functions)
                prepared = await _prepared(connection, settings.prefix, names, functions)
        except BaseException:
            connection.terminate()
            raise
        return cls(connection, prepared)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, as far as this side knows."""
        return bool(self._connection.is_closed())

    async def ask(self, call: Call[Any]) -> Answer:
        """The function's one row. Not to be cancelled but terminated: asyncpg would have the server cancel it."""
        rows: list[Answer] = await self._prepared[call.function].fetch(*call.arguments)
        return rows[0]

    def terminate(self) -> None:
        """End the connection at once; who waits for an answer gets an error. What was sent is done all the same."""
        self._connection.terminate()

    async def close(self) -> None:
        """End it in good order, if nobody waits for an answer."""
        try:
            await self._connection.close(timeout=CLOSE_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            self._connection.terminate()


async def _prepared(connection: Any, schema: str, names: Sequence[str], functions: Functions) -> dict[str, Any]:
    # Under a name: a statement without one would be parsed again by every call.
    return {name: await connection.prepare(functions.statement(schema, name), name=name) for name in names}
