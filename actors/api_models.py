"""The shapes that clients see, as pydantic models and OpenAPI parts: what ``/docs`` says of requests and answers.

Descriptions only: ``POST /chat`` is checked by hand in ``actors.api_chat``, and a test holds that against
:class:`ChatRequest`. Other answers are written by ``actors.api_docs`` as plain dicts of the same shape.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from actors.model import SESSION_ID_PATTERN

SEQ_MAX = 10**15 - 1
SESSION_ID = f"^{SESSION_ID_PATTERN.pattern}$"
IDEMPOTENCY_KEY = r'^([!#-~][!-~]{0,254}|"[!#-\[\]-~]{1,255}")$'


class ChatRequest(BaseModel):
    """A message to a session."""

    model_config = ConfigDict(strict=True)

    message: str = Field(min_length=1, description="The message, at most `session.message_bytes_max` bytes of UTF-8.")
    session_id: str | None = Field(None, pattern=SESSION_ID, description="The session; a new one without it.")
    stream: bool | None = Field(None, description="Answer as server-sent events; without it `Accept` decides.")
    metadata: dict[str, Any] | None = Field(None, description="Anything the agent should know; kept with the turn.")


class ChatReply(BaseModel):
    """A committed turn."""

    session_id: str
    turn_id: str = Field(description="`k:` and the Idempotency-Key, or `r:` and the request's own id.")
    turn_seq: int = Field(ge=1, description="The turn's number in its session, from 1.")
    reply: str
    replayed: bool = Field(description="Whether an earlier request with this key had it committed already.")


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
_WHAT = {
    304: "Nothing has changed since the tag that was sent.",
    400: "The request is wrong; `detail` says how.",
    404: "There is no such session.",
    408: "The body took too long.",
    409: "The store lost the end of the session.",
    410: "The session was deleted.",
    412: "The session has moved on; `turn_seq` and `ETag` say where it is.",
    413: "The body or the message is too large.",
    415: "Compressed bodies aren't accepted.",
    422: "The Idempotency-Key belongs to another message.",
    429: "Too many messages of the session are waiting.",
    500: "The agent failed, or something inside.",
    503: "Come back later.",
    504: "The agent passed its deadline.",
}


def answers(*statuses: int, **more: Any) -> dict[int | str, dict[str, Any]]:
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": _WHAT[status]} | ({} if status == 304 else {"content": _PROBLEM}) for status in statuses
    }
    return answers | {int(status.removeprefix("s")): answer for status, answer in more.items()}


STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "`turn`, `delta`..., then `done` (the same fields as the JSON) or `error` (a problem). "
            "A further `turn` voids what came before it. Ids are `<epoch>-<n>`.",
        }
    }
}
CHAT_HEADERS = {
    "ETag": ETAG,
    "X-Session-Id": {"schema": {"type": "string"}},
    "X-Served-By": {"description": "The slot whose host answered.", "schema": {"type": "string"}},
    "X-Session-State": {"schema": {"enum": ["new", "resident", "rehydrated"]}},
    "Idempotent-Replayed": {"schema": {"const": "true"}},
}
