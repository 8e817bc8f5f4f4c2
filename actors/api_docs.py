"""Every route but the hot one, and the documentation of them all at ``/docs`` and ``/openapi.json`` (FastAPI).

``POST /chat`` is described here and answered by ``actors.api_chat``: a test holds the two against each other. All
errors are problem documents, those that FastAPI finds included, and a wrong method is told which ones there are.
"""

# No "from __future__ import annotations" here: FastAPI reads the annotations, some of which hold this host's limits.

import uuid
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from actors.api_answers import Answer, etag, json_answer, problem_answer
from actors.api_begin import Key, add_begin, response, session_view
from actors.api_headers import SESSION_ID_SAYS, edge_secret, idempotency_key, internal_pass, picked
from actors.api_models import (
    CHAT_HEADERS,
    CHATTING,
    DELETING,
    ETAG,
    IF_MATCH,
    IF_MATCH_SAYS,
    READING,
    SEQ_MAX,
    SESSION_ID,
    STREAM,
    UNCHANGED,
    ChatReply,
    ChatRequest,
    Health,
    Ready,
    RingView,
    SessionView,
    TurnsView,
    answers,
)
from actors.api_openapi import openapi
from actors.api_pages import add_pages
from actors.api_sealed_docs import add_sealed
from actors.errors import BadRequest, MethodNotAllowed, NotReady, PathUnknown, RehydraError
from actors.model import SessionKey, Turn, pid_of
from actors.service import Service
from actors.stores.base import Turns


def _digits(said: str) -> str:
    if not (said.isascii() and said.removeprefix("-").isdigit()):
        raise ValueError("a number is written in digits")
    return said


DIGITS = BeforeValidator(_digits)
"""``1_0`` and ``1.0`` are numbers to pydantic, but none of OpenAPI's."""
SessionId = Annotated[str, Path(pattern=SESSION_ID, description="The session's id.")]


# --- the application ------------------------------------------------------------------------------------------------


