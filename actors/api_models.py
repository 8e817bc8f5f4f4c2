"""The shapes that clients see, as pydantic models and OpenAPI parts: what ``/docs`` says of requests and answers.

Descriptions only: ``POST /chat`` is checked by hand in ``actors.api_chat``, and a test holds that against
:class:`ChatRequest`. Other answers are written by ``actors.api_docs`` as plain dicts of the same shape.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from actors.errors import (
    AgentFailed,
    AgentTimedOut,
    BadRequest,
    BodyTooSlow,
    EncodingUnsupported,
    HeadTooLarge,
    KeyMismatch,
    MailboxFull,
    PoisonTurn,
    PreconditionFailed,
    RehydraError,
    SessionDeleted,
    SessionFull,
    SessionUnknown,
    StateRegressed,
    StoreFull,
    StoreUnavailable,
    TargetTooLong,
    TooBusy,
    TooLarge,
    Unreachable,
    WaitedTooLong,
)
from actors.model import SESSION_ID_PATTERN
from actors.sealed_errors import (
    HostFull,
    SealedOff,
    StateExpired,
    StateForeign,
    StateInvalid,
    StateKeyUnknown,
    StateNewer,
    StateOutdated,
    StateSuperseded,
    StateTooLarge,
)

SEQ_MAX = 10**15 - 1
SESSION_ID = f"^{SESSION_ID_PATTERN.pattern}$"
IDEMPOTENCY_KEY = r'^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$'

STATE = r"^rs1\.[A-Za-z0-9_-]+$"
IF_MATCH = r'^(\*|"(0|[1-9][0-9]{0,14})"|0|[1-9][0-9]{0,14})$'
IF_MATCH_SAYS = (
    'Run the turn only on this one: the `ETag` of the last answer; `"0"`: on a new session; `*`: on any other.'
)


class ChatRequest(BaseModel):
    """A message to a session."""

    model_config = ConfigDict(strict=True)

    message: str = Field(min_length=1, description="The message, at most `session.message_bytes_max` bytes of UTF-8.")
    session_id: str | None = Field(None, pattern=SESSION_ID, description="The session; a new one without it.")
    stream: bool | None = Field(None, description="Answer as server-sent events; without it `Accept` decides.")
    metadata: dict[str, Any] | None = Field(
        None, description="Anything the agent should know; kept with the turn. Nested 128 levels deep at most."
    )


class ChatReply(BaseModel):
    """A committed turn."""

    session_id: str
    turn_id: str = Field(description="`k:` and the Idempotency-Key, or `r:` and the request's own id.")
    turn_seq: int = Field(ge=1, description="The turn's number in its session, from 1.")
    reply: str
    replayed: bool = Field(description="Whether an earlier request with this key had it committed already.")


class SealedChatRequest(BaseModel):
    """A message, and the conversation that it goes on in."""

    model_config = ConfigDict(strict=True)

    message: str = Field(min_length=1, description="The message, at most `session.message_bytes_max` bytes of UTF-8.")
    state: str | None = Field(
        None, pattern=STATE, description="The `state` of the last answer; a new conversation without it."
    )
    stream: bool | None = Field(None, description="Answer as server-sent events; without it `Accept` decides.")
    metadata: dict[str, Any] | None = Field(
        None, description="Anything the agent should know; kept with the turn. Nested 128 levels deep at most."
    )


class SealedChatReply(ChatReply):
    """A turn, and all that there is of its conversation."""

    state: str = Field(pattern=STATE, description="The conversation, sealed: send it with the next message.")
    expires_ms: int | None = Field(description="Until when it is taken, milliseconds since 1970; null: always.")


class SessionRequest(BaseModel):
    """A session to be."""

    model_config = ConfigDict(strict=True)

    session_id: str | None = Field(None, pattern=SESSION_ID, description="Its id; a new one without it.")


class SessionView(BaseModel):
    """A session."""

    session_id: str
    turn_seq: int = Field(ge=0, description="Number of its last committed turn; 0 before the first.")
    created_ms: int | None = Field(description="When its first turn was committed, milliseconds since 1970.")


class TurnView(BaseModel):
    """A committed turn as the log has it."""

    turn_seq: int
    turn_id: str
    message: str
    reply: str
    metadata: dict[str, Any] | None
    epoch: int
    committed_ms: int


class TurnsView(BaseModel):
    """A page of turns. Go on with `after` = the last one's turn_seq until that is the session's."""

    session_id: str
    turn_seq: int = Field(description="Number of the session's last turn, whatever the page.")
    turns: list[TurnView]


class SlotView(BaseModel):
    """Who holds a slot."""

    host: str = Field(description="This life of the host: its process id on its machine, then random digits.")
    pid: int | None = Field(description="Its process id on its machine, where the name says it.")
    address: str
    weight: int


class RingView(BaseModel):
    """The ring as this host sees it."""

    ring_version: int
    slots: dict[str, SlotView]
    host: str = Field(description="The host that answers.")
    slot: str | None = Field(description="Its slot, if it has one.")


class Health(BaseModel):
    """The process runs; whether it can serve is what `/readyz` says."""

    status: Literal["ok"]
    host: str
    stats: dict[str, Any]


class Ready(BaseModel):
    """Turns can be run here."""

    status: Literal["ready"]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    outcome: Literal["not_done", "unknown"] = Field(
        description="`not_done`: the turn was not committed and won't be. `unknown`: ask again with the same key."
    )


# --- the parts of the documentation ---------------------------------------------------------------------------------

ETAG = {"description": "The session's turn_seq, in quotes.", "schema": {"type": "string"}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
EVERYWHERE = (BadRequest, BodyTooSlow, TargetTooLong, HeadTooLarge, RehydraError, TooBusy)
"""What the listener, and a bug, can answer on every route."""
READING = (SessionUnknown, SessionDeleted, StoreUnavailable)
DELETING = (SessionUnknown, StoreUnavailable, StoreFull)
BEGINNING = (SessionDeleted, TooLarge, EncodingUnsupported, StoreUnavailable, StoreFull)
CHATTING = (
    *(
        SessionDeleted,
        SessionFull,
        StateRegressed,
        PreconditionFailed,
        TooLarge,
        EncodingUnsupported,
        KeyMismatch,
        MailboxFull,
    ),
    *(AgentFailed, AgentTimedOut, PoisonTurn, StoreUnavailable, StoreFull, Unreachable, WaitedTooLong),
)
SEALING = (
    *(SealedOff, StateInvalid, StateKeyUnknown, StateForeign, StateOutdated, StateNewer, StateExpired, StateTooLarge),
    *(StateSuperseded, PreconditionFailed, TooLarge, EncodingUnsupported, KeyMismatch),
    *(AgentFailed, AgentTimedOut, HostFull, StoreUnavailable, StoreFull),
)
_OF_THE_EDGE = {
    500: "`edge-broken`: The edge failed.",
    502: "`host-failed`: The host gave no valid answer.",
    503: "`no-host`: No host can take the request now.",
    504: "`host-silent`: The host didn't answer in time.",
}


def answers(*errors: type[RehydraError], **more: Any) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that gives these errors, and what every route gives. ``more``: those that are none."""
    told: dict[int, list[str]] = {}
    each: dict[type[RehydraError], None] = dict.fromkeys((*errors, *EVERYWHERE))
    for error in each:
        told.setdefault(error.status, []).append(f"`{error.code}`: {error.title}.")
    for status, text in _OF_THE_EDGE.items():
        told.setdefault(status, []).append(text)
    problems = {status: {"description": " ".join(told[status]), "content": _PROBLEM} for status in sorted(told)}
    others: dict[int | str, dict[str, Any]] = {int(name.removeprefix("s")): answer for name, answer in more.items()}
    return others | problems


