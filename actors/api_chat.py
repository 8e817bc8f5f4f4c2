"""``POST /chat``: the hot route, plain ASGI.

A request is read, checked by hand and given to the host, which ends it with exactly one final answer. Every check
happens before the host hears of the request, so a bad one leaves its session as it was. A client that goes away ends
only its own waiting: the turn goes on and is committed.

Which session: the header ``X-Session-Id``, else ``session_id`` in the body, else the id that the edge has derived,
else one derived here in the same way, so that a repeat under the same key finds the same session on any host.

What the edge and other hosts add (the turn's id, its tenant, the hops) counts only with their pass: ``api_headers``
leaves it out otherwise, and the request is a client's like any other.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import uuid
from typing import Any, Final

from pydantic_core import from_json, to_json

from actors.api_answers import Answer, Headers, done_answer, problem_answer, slot_header
from actors.api_headers import edge_secret, idempotency_key, if_match, internal_pass, picked, session_id_checked
from actors.asgi import ClientGone, ClientWatch, Receive, Scope, Send, read_body, send_answer
from actors.errors import BadRequest, EncodingUnsupported, Misdirected, RehydraError, TooLarge
from actors.model import SessionKey, TurnRequest, fingerprint_of
from actors.ports import Done
from actors.ports import Final as FinalAnswer
from actors.service import Service
from actors.settings import Settings
from actors.sse import ClientStalled, StreamRequester

log = logging.getLogger("rehydra.api")

_TURN_ID: Final = re.compile(r"[kr]:[!-~]{1,255}")
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


def derived_session_id(secret: bytes, turn_id: str) -> str:
    """The session of a turn that names none: 32 hex digits that the edge computes in the same way."""
    return hmac.digest(secret, turn_id.encode("latin-1"), "sha256").hex()[:32]


class WholeRequester:
    """A client that wants one JSON answer."""

    __slots__ = ("_send", "_served_by", "_session_id", "finished")

    stream = False

    def __init__(self, send: Send, session_id: str, served_by: tuple[bytes, bytes]) -> None:
        self._send = send
        self._session_id = session_id
        self._served_by = served_by
        self.finished = False

    @property
    def begun(self) -> bool:
        return self.finished

    async def turn(self, turn_id: str, epoch: int) -> None:
        """Nothing to say before the end."""

    async def delta(self, text: str) -> None:
        """Nothing to say before the end."""

    async def finish(self, final: FinalAnswer) -> None:
        if isinstance(final, Done):
            await self.relay(done_answer(self._session_id, self._served_by, final))
        else:
            await self.relay(problem_answer(final, self._served_by, session_id=self._session_id))

    async def relay(self, answer: Answer) -> None:
        """The one answer, whoever made it. Later ones are dropped: a relay may have been cut short after its end."""
        if not self.finished:
            self.finished = True
            await send_answer(self._send, answer)

    async def relay_frames(self, frames: bytes, headers: Headers) -> None:
        raise AssertionError("a peer streamed to a client that didn't ask for it")

    async def relay_end(self) -> None:
        raise AssertionError("a peer streamed to a client that didn't ask for it")


class ChatRoute:
    """The ASGI handler of ``POST /chat``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings: Settings = service.settings
        self._body_bytes_max = settings.session.body_bytes_max
        self._message_bytes_max = settings.session.message_bytes_max
        self._body_s = settings.http.body_s
        self._ping_s = settings.http.ping_s
        self._tenant = settings.store.tenant
        self._secret = edge_secret(settings)
        self._pass = internal_pass(self._secret)
        self._slot_headers: dict[str, tuple[bytes, bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = picked(scope["headers"], self._pass)
            hops = self._hops(headers)
            body = await self._body(headers, receive)
            request, stream = self._request(headers, body)
        except RehydraError as error:
            await send_answer(send, _refusal(error))
            return
        except ClientGone:
            return
        served_by = self._served_by()
        try:
            async with ClientWatch(receive):
                if stream:
                    await self._stream(request, hops, served_by, send)
                else:
                    await self._tell(request, hops, WholeRequester(send, request.key.session_id, served_by))
        except ClientGone:
            log.debug("client gone", extra={"session": request.key.session_id})

    async def _stream(self, request: TurnRequest, hops: int, served_by: tuple[bytes, bytes], send: Send) -> None:
        requester = StreamRequester(send, request.key.session_id, served_by, self._ping_s, self._body_s)
        stalled = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(requester.write())
                await self._tell(request, hops, requester)
        except* ClientStalled:
            stalled = True
        if stalled:
            raise ClientGone

    async def _tell(self, request: TurnRequest, hops: int, requester: WholeRequester | StreamRequester) -> None:
        """Have the host answer; whatever goes wrong on the way there is an answer in the end."""
        try:
            await self._service.host.chat(request, requester, hops)
        except RehydraError as error:
            await requester.finish(error)
        except Exception:
            log.exception("chat failed", extra={"session": request.key.session_id, "turn_id": request.turn_id})
        if not requester.finished:
            await requester.finish(RehydraError("The host ended the request without an answer; its log says why."))

    def _served_by(self) -> tuple[bytes, bytes]:
        slot = self._service.host.ref.slot
        header = self._slot_headers.get(slot)
        if header is None:
            header = self._slot_headers[slot] = slot_header(slot)
        return header

    # --- reading the request ----------------------------------------------------------------------------------------

    def _hops(self, headers: dict[bytes, str]) -> int:
        """How often the request was passed on; 0 from a client. Misdirected if another host was meant."""
        meant = headers.get(b"x-rehydra-to")
        if meant is None:
            return 0
        if meant != self._service.host.ref.incarnation:
            raise Misdirected(f"This is {self._service.host.ref.incarnation}.")
        hops = headers.get(b"x-rehydra-hops", "1")
        if not (hops.isascii() and hops.isdigit() and len(hops) <= 3):
            raise BadRequest("x-rehydra-hops is a number.")
        return int(hops)

    async def _body(self, headers: dict[bytes, str], receive: Receive) -> bytes:
        if headers.get(b"content-encoding", "identity").lower() not in ("identity", ""):
            raise EncodingUnsupported("Send the JSON as it is, without Content-Encoding.")
        return await read_body(receive, headers.get(b"content-length"), self._body_bytes_max, self._body_s)

    def _request(self, headers: dict[bytes, str], body: bytes) -> tuple[TurnRequest, bool]:
        """The turn that is asked for, and whether as a stream. BadRequest says in one sentence what is wrong."""
        document = parsed(body)
        message = self._message(document)
        metadata = checked_metadata(document.get("metadata"))
        stream = document.get("stream")
        if stream is None:
            stream = "text/event-stream" in headers.get(b"accept", "")
        elif stream is not True and stream is not False:
            raise BadRequest("stream is true or false.")
        turn_id, hashed = self._turn_id(headers)
        session_id = self._session_id(headers, document.get("session_id"), hashed)
        tenant = headers.get(b"x-rehydra-tenant", self._tenant) if b"x-rehydra-to" in headers else self._tenant
        request = TurnRequest(
            SessionKey(session_id, tenant),
            turn_id,
            fingerprint_of(message, metadata),
            message,
            metadata,
            if_match(headers.get(b"if-match")),
        )
        return request, stream

    def _message(self, document: dict[str, Any]) -> str:
        message = document.get("message")
        if not isinstance(message, str) or not message:
            raise BadRequest("message is missing, or isn't a text with at least one character.")
        # Four bytes are the most that a character takes, so short messages needn't be encoded to be measured.
        if len(message) * 4 > self._message_bytes_max and len(message.encode()) > self._message_bytes_max:
            raise TooLarge(f"message has more than {self._message_bytes_max} bytes.")
        return message

    def _turn_id(self, headers: dict[bytes, str]) -> tuple[str, str]:
        """The turn id, and the same as the edge sees it, who doesn't take off quotes."""
        if (passed_on := headers.get(b"x-rehydra-turn")) is not None and b"x-rehydra-to" in headers:
            if _TURN_ID.fullmatch(passed_on) is None:
                raise BadRequest("x-rehydra-turn isn't a turn id.")
            return passed_on, passed_on
        if (key := headers.get(b"idempotency-key")) is not None:
            return "k:" + idempotency_key(key), "k:" + key
        request_id = headers.get(b"x-rehydra-request") or uuid.uuid4().hex
        if _REQUEST_ID.fullmatch(request_id) is None:
            raise BadRequest("x-rehydra-request is 1 to 128 visible ASCII characters.")
        return "r:" + request_id, "r:" + request_id

    def _session_id(self, headers: dict[bytes, str], in_body: Any, hashed: str) -> str:
        if in_body is not None and not isinstance(in_body, str):
            raise BadRequest("session_id is a text.")
        in_header = headers.get(b"x-session-id")
        if in_header is not None and in_body is not None and in_header != in_body:
            raise BadRequest("The session id in the header and the one in the body differ.")
        session_id = in_header if in_header is not None else in_body
        if session_id is None:
            session_id = headers.get(b"x-rehydra-session")
        if session_id is None:
            return derived_session_id(self._secret, hashed)
        return session_id_checked(session_id)


def parsed(body: bytes) -> dict[str, Any]:
    """The body's JSON object. Lone surrogates are refused, as is anything that couldn't be kept byte for byte."""
    try:
        document = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise BadRequest(f"The body isn't JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BadRequest("The body is a JSON object with a message.")
    return document


def checked_metadata(metadata: Any) -> dict[str, Any] | None:
    """The metadata as it will be kept. BadRequest for anything but an object that survives being written as JSON."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise BadRequest("metadata is an object.")
    try:
        # 1e999 is read as infinity, which JSON can't say.
        from_json(to_json(metadata, inf_nan_mode="constants"), allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"metadata can't be kept: {error}.") from error
    return metadata


def _refusal(error: RehydraError) -> Answer:
    if error.status == 408:
        # The rest of the body may never come: this connection is of no more use.
        return problem_answer(error, (b"connection", b"close"))
    return problem_answer(error)
