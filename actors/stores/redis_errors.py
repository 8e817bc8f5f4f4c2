"""What went wrong at the Redis server, in the words of the error tree.

A refusal for want of memory or disk comes before the script has written anything (see ``lua/fence.lua``): nothing was
done by that call. Everything else leaves open whether the call was applied.
"""

from __future__ import annotations

from typing import Final

from actors.errors import StoreFull, StoreUnavailable

_FULL: Final = ("OOM", "MISCONF", "out of memory", "command not allowed when used memory")


def is_unknown_script(error: Exception) -> bool:
    """Whether the server has forgotten the script (restart, SCRIPT FLUSH): load it and repeat that call."""
    return type(error).__name__ == "NoScriptError" or str(error).startswith("NOSCRIPT")


def as_store_error(error: BaseException) -> StoreUnavailable:
    """StoreFull if the server had no room, else StoreUnavailable; ``error`` is what the client library raised."""
    text = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in _FULL):
        return StoreFull(f"The checkpoint store has no room: {text}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {text}")
