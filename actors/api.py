"""The HTTP surface of one host, as one ASGI callable.

``POST /chat``, ``POST /chat/sealed`` and what hosts say to each other go straight to plain ASGI handlers; all else goes
to FastAPI. ``HEAD``
is answered as ``GET`` is, without the body. Every request runs in its own task; nothing is shared between them but the
host. Requests that only hosts may send (``/internal/...``) must show the pass, without which there is nothing at their
path, and name the incarnation they are meant for in ``x-rehydra-to``. Who comes from outside has no pass, whether
through the edge, Serve's proxy or directly.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from actors.api_answers import problem_answer
from actors.api_chat import ChatRoute
from actors.api_docs import documented
from actors.api_headers import PASS, edge_secret, internal_pass, picked, session_id_checked
from actors.api_request import checked_metadata, parsed
from actors.api_sealed import SealedRoute
from actors.asgi import ClientGone, Message, Receive, Scope, Send, read_body, send_answer
from actors.errors import BadRequest, MethodNotAllowed, Misdirected, Outdated, PathUnknown, RehydraError
from actors.model import SessionKey, TurnRequest, fingerprint_of
from actors.service import Service

log = logging.getLogger("rehydra.api")

Take = Callable[[dict[str, Any]], Awaitable[None]]
"""What becomes of the document that another host sends."""


class Api:
    """ASGI application of one host."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pass = internal_pass(edge_secret(service.settings))
        self._chat = ChatRoute(service)
        self._sealed = SealedRoute(service)
        self._rest = documented(service)
        session = service.settings.session
        # A batch may hold a full mailbox that was handed over to a host which had a full one of its own.
        self._batch_bytes_max = 2 * session.mailbox_max * session.body_bytes_max
        self._internal = {"/internal/hand-off": self._take_batch, "/internal/deleted": self._take_deletion}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other_protocol(scope, receive, send)
            return
        path: str = scope["path"]
        if root := scope.get("root_path"):
            path = path.removeprefix(root)
        if path == "/chat" and scope["method"] == "POST":
            await self._chat(scope, receive, send)
        elif path == "/chat/sealed" and scope["method"] == "POST":
            await self._sealed(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._guarded(path, {**scope, "method": "GET"}, receive, _headless(send))
        else:
            await self._guarded(path, scope, receive, send)

    async def _guarded(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if (take := self._internal.get(path)) is not None:
                await self._from_a_host(take, path, scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        except RehydraError as error:
            await send_answer(send, problem_answer(error))
        except ClientGone:
            return
        except Exception:
            log.exception("request failed", extra={"path": path})
            # FastAPI has answered before it raises; only a failure of an internal route is still unanswered.
            if path in self._internal:
                await send_answer(send, problem_answer(RehydraError()))

    async def _from_a_host(self, take: Take, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """What another host tells this one. 204 once it was taken."""
        headers = self._headers_of_a_host(scope)
        if headers.get(b"x-rehydra-to") != self._service.host.ref.incarnation:
            raise Misdirected(f"This is {self._service.host.ref.incarnation}.")
        if scope["method"] != "POST":
            await send_answer(send, problem_answer(MethodNotAllowed(f"{path} takes POST."), (b"allow", b"POST")))
            return
        body_s = self._service.settings.http.body_s
        body = await read_body(scope, receive, headers.get(b"content-length"), self._batch_bytes_max, body_s)
        await take(parsed(body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _take_batch(self, document: dict[str, Any]) -> None:
        """Waiting turns of a session, from the host that had it."""
        key, batch, under = batch_of(document)
        if not await self._service.host.accept_batch(key, batch, under):
            raise Outdated(f"This host has the session under another epoch than {under}.")

    async def _take_deletion(self, document: dict[str, Any]) -> None:
        """The host that deleted a session says so to its holder."""
        self._service.host.deleted(key_of(document))

    def _headers_of_a_host(self, scope: Scope) -> dict[bytes, str]:
        """The headers of another host's request. PathUnknown, the answer of any path that isn't there, to all else."""
        unknown = PathUnknown(f"There is nothing at {scope['path']}.")
        try:
            headers = picked(scope["headers"], self._pass)
        except BadRequest as error:
            raise unknown from error
        if PASS not in headers:
            raise unknown
        return headers


def _headless(send: Send) -> Send:
    """What is left of an answer to ``GET`` for ``HEAD``: its status and headers."""

    async def without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return without_body


def key_of(document: dict[str, Any]) -> SessionKey:
    """The session that another host speaks of. BadRequest if another program speaks."""
    try:
        return SessionKey(session_id_checked(document["session_id"]), str(document["tenant"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"This names no session: {error!r}.") from error


def batch_of(document: dict[str, Any]) -> tuple[SessionKey, list[TurnRequest], int]:
    """The turns of a ``/internal/hand-off``, and the epoch that they are for. BadRequest if another program speaks."""
    key = key_of(document)
    try:
        if not isinstance(under := document["under"], int):
            raise TypeError(f"{under!r} is no epoch")
        return key, [_turn_of(key, entry) for entry in document["batch"]], under
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"This isn't a batch of turns: {error!r}.") from error


def _turn_of(key: SessionKey, entry: dict[str, Any]) -> TurnRequest:
    message, metadata, if_match = entry["message"], checked_metadata(entry.get("metadata")), entry.get("if_match")
    if not isinstance(message, str) or not isinstance(entry["turn_id"], str) or not isinstance(if_match, int | None):
        raise TypeError(f"turn {entry['turn_id']!r} has parts of a wrong type")
    if not isinstance(named_by := entry.get("named_by", -1), int):
        raise TypeError(f"turn {entry['turn_id']!r} isn't named by the ring of a number")
    return TurnRequest(key, entry["turn_id"], fingerprint_of(message, metadata), message, metadata, if_match, named_by)


async def _other_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Lifespan has nothing to do here; a WebSocket is refused."""
    if scope["type"] != "lifespan":
        await send({"type": "websocket.close", "code": 1000})
        return
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
