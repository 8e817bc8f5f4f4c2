"""What a request asks for: its body within limits, the turn, and which session it is of.

Every check happens here, before the host hears of the request. Raises errors of the tree, each with one sentence for a
person. Which session: the header ``X-Session-Id``, else ``session_id`` in the body, else the id that the edge has
derived, else one derived here in the same way, so that a repeat under the same key finds the same session on any host.
"""

from __future__ import annotations

import hmac
import re
import uuid
from typing import Any, Final

from pydantic_core import from_json, to_json

from actors.api_headers import (
    edge_secret,
    idempotency_key,
    if_match,
    internal_pass,
    session_id_checked,
    wants_stream,
)
from actors.asgi import Receive, Scope, read_body
from actors.errors import BadRequest, BodyTooSlow, EncodingUnsupported, Misdirected, Outcome, TooLarge
from actors.model import SessionKey, TurnRequest, fingerprint_of
from actors.service import Service

_TURN_ID: Final = re.compile(r"[kr]:[!-~]{1,255}")
METADATA_LEVELS_MAX: Final = 128
"""Objects and arrays within each other. JSON is read to some 200 levels here, and hosts hand metadata over within two
of their own."""
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


def derived_session_id(secret: bytes, turn_id: str) -> str:
    """The session of a turn that names none: 32 hex digits that the edge computes in the same way."""
    return hmac.digest(secret, turn_id.encode("latin-1"), "sha256").hex()[:32]


class RequestReader:
    """Reads the requests of one host. ``right_pass``: by which the edge and other hosts are known."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._body_bytes_max = settings.session.body_bytes_max
        self._message_bytes_max = settings.session.message_bytes_max
        self._body_s = settings.http.body_s
        self._tenant = settings.store.tenant
        self._secret = edge_secret(settings)
        self.right_pass = internal_pass(self._secret)

    async def begun(self, headers: dict[bytes, str], scope: Scope, receive: Receive) -> SessionKey:
        """The session that ``POST /sessions`` asks for; its body may be missing."""
        body = await self.body(headers, scope, receive)
        document = parsed(body) if body else {}
        _, hashed = self.turn_id(headers)
        return SessionKey(self.session_id(headers, document.get("session_id"), hashed), self._tenant)

    def hops(self, headers: dict[bytes, str]) -> int:
        """How often the request was passed on; 0 from a client. Misdirected if another host was meant."""
        meant = headers.get(b"x-rehydra-to")
        if meant is None:
            return 0
        if meant != self._service.host.ref.incarnation:
            raise Misdirected(f"This is {self._service.host.ref.incarnation}.")
        return _number(headers.get(b"x-rehydra-hops", "1"), "x-rehydra-hops", 3)

    def _named_by(self, headers: dict[bytes, str]) -> int:
        told = headers.get(b"x-rehydra-ring") if b"x-rehydra-to" in headers else None
        return -1 if told is None else _number(told, "x-rehydra-ring", 16)

    async def body(self, headers: dict[bytes, str], scope: Scope, receive: Receive) -> bytes:
        if headers.get(b"content-encoding", "identity").lower() not in ("identity", ""):
            raise EncodingUnsupported("Send the JSON as it is, without Content-Encoding.")
        try:
            declared = headers.get(b"content-length")
            return await read_body(scope, receive, declared, self._body_bytes_max, self._body_s)
        except BodyTooSlow as error:
            if b"idempotency-key" in headers or b"x-rehydra-turn" in headers:
                # This request did nothing; an earlier one under its key may have.
                error.outcome = Outcome.UNKNOWN
            raise

    def request(self, headers: dict[bytes, str], body: bytes) -> tuple[TurnRequest, bool]:
        """The turn that is asked for, and whether as a stream. BadRequest says in one sentence what is wrong."""
        document = parsed(body)
        message = self.message(document)
        metadata = checked_metadata(document.get("metadata"))
        stream = stream_wanted(headers, document)
        turn_id, hashed = self.turn_id(headers)
        session_id = self.session_id(headers, document.get("session_id"), hashed)
        tenant = headers.get(b"x-rehydra-tenant", self._tenant) if b"x-rehydra-to" in headers else self._tenant
        request = TurnRequest(
            SessionKey(session_id, tenant),
            turn_id,
            fingerprint_of(message, metadata),
            message,
            metadata,
            if_match(headers.get(b"if-match")),
            self._named_by(headers),
        )
        return request, stream

    def message(self, document: dict[str, Any]) -> str:
        """The message of a request for a turn. TooLarge, BadRequest."""
        message = document.get("message")
        if not isinstance(message, str) or not message:
            raise BadRequest("message is missing, or isn't a text with at least one character.")
        # Four bytes are the most that a character takes, so short messages needn't be encoded to be measured.
        if len(message) * 4 > self._message_bytes_max and len(message.encode()) > self._message_bytes_max:
            raise TooLarge(f"message has more than {self._message_bytes_max} bytes.")
        return message

    def turn_id(self, headers: dict[bytes, str]) -> tuple[str, str]:
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

    def session_id(self, headers: dict[bytes, str], in_body: Any, hashed: str) -> str:
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


def _number(text: str, name: str, digits_max: int) -> int:
    """A number of up to so many digits. BadRequest for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= digits_max):
        raise BadRequest(f"{name} is a number.")
    return int(text)


def parsed(body: bytes) -> dict[str, Any]:
    """The body's JSON object. Lone surrogates are refused, as is anything that couldn't be kept byte for byte."""
    try:
        document = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise BadRequest(f"The body isn't JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BadRequest("The body is a JSON object with a message.")
    return document


def stream_wanted(headers: dict[bytes, str], document: dict[str, Any]) -> bool:
    """Whether the answer is to be a stream: the body decides, else ``Accept``."""
    stream = document.get("stream")
    if stream is None:
        return wants_stream(headers.get(b"accept", ""))
    if stream is not True and stream is not False:
        raise BadRequest("stream is true or false.")
    return stream


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
    if _levels(metadata) > METADATA_LEVELS_MAX:
        raise BadRequest(f"metadata can't be kept: it is nested deeper than {METADATA_LEVELS_MAX} levels.")
    return metadata


def _levels(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_levels, parts), default=0) if isinstance(value, dict | list) else 0
