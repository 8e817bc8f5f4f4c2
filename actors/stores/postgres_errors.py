"""What went wrong at the PostgreSQL server, in the words of the error tree.

An error that the server answers has rolled back the one statement that the call was: nothing was done. Only want of
room is told as that, because only there does it help the caller. Everything else leaves open whether the call was
applied: above all a connection that ended after the statement was sent.
"""

from __future__ import annotations

from typing import Final

from asyncpg import PostgresError

from actors.errors import StoreFull, StoreUnavailable

_NO_ROOM: Final = ("53100", "53200")
"""disk_full, out_of_memory."""


def as_store_error(error: BaseException) -> StoreUnavailable:
    """StoreFull if the server had no room, else StoreUnavailable. ``error`` is what asyncpg raised."""
    if isinstance(error, PostgresError) and error.sqlstate in _NO_ROOM and error.severity == "ERROR":
        return StoreFull(f"The checkpoint store has no room: {one_line(error)}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {type(error).__name__}: {one_line(error)}")


def is_passing(error: BaseException) -> bool:
    """Whether the same connection may do better next time: the server had no room, or gave up a statement.

    After anything else it is made anew, because what was prepared on it may not be there any more.
    """
    return isinstance(error, PostgresError) and error.sqlstate is not None and error.sqlstate[:2] in ("53", "57")


def one_line(error: BaseException) -> str:
    """The first line of what it says: the server's details and hints follow on others."""
    return next(iter(str(error).splitlines()), "")
