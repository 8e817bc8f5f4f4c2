"""What HAProxy answers by itself, as problem documents of the error tree: for its configuration.

Pure. A status has one text there, which can ask the request for no more than its headers. What HAProxy can't read as
HTTP/1.1 at all (a broken line, a head over its buffer, or one that never ends) it refuses with a page of its own, which
nothing configures; nothing was done then.
"""

from __future__ import annotations

from typing import Final

from pydantic_core import to_json

from actors.errors import BadRequest, BodyTooSlow, RehydraError, TooLarge


class NoHost(RehydraError):
    """No host is alive, or none was left to repeat the request on."""

    code = "no-host"
    title = "No host can take the request now"
    status = 503
    retryable = True


class HostFailed(RehydraError):
    """The host's answer broke off, or wasn't one."""

    code = "host-failed"
    title = "The host gave no valid answer"
    status = 502
    retryable = True


class HostSilent(RehydraError):
    code = "host-silent"
    title = "The host didn't answer in time"
    status = 504
    retryable = True


class EdgeBroken(RehydraError):
    code = "edge-broken"
    title = "The edge failed"
    status = 500
    retryable = True


KEYED: Final = "%[req.fhdr_cnt(idempotency-key),bool,iif(unknown,not_done)]"
"""HAProxy's words for: this request did nothing; but another one may have come under its key (I10)."""

_RETRY_AFTER_S: Final = 1
_REPEAT: Final = "Whether the turn was done is unknown; repeat it with its Idempotency-Key."

_OWN: Final[tuple[tuple[RehydraError, str], ...]] = (
    (BadRequest("The edge can't read this request."), ""),
    (BodyTooSlow("The request wasn't complete in time."), KEYED),
    (TooLarge(), ""),
    (EdgeBroken(_REPEAT), ""),
    (HostFailed(_REPEAT), ""),
    (NoHost(_REPEAT), ""),
    (HostSilent(_REPEAT), ""),
)
"""Each error, and its outcome if the request decides that."""


def own_answers() -> str:
    """The lines of a ``defaults`` section."""
    return "\n".join(f"    http-error {answer(error, outcome)}" for error, outcome in _OWN)


def answer(error: RehydraError, outcome: str = "") -> str:
    """A whole answer, for ``http-error`` and ``http-request return``. ``outcome``: HAProxy's expression for it."""
    document = error.problem() | ({"outcome": outcome} if outcome else {})
    text = to_json(document).decode().replace("'", r"'\''")
    how = "lf-string" if outcome else "string"
    headers = "hdr cache-control no-store"
    if error.status == NoHost.status:
        headers += f" hdr retry-after {_RETRY_AFTER_S}"
    elif not error.retryable:
        headers += " hdr x-should-retry false"
    return f"status {error.status} content-type application/problem+json {how} '{text}' {headers}"