def documented(service: Service) -> FastAPI:
    """The FastAPI application of one host."""
    app = FastAPI(
        title="Rehydra",
        version=_version(),
        summary="Chat sessions that outlive their servers.",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    _add_chat(app)
    add_sealed(app)
    add_begin(app, service)
    _add_sessions(app, service)
    _add_views(app, service)
    _add_problems(app)
    add_pages(app)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def _add_chat(app: FastAPI) -> None:
    @app.post(
        "/chat",
        tags=["chat"],
        response_model=ChatReply,
        responses=answers(
            *CHATTING,
            s200={"description": "The committed turn.", "content": STREAM, "headers": CHAT_HEADERS},
        ),
    )
    async def chat(
        body: ChatRequest,
        x_session_id: Annotated[str | None, Header(pattern=SESSION_ID)] = None,
        idempotency_key: Key = None,
        if_match: Annotated[str | None, Header(pattern=IF_MATCH, description=IF_MATCH_SAYS)] = None,
    ) -> ChatReply:
        """Run one turn. The answer is given after the turn was committed; a client that leaves doesn't stop it."""
        raise AssertionError("actors.api answers /chat before FastAPI is asked")


def _add_sessions(app: FastAPI, service: Service) -> None:
    tenant = service.settings.store.tenant
    page_max = service.settings.http.turns_page_max
    right_pass = internal_pass(edge_secret(service.settings))

    @app.get(
        "/sessions/{session_id}",
        tags=["sessions"],
        response_model=SessionView,
        responses=answers(*READING, s200={"headers": {"ETag": ETAG}}, s304=UNCHANGED),
    )
    async def session(
        request: Request, session_id: SessionId, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """How far a session is."""
        _headers_of(request, session_id, right_pass)
        page = await service.host.read(SessionKey(session_id, tenant), 0, 1)
        return _tagged(page, request, session_view(session_id, page))

    @app.get(
        "/sessions/{session_id}/turns",
        tags=["sessions"],
        response_model=TurnsView,
        responses=answers(*READING, s200={"headers": {"ETag": ETAG}}, s304=UNCHANGED),
    )
    async def turns(
        request: Request,
        session_id: SessionId,
        after: Annotated[int, Query(ge=0, le=SEQ_MAX, description="Only turns with a higher turn_seq."), DIGITS] = 0,
        limit: Annotated[int, Query(ge=1, le=page_max, description="Most turns told."), DIGITS] = min(100, page_max),
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """The committed turns, oldest first. Fewer than `limit` if they are long; the last of all has `turn_seq`."""
        _headers_of(request, session_id, right_pass)
        page = await service.host.read(SessionKey(session_id, tenant), after, limit)
        views = [_turn_view(turn) for turn in page.turns]
        return _tagged(page, request, {"session_id": session_id, "turn_seq": page.turn_seq, "turns": views})

    @app.delete(
        "/sessions/{session_id}",
        tags=["sessions"],
        status_code=204,
        response_class=Response,
        responses=answers(*DELETING),
    )
    async def delete(request: Request, session_id: SessionId, idempotency_key: Key = None) -> Response:
        """Delete a session, its turns and its state. It answers 410 afterwards, and a repeat of this 204."""
        headers = _headers_of(_unconditional(request), session_id, right_pass)
        await service.host.delete(SessionKey(session_id, tenant), _turn_id(headers))
        return Response(status_code=204)


def _add_views(app: FastAPI, service: Service) -> None:
    @app.get("/ring", tags=["ring"], response_model=RingView, responses=answers())
    async def ring() -> Response:
        """Who holds which slot, as the host that answers sees it."""
        table, me = service.table, service.host.ref
        slots = {
            member.slot: {
                "host": member.incarnation,
                "pid": pid_of(member.incarnation),
                "address": member.address,
                "weight": member.weight,
            }
            for member in table.members.values()
        }
        view = {"ring_version": table.ring_version, "slots": slots, "host": me.incarnation, "slot": me.slot or None}
        return response(json_answer(200, view))

    @app.get("/healthz", tags=["health"], response_model=Health, responses=answers())
    async def healthz() -> Response:
        """The process runs and its event loop turns."""
        health = {"status": "ok", "host": service.host.ref.incarnation, "stats": service.host.stats()}
        return response(json_answer(200, health))

    @app.get("/readyz", tags=["health"], response_model=Ready, responses=answers(NotReady))
    async def readyz() -> Response:
        """Turns can be run here."""
        if reasons := await service.not_ready():
            raise NotReady(" ".join(reasons), reasons=list(reasons))
        return response(json_answer(200, {"status": "ready"}))


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(RehydraError)
    async def rehydra_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RehydraError)
        return response(problem_answer(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response(problem_answer(BadRequest("; ".join(_wrong(item) for item in error.errors()))))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return response(refusal(app, request.method, request.url.path, error))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette raises the error again once this is sent, and actors.api logs it.
        return response(problem_answer(RehydraError()))


def refusal(app: FastAPI, method: str, path: str, error: HTTPException | None = None) -> Answer:
    """404 for a path that isn't there, 405 with ``Allow`` for one that is."""
    if error is not None and error.status_code not in (404, 405):
        return problem_answer(BadRequest(str(error.detail)))
    allowed: set[str] = set()
    for route in app.routes:
        pattern, methods = getattr(route, "path_regex", None), getattr(route, "methods", None)
        if pattern is not None and methods and pattern.match(path):
            allowed |= methods
    if not allowed:
        return problem_answer(PathUnknown(f"There is nothing at {path}."))
    if "GET" in allowed:
        allowed.add("HEAD")
    allow = ", ".join(sorted(allowed))
    return problem_answer(MethodNotAllowed(f"{path} takes {allow}."), (b"allow", allow.encode()))


# --- small parts ----------------------------------------------------------------------------------------------------


def _turn_view(turn: Turn) -> dict[str, Any]:
    return {
        "turn_seq": turn.turn_seq,
        "turn_id": turn.turn_id,
        "message": turn.message,
        "reply": turn.reply,
        "metadata": turn.metadata,
        "epoch": turn.epoch,
        "committed_ms": turn.committed_ms,
    }


def _unconditional(request: Request) -> Request:
    """The request. BadRequest if it has a condition, which a deletion would ignore."""
    if "if-match" in request.headers:
        raise BadRequest("DELETE takes no If-Match: it deletes the session, whatever its last turn is.")
    return request


def _wrong(item: Any) -> str:
    """What is wrong with one part of a request, in words for people."""
    if item["loc"] == ("path", "session_id"):
        return SESSION_ID_SAYS
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


def _headers_of(request: Request, session_id: str, right_pass: str) -> dict[bytes, str]:
    """The header may say the same session as the path, not another one; and no header may come twice."""
    headers = picked(request.headers.raw, right_pass)
    if headers.get(b"x-session-id", session_id) != session_id:
        raise BadRequest("The session id in the header and the one in the path differ.")
    return headers


def _turn_id(headers: dict[bytes, str]) -> str:
    if (key := headers.get(b"idempotency-key")) is not None:
        return "k:" + idempotency_key(key)
    return "r:" + (headers.get(b"x-rehydra-request") or uuid.uuid4().hex)


def _tagged(page: Turns, request: Request, document: dict[str, Any]) -> Response:
    tag = etag(page.turn_seq)
    # One header or several, they are one list; and a weak comparison, as RFC 9110 wants it here.
    said = ",".join(request.headers.getlist("if-none-match"))
    known = {one.strip().removeprefix("W/") for one in said.split(",")}
    if "*" in known or tag.decode() in known:
        return Response(status_code=304, headers={"etag": tag.decode()})
    return response(json_answer(200, document, (b"etag", tag)))


def _version() -> str:
    try:
        return version("rehydra")
    except PackageNotFoundError:
        return "0"
