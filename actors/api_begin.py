"""``POST /sessions``: a session before its first message, and how any session is shown."""

# No "from __future__ import annotations" here: FastAPI reads the annotations.

from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response

from actors.api_answers import Answer, etag, json_answer
from actors.api_headers import picked
from actors.api_models import (
    BEGINNING,
    ETAG,
    IDEMPOTENCY_KEY,
    LOCATION,
    SESSION_ID,
    SessionRequest,
    SessionView,
    answers,
)
from actors.api_request import RequestReader
from actors.service import Service
from actors.stores.base import Turns

KEYS = "At most one turn per key and session."
Key = Annotated[
    str | None,
    # Said here, and checked by hand, as POST /chat does.
    Header(json_schema_extra={"pattern": IDEMPOTENCY_KEY}, description=KEYS),
]


def add_begin(app: FastAPI, service: Service) -> None:
    """``POST /sessions``."""
    reader = RequestReader(service)
    shape = {"required": False, "content": {"application/json": {"schema": SessionRequest.model_json_schema()}}}
    there: dict[str, Any] = {"description": "It was there.", "model": SessionView}
    headers = {"headers": {"ETag": ETAG, "Location": LOCATION}}

    @app.post(
        "/sessions",
        tags=["sessions"],
        status_code=201,
        response_model=SessionView,
        responses=answers(*BEGINNING, s200=there | headers, s201=headers),
        openapi_extra={"requestBody": shape},
    )
    async def begin(
        request: Request,
        x_session_id: Annotated[str | None, Header(json_schema_extra={"pattern": SESSION_ID})] = None,
        idempotency_key: Key = None,
    ) -> Response:
        """Make a session before its first message, which isn't necessary: that would make it too."""
        key = await reader.begun(picked(request.headers.raw, reader.right_pass), request.scope, request.receive)
        page, new = await service.host.open(key)
        where = (b"location", f"/sessions/{key.session_id}".encode())
        view = session_view(key.session_id, page)
        return response(json_answer(201 if new else 200, view, (b"etag", etag(page.turn_seq)), where))


def session_view(session_id: str, page: Turns) -> dict[str, Any]:
    """See ``SessionView``. ``page`` begins with the first turn, if there is one."""
    created_ms = page.turns[0].committed_ms if page.turns else None
    return {"session_id": session_id, "turn_seq": page.turn_seq, "created_ms": created_ms}


def response(answer: Answer) -> Response:
    """An answer of ours as FastAPI takes it, headers and all."""
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response
