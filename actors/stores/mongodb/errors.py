"""What went wrong at MongoDB, in the words of the error tree.

A document that would be too large, and a disk that is full, are refused before anything is written. All else leaves
open whether the call was applied: MongoDB may have done it and not have heard from the other members of its set.
"""

from __future__ import annotations

from typing import Final

from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError

from actors.errors import StoreFull, StoreUnavailable

FULL: Final = frozenset({10334, 17419, 17420, 14031})
"""BSONObjectTooLarge, the same of a document after its update (two places), OutOfDiskSpace."""
REFUSED: Final = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, and Atlas' own word for it."""


FAILURES: Final = (PyMongoError, DocumentTooLarge)
"""What the client raises. A document that it finds too large itself is an error of another family."""


def as_store_error(error: Exception) -> StoreUnavailable:
    """``error`` is what the client raised."""
    if isinstance(error, DocumentTooLarge) or (isinstance(error, OperationFailure) and error.code in FULL):
        return StoreFull(f"The checkpoint store has no room for it: {one_line(error)}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {type(error).__name__}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """What it says, without the full description of the topology that the client likes to add."""
    return " ".join(str(error).partition(", Timeout: ")[0].partition(", full error: ")[0].split())