LOCATION = {"description": "Where the session is.", "schema": {"type": "string"}}
UNCHANGED = {"description": "Nothing has changed since the tag that was sent."}
STREAM = {
    "text/event-stream": {
        "schema": {
            "title": "Event",
            "type": "object",
            "properties": {
                "event": {"enum": ["turn", "delta", "done", "error"]},
                "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
            "required": ["event", "id", "data"],
            "description": "`turn`, `delta`..., then `done` (`data` is a `ChatReply`) or `error` (a `Problem`). "
            "A further `turn` voids what came before it. Ids are `<epoch>-<n>`. A stream begins before its turn is "
            "committed, so it has no `ETag` and no `X-Session-State` but as a repeat's; `done` has the turn_seq.",
        }
    }
}
CHAT_HEADERS = {
    "ETag": ETAG,
    "X-Session-Id": {"schema": {"type": "string"}},
    "X-Served-By": {"description": "The slot whose host answered.", "schema": {"type": "string"}},
    "X-Served-By-Host": {
        "description": "That host's life, as `GET /ring` names it. Not of a stream, which several hosts may tell.",
        "schema": {"type": "string"},
    },
    "X-Session-State": {"schema": {"enum": ["new", "resident", "rehydrated"]}},
    "Idempotent-Replayed": {"schema": {"const": "true"}},
}
