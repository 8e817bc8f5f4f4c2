"""What went wrong at DynamoDB, in the words of the error tree.

Three kinds: *contested* (the condition of a write didn't hold, or another write of the item was under way: nothing was
written, look again); *full* (DynamoDB won't ever take this request, because of its size: nothing was written); and all
else, which leaves open whether the call was applied. That the service was too busy is of the third kind too: this call
wasn't applied, but an earlier one with the same meaning may have been, and who asks waits and repeats either way.
"""

from __future__ import annotations

from typing import Any, Final

from botocore.exceptions import ClientError

from actors.errors import StoreFull, StoreUnavailable

CONTESTED: Final = frozenset({"ConditionalCheckFailed", "ConditionalCheckFailedException", "TransactionConflict",
                              "TransactionConflictException", "TransactionInProgressException"})  # fmt: skip
REFUSED: Final = frozenset({"AccessDeniedException", "ExpiredTokenException", "IncompleteSignature",
                            "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException",
                            "MissingAuthenticationToken", "MissingAuthenticationTokenException",
                            "SignatureDoesNotMatch", "UnrecognizedClientException"})  # fmt: skip
"""Whoever we are, we may not."""

_TOO_LARGE: Final = " size"
"""What DynamoDB says of items and requests that are too large, and of nothing else: they have no code of their own."""


class Contested(Exception):
    """Nothing was written. The item may have changed: read it, decide again."""


def code_of(error: BaseException) -> str:
    """DynamoDB's own name of the error; "" if it isn't one of DynamoDB's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def as_store_error(error: BaseException) -> Contested | StoreUnavailable:
    """``error`` is what a client raised."""
    code = code_of(error)
    if code == "TransactionCanceledException":
        return _cancelled(error)
    if code in CONTESTED:
        return Contested(code)
    if code == "ValidationException" and _TOO_LARGE in str(error):
        return StoreFull(f"The checkpoint store has no room for it: {_words(error)}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {code or type(error).__name__}: {_words(error)}")


def _cancelled(error: Any) -> Contested | StoreUnavailable:
    """A transaction is cancelled as a whole; each of its items has a reason, ``None`` for those without fault."""
    reasons = [reason for reason in error.response.get("CancellationReasons", ()) if reason.get("Code") != "None"]
    codes = {str(reason.get("Code")) for reason in reasons}
    if codes and codes <= CONTESTED:
        return Contested(", ".join(sorted(codes)))
    told = "; ".join(f"{reason.get('Code')}: {reason.get('Message', '')}" for reason in reasons)
    if _TOO_LARGE in told:
        return StoreFull(f"The checkpoint store has no room for it: {told}")
    return StoreUnavailable(f"The checkpoint store didn't do it: {told}")


def _words(error: BaseException) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Message", "")) or "without a word"
    return str(error) or "no answer in time"
