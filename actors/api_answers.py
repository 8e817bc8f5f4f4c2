"""The bytes of whole answers: a committed turn as JSON, an error as a problem document (RFC 9457).

Pure: values in, bytes out, no asyncio. Whatever can be made once (header names, the slot, the states) is made once,
because a busy host builds some thousand answers a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

from actors.errors import PreconditionFailed, RehydraError
from actors.ports import Done, Residence

Headers = list[tuple[bytes, bytes]]

JSON_TYPE: Final = (b"content-type", b"application/json")
PROBLEM_TYPE: Final = (b"content-type", b"application/problem+json")
NO_STORE: Final = (b"cache-control", b"no-store")
REPLAYED: Final = (b"idempotent-replayed", b"true")
SHOULD_NOT_RETRY: Final = (b"x-should-retry", b"false")
"""Some client libraries repeat every 409, 429 and 5xx unless they are told not to."""

RETRY_AFTER_S: Final = 1.0
"""What a retryable answer says when its error doesn't know better."""

_STATE: Final = {state: (b"x-session-state", state.value.encode()) for state in Residence}


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer. ``content-length`` is among the headers."""

    status: int
    headers: Headers
    body: bytes


def etag(turn_seq: int) -> bytes:
    """The entity tag of a session: its last turn_seq, in quotes."""
    return b'"%d"' % turn_seq


def slot_header(slot: str) -> tuple[bytes, bytes]:
    """``X-Served-By``; a host without a slot says ``-``."""
    return (b"x-served-by", slot.encode() or b"-")


def host_header(incarnation: str) -> tuple[bytes, bytes]:
    """``X-Served-By-Host``: which life of which host; a slot has many, and a host may change its slot."""
    return (b"x-served-by-host", incarnation.encode())


def done_document(session_id: str, done: Done) -> bytes:
    """The JSON of a committed turn: the body of the answer, and the data of the stream's ``done``."""
    turn = done.turn
    document = {
        "session_id": session_id,
        "turn_id": turn.turn_id,
        "turn_seq": turn.turn_seq,
        "reply": turn.reply,
        "replayed": done.replayed,
    }
    if done.sealed is not None:
        document |= {"state": done.sealed.text, "expires_ms": done.sealed.expires_ms}
    return to_json(document)


def state_header(residence: Residence) -> tuple[bytes, bytes]:
    """``X-Session-State``."""
    return _STATE[residence]


def turn_headers(done: Done) -> Headers:
    """``ETag``, ``X-Session-State``, and whether it is a repeat's recorded turn."""
    headers = [(b"etag", etag(done.turn.turn_seq)), state_header(done.residence)]
    if done.replayed:
        headers.append(REPLAYED)
    return headers


def done_answer(session_id: str, served_by: Headers, done: Done) -> Answer:
    """200 with the committed turn."""
    body = done_document(session_id, done)
    headers = [
        JSON_TYPE,
        (b"content-length", b"%d" % len(body)),
        (b"x-session-id", session_id.encode()),
        *served_by,
        *turn_headers(done),
    ]
    return Answer(200, headers, body)


def problem_document(error: RehydraError, session_id: str | None = None) -> bytes:
    """The problem as JSON; with the session's id where it is known, because the client may not have chosen it."""
    document = error.problem()
    if session_id is not None:
        document.setdefault("session_id", session_id)
    return to_json(document, fallback=str)


def problem_answer(error: RehydraError, *more: tuple[bytes, bytes], session_id: str | None = None) -> Answer:
    """The error's status, headers and problem document. ``more`` are headers of the caller, such as ``allow``."""
    body = problem_document(error, session_id)
    headers = [PROBLEM_TYPE, (b"content-length", b"%d" % len(body)), NO_STORE, *more]
    if session_id is not None:
        headers.append((b"x-session-id", session_id.encode()))
    if not error.retryable:
        headers.append(SHOULD_NOT_RETRY)
    elif (retry_after := _retry_after_s(error)) is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    if isinstance(error, PreconditionFailed) and "turn_seq" in error.extra:
        headers.append((b"etag", etag(int(error.extra["turn_seq"]))))
    return Answer(error.status, headers, body)


def _retry_after_s(error: RehydraError) -> int | None:
    """Whole seconds, at least 1 (0 would invite a storm); None where the status doesn't ask for the header."""
    if error.retry_after_s is None and error.status not in (429, 503):
        return None
    return max(1, math.ceil(error.retry_after_s if error.retry_after_s is not None else RETRY_AFTER_S))


def json_answer(status: int, document: Any, *more: tuple[bytes, bytes]) -> Answer:
    """Any JSON document."""
    body = to_json(document)
    return Answer(status, [JSON_TYPE, (b"content-length", b"%d" % len(body)), *more], body)
