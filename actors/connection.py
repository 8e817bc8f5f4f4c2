"""One connection of a host's listener: uvicorn's, with the limits that it lacks.

How many there are, how long and how large a head may be, which headers count, and how long a client may send what
nobody reads. A head is measured as the edge measures it (path and query, and each header as ``name: value`` and a line
end), so that both refuse the same ones, and both with a problem document.

An answer that has a length leaves in one write, see :class:`Joined`.

A request's headers are those of its head. What a client sends after a chunked body (trailers) is dropped: no proxy has
looked at it, and uvicorn would put it among the headers.

A head that asks for another protocol (``Upgrade``) is refused: behind it the parser sees no body, but what its
client chose to send as one would be read as further requests, which no proxy has looked at either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from actors.api_answers import Answer, problem_answer
from actors.asgi import BODY, LEAVING, WRITER
from actors.errors import BadRequest, HeadTooLarge, RehydraError, TargetTooLong, TooBusy
from actors.settings import HttpSettings

TICK_S: Final = 1.0
"""How often the listener has its connections look at the time."""
EXCESS_BYTES_MAX: Final = 8 << 20
"""What a client may go on to send after its answer (a 413) before it is cut off instead of listened to."""
INTERNAL_BYTES_MAX: Final = 1_024
INTERNAL_HEADERS_MAX: Final = 8
"""What the edge and other hosts may add to a client's headers, beyond the limits that the client is held to."""


class HeadRefused(Exception):
    """Ends the parsing of a head that is over a limit, or asks for another protocol."""


class Connection(HttpToolsProtocol):
    """One client's connection. Its listener calls ``cut_if_late`` every ``TICK_S``."""

    def __init__(self, config: Config, state: ServerState, settings: HttpSettings) -> None:
        super().__init__(config, state, {})
        self._settings = settings
        self._head_bytes_max = settings.head_bytes_max + INTERNAL_BYTES_MAX
        self._headers_max = settings.headers_max + INTERNAL_HEADERS_MAX
        self._since = time.monotonic()
        """When the client began to send the request that isn't complete, or to be idle without a first one."""
        self._in_head = True
        self._head_bytes = 0
        self._bodiless_bytes = 0
        """Received since the last of a body, or of a complete head: a head, the frame of a chunk, trailers."""
        self._incomplete = True
        self._excess_bytes = 0
        self._refused = False
        """Its last answer is given, or on its way; what it still sends is dropped."""
        self._closing_since = 0.0
        self.url = b""
        self.tell: Callable[[], object] | None = None
        """See :class:`actors.asgi.Leaving`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._settings.connections_max:
            transport.write(_TOO_BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if (tell := self.tell) is not None:
            self.tell = None
            tell()

    @property
    def has_left(self) -> bool:
        return self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._refused:
            self._drop(len(data))
            return
        # This piece may end with a body's beginning, hence only what came before it is measured.
        if self._bodiless_bytes > self._head_bytes_max:
            if self._in_head:
                self._refuse(self._head_refusal())
            else:
                self.transport.abort()
            return
        self._bodiless_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._incomplete = self._in_head = True
        self._head_bytes = 2
        self._since = time.monotonic()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)
        if len(self.url) > self._settings.head_bytes_max:
            raise HeadRefused

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
            self._head_bytes += len(name) + len(value) + 4
            if self._head_bytes > self._head_bytes_max or len(self.headers) > self._headers_max:
                raise HeadRefused

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            raise HeadRefused
        self._in_head = False
        self._bodiless_bytes = 0
        super().on_headers_complete()
        joined = Joined(self.cycle)
        self.cycle.transport = joined  # type: ignore[assignment]
        self.cycle.scope[WRITER] = joined  # type: ignore[typeddict-unknown-key]
        self.cycle.scope[LEAVING] = self  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._drop(len(body))

    def on_message_complete(self) -> None:
        self._incomplete = False
        self._in_head = True
        if len(body := self.cycle.body) <= HIGH_WATER_LIMIT:
            # The application's task has not begun if this piece began with the head. Of a longer body uvicorn must be
            # asked: it has stopped reading, and nobody would notice that the client leaves.
            self.cycle.scope[BODY] = bytes(body)  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Not HTTP, or a head that is refused: there is no request to answer, but an answer all the same."""
        over = len(self.headers or ()) > self._headers_max or self._head_bytes > self._head_bytes_max
        too_long = len(self.url) > self._settings.head_bytes_max
        if self._in_head and (over or too_long):
            self._refuse(self._head_refusal())
        else:
            self._refuse(_NO_UPGRADE if self.parser.should_upgrade() else _NOT_HTTP)

    def _head_refusal(self) -> bytes:
        http = self._settings
        if len(self.url) > http.head_bytes_max:
            return _raw(b"414 URI Too Long", TargetTooLong(f"At most {http.head_bytes_max} bytes are allowed."))
        limit = f"At most {http.head_bytes_max} bytes in {http.headers_max} lines are allowed."
        return _raw(b"431 Request Header Fields Too Large", HeadTooLarge(limit))

    def _refuse(self, answer: bytes) -> None:
        """The last answer on this connection, unless an earlier request's is still to come: then that is."""
        busy = self.cycle is not None and not self.cycle.response_complete
        self._refused = self._in_head
        if busy and self._in_head:
            self.cycle.keep_alive = False
        elif busy and self.cycle.response_started:
            self.transport.abort()
        else:
            self.transport.write(answer)
            # Closing while the client still sends would have its kernel throw the answer away.
            (self.transport.write_eof if self._in_head else self.transport.close)()

    def _drop(self, size: int) -> None:
        self._excess_bytes += size
        if self._excess_bytes > EXCESS_BYTES_MAX:
            self.transport.abort()

    def cut_if_late(self, now: float) -> None:
        """Called by the ticker. The body of a request that is being served has its own limit (``body_s``)."""
        since = self._since
        answered = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or (self._refused and answered):
            # Closed, and the client takes the last bytes slowly, or never; or goes on sending.
            since = self._closing_since = self._closing_since or now
        elif not (self._incomplete and (self._in_head or answered)):
            return
        if now - since > self._settings.body_s + TICK_S:
            self.transport.abort()


