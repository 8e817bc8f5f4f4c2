"""What went wrong at the Redis server, in the words of the error tree.

A refusal for want of memory or disk comes before the script has written anything (see ``lua/fence.lua``): nothing was
done by that call. Everything else leaves open whether the call was applied.
"""

from __future__ import annotations

from redis.exceptions import NoScriptError, OutOfMemoryError

from actors.errors import StoreFull, StoreUnavailable


def is_unknown_script(error: Exception) -> bool:
    """Whether the server has forgotten the script (restart, SCRIPT FLUSH): load it and repeat that call."""
    return isinstance(error, NoScriptError)


def as_store_error(error: BaseException) -> StoreUnavailable:
    """StoreFull if the server had no room, else StoreUnavailable. ``error`` is what redis-py raised or returned."""
    # MISCONF: the last save or AOF write failed, so the server takes no writes.
    if isinstance(error, OutOfMemoryError) or str(error).startswith(("OOM", "MISCONF")):
        return StoreFull(f"The checkpoint store has no room: {error}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {type(error).__name__}: {error}")
