"""Is this server fit to keep sessions? Asked before a host takes its first turn, and when somebody asks if it is ready.

Each fault is one sentence (:class:`~actors.errors.Misconfigured`) that names the server, without its password, and what
to change. A server that may forget what it has confirmed is a warning in the log, as with Redis.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from actors.errors import Misconfigured
from actors.stores.postgres_errors import one_line
from actors.stores.postgres_link import connect
from actors.stores.url import shown

log = logging.getLogger(__name__)
OLDEST: Final = 14
"""Oldest version of PostgreSQL that its makers still mend. Tested with 15 and 18."""
PREPARE_S: Final = 30.0
"""How long the tables may take to be made or changed, by us or by another host that was first."""

_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
)


async def require_fit(url: str, timeout_s: float, warn: bool = True) -> None:
    """Misconfigured unless the server at ``url`` answers, lets us in, is new enough and takes writes."""
    async with fit_connection(url, timeout_s, warn):
        pass


@asynccontextmanager
async def fit_connection(url: str, timeout_s: float, warn: bool = True) -> AsyncIterator[Any]:
    """A connection to a server that was found fit. Misconfigured also for what fails on it later."""
    where = shown(url)
    connection = await _connected(url, where, timeout_s)
    try:
        _judge(await connection.fetchrow(_ASK, timeout=timeout_s), where, warn)
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise Misconfigured(f"The store at {where} can't be used: {_said(error)}") from error
    finally:
        connection.terminate()


async def _connected(url: str, where: str, timeout_s: float) -> Any:
    try:
        return await connect(url, timeout_s, PREPARE_S)
    except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
        raise Misconfigured(f"store.url isn't one: {one_line(error)}") from error
    except _REFUSED as error:
        raise Misconfigured(
            f"The store at {where} doesn't let us in ({one_line(error)}): see user and password in store.url."
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise Misconfigured(
            f"The store at {where} has no such database ({one_line(error)}): make it, or name another in store.url."
        ) from error
    except asyncpg.TooManyConnectionsError as error:
        raise Misconfigured(
            f"The store at {where} has no connection left ({one_line(error)}): raise its max_connections, which must"
            " exceed store.connections_max and two more for each host."
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise Misconfigured(f"The store at {where} can't be reached: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return one_line(error) or type(error).__name__


def _judge(row: Any, where: str, warn: bool) -> None:
    if row["number"] < OLDEST * 10_000:
        raise Misconfigured(f"The store at {where} is PostgreSQL {row['name']}; at least {OLDEST} is needed.")
    if row["standby"]:
        raise Misconfigured(f"The store at {where} is a standby, which takes no writes: name the primary in store.url.")
    if row["read_only"] == "on":
        raise Misconfigured(
            f"The store at {where} is read-only for this user (default_transaction_read_only):"
            " name another in store.url."
        )
    for name, lost in _FORGETFUL.items():
        if warn and row[name] == "off":
            log.warning("The store at %s runs with %s = off: %s.", where, name, lost)


_FORGETFUL: Final = {
    "fsync": "a crash of its machine loses turns that were confirmed, and may damage all others",
    "full_page_writes": "a crash of its machine may damage what it was writing",
    "synchronous_commit": "a crash of it loses the last turns that were confirmed",
}
_ASK: Final = """
SELECT current_setting('server_version_num')::integer AS number, current_setting('server_version') AS name,
       pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit
"""