class Joined:
    """What one answer is written to: of an answer in one piece, head and body leave in one write.

    In two, a host that is killed between them leaves a client with a head, whose request nobody may repeat any more:
    the edge only does so as long as no byte of an answer has come. What is written in one call the kernel delivers,
    whatever becomes of the process (as far as its buffer goes).
    """

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head = b""

    def write(self, data: bytes) -> None:
        cycle = self._cycle
        if self._head:
            data, self._head = self._head + data, b""
        elif cycle.expected_content_length and not cycle.chunked_encoding and cycle.scope["method"] != "HEAD":
            # Its body has a length and is still to come: this is the head.
            self._head = data
            return
        self._transport.write(data)

    def write_whole(self, answer: Answer) -> bool:
        """See :class:`actors.asgi.Writer`. Leaves the cycle as two of its sends do. Not for what they have to look at:
        a client that has gone or takes nothing, the last answer of a connection, a head without its body.

        The headers aren't looked through: the host has made them, or read them as the headers of another's answer.
        """
        cycle = self._cycle
        usual = cycle.keep_alive and cycle.scope["method"] != "HEAD"
        sized = (b"content-length", b"%d" % len(answer.body)) in answer.headers
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or not (usual and sized):
            return False
        parts = [STATUS_LINE[answer.status]]
        for name, value in (*cycle.default_headers, *answer.headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", answer.body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        self._transport.write(b"".join(parts))
        cycle.on_response()
        return True

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _raw(status_line: bytes, error: RehydraError) -> bytes:
    answer = problem_answer(error, (b"connection", b"close"))
    head = b"".join(b"%b: %b\r\n" % header for header in answer.headers)
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status_line, head, answer.body)


_TOO_BUSY: Final = _raw(b"503 Service Unavailable", TooBusy())
_NOT_HTTP: Final = _raw(b"400 Bad Request", BadRequest("This isn't HTTP/1.1."))
_NO_UPGRADE: Final = _raw(b"400 Bad Request", BadRequest("No other protocol than HTTP/1.1 is spoken here."))
