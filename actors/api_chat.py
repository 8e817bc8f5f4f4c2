"""``POST /chat``: the hot route, plain ASGI.

A request is read (``actors.api_request``) and given to the host, which ends it with exactly one final answer. Every
check happens before the host hears of the request, so a bad one leaves its session as it was. A client that goes away
ends only its own waiting: the turn goes on and is committed.

What the edge and other hosts add (the turn's id, its tenant, the hops) counts only with their pass: ``api_headers``
leaves it out otherwise, and the request is a client's like any other.
"""

from __future__ import annotations

import asyncio
import logging

from actors.api_answers import Answer, Headers, done_answer, host_header, problem_answer, slot_header
from actors.api_headers import (
    ANY_TURN,
    picked,
)
from actors.api_request import RequestReader
from actors.asgi import ClientGone, ClientWatch, Receive, Scope, Send, send_answer
from actors.errors import (
    PreconditionFailed,
    RehydraError,
    SessionUnknown,
)
from actors.model import SessionKey, TurnRequest
from actors.ports import Done, Residence
from actors.ports import Final as FinalAnswer
from actors.service import Service
from actors.sse import ClientStalled, StreamRequester

log = logging.getLogger("rehydra.api")


class WholeRequester:
    """A client that wants one JSON answer."""

    __slots__ = ("_send", "_served_by", "_session_id", "finished")

    stream = False

    def __init__(self, send: Send, session_id: str, served_by: Headers) -> None:
        self._send = send
        self._session_id = session_id
        self._served_by = served_by
        self.finished = False

    @property
    def begun(self) -> bool:
        return self.finished

    async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None:
        """Nothing to say before the end."""

    async def delta(self, text: str) -> None:
        """Nothing to say before the end."""

    async def finish(self, final: FinalAnswer) -> None:
        if isinstance(final, Done):
            await self.relay(done_answer(self._session_id, self._served_by, final))
        else:
            await self.relay(problem_answer(final, *self._served_by, session_id=self._session_id))

    async def relay(self, answer: Answer) -> None:
        """The one answer, whoever made it. Later ones are dropped: a relay may have been cut short after its end."""
        if not self.finished:
            self.finished = True
            await send_answer(self._send, answer)

    async def relay_frames(self, frames: bytes, headers: Headers) -> None:
        raise AssertionError("a peer streamed to a client that didn't ask for it")


class ChatRoute:
    """The ASGI handler of ``POST /chat``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = RequestReader(service)
        self._ping_s = service.settings.http.ping_s
        self._body_s = service.settings.http.body_s
        self._pass = self._reader.right_pass
        self._served_by_slot: dict[str, Headers] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = picked(scope["headers"], self._pass)
            hops = self._reader.hops(headers)
            body = await self._reader.body(headers, scope, receive)
            request, stream = self._reader.request(headers, body)
            if headers.get(b"if-match") == ANY_TURN:
                await self._must_exist(request.key)
        except RehydraError as error:
            await send_answer(send, _refusal(error))
            return
        except ClientGone:
            return
        served_by = self._served_by()
        try:
            async with ClientWatch(scope, receive):
                if stream:
                    await self._stream(request, hops, served_by, send)
                else:
                    await self._tell(request, hops, WholeRequester(send, request.key.session_id, served_by))
        except ClientGone:
            log.debug("client gone", extra={"session": request.key.session_id})

    async def _stream(self, request: TurnRequest, hops: int, served_by: Headers, send: Send) -> None:
        # The slot alone: a stream that one host begins another may end, and its head has left by then.
        requester = StreamRequester(send, request.key.session_id, served_by[0], self._ping_s, self._body_s)
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

    def _served_by(self) -> Headers:
        """The slot, which this host may change, and the name of its life, which stays."""
        ref = self._service.host.ref
        headers = self._served_by_slot.get(ref.slot)
        if headers is None:
            headers = self._served_by_slot[ref.slot] = [slot_header(ref.slot), host_header(ref.incarnation)]
        return headers

    async def _must_exist(self, key: SessionKey) -> None:
        """``If-Match: *``. A session that has a turn keeps it until it is deleted or expires, so no race can undo the
        answer but those, and whoever loses them gets 410 or a new session, as without the header."""
        try:
            turn_seq = (await self._service.host.read(key, 0, 1)).turn_seq
        except SessionUnknown:
            turn_seq = 0
        if not turn_seq:
            raise PreconditionFailed("The session has no turn yet.", turn_seq=0)


def _refusal(error: RehydraError) -> Answer:
    if error.status == 408:
        # The rest of the body may never come: this connection is of no more use.
        return problem_answer(error, (b"connection", b"close"))
    return problem_answer(error)
