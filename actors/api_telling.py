"""Answering one request for a turn, whole or as a stream, until it is answered or its client has gone.

What runs at the same time: the request's own task, which tells the answer; of a stream, its writer; and behind another
listener than the host's own, a watcher that notices a client's going. Whoever computes the answer knows nothing of
these: it gets a requester, and ends it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from actors.api_answers import Answer, Headers, done_answer, host_header, problem_answer, slot_header
from actors.asgi import WRITER, ClientGone, ClientWatch, Receive, Scope, Send, Writer, send_answer
from actors.errors import RehydraError
from actors.ports import Done, Residence
from actors.ports import Final as FinalAnswer
from actors.service import Service
from actors.sse import ClientStalled, StreamRequester

log = logging.getLogger("rehydra.api")


class WholeRequester:
    """A client that wants one JSON answer."""

    __slots__ = ("_send", "_served_by", "_session_id", "_writer", "finished")

    stream = False

    def __init__(self, send: Send, writer: Writer | None, session_id: str, served_by: Headers) -> None:
        self._send = send
        self._writer = writer
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

    def quiet_s(self) -> float:
        return 0.0

    async def finish(self, final: FinalAnswer) -> None:
        if isinstance(final, Done):
            await self.relay(done_answer(self._session_id, self._served_by, final))
        else:
            await self.relay(problem_answer(final, *self._served_by, session_id=self._session_id))

    async def relay(self, answer: Answer) -> None:
        """The one answer, whoever made it. Later ones are dropped: a relay may have been cut short after its end."""
        if not self.finished:
            self.finished = True
            await send_answer(self._send, answer, self._writer)

    async def relay_frames(self, frames: bytes, headers: Headers) -> None:
        raise AssertionError("a peer streamed to a client that didn't ask for it")


Client = WholeRequester | StreamRequester
Tell = Callable[[Client], Awaitable[None]]
"""Has the turn run, and gives the requester its one final answer."""


class Telling:
    """How one host tells its answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ping_s = service.settings.http.ping_s
        self._body_s = service.settings.http.body_s
        self._gap_s = service.settings.http.delta_gap_s
        self._served_by_slot: dict[str, Headers] = {}

    async def answer(
        self, tell: Tell, session_id: str, turn_id: str, stream: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """One answer, whatever goes wrong, as long as somebody is there to take it."""
        served_by = self._served_by()
        where = {"session": session_id, "turn_id": turn_id}
        try:
            async with ClientWatch(scope, receive):
                if stream:
                    # The slot alone: a stream that one host begins another may end, and its head has left by then.
                    requester = StreamRequester(send, session_id, served_by[0], self._ping_s, self._body_s, self._gap_s)
                    await self._stream(tell, requester, where)
                else:
                    whole = WholeRequester(send, scope.get(WRITER), session_id, served_by)
                    await self._tell(tell, whole, where)
        except ClientGone:
            log.debug("client gone", extra=where)

    async def _stream(self, tell: Tell, requester: StreamRequester, where: dict[str, str]) -> None:
        stalled = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(requester.write())
                await self._tell(tell, requester, where)
        except* ClientStalled:
            stalled = True
        if stalled:
            raise ClientGone

    async def _tell(self, tell: Tell, requester: Client, where: dict[str, str]) -> None:
        """Have it answered; whatever goes wrong on the way there is an answer in the end."""
        try:
            await tell(requester)
        except RehydraError as error:
            await requester.finish(error)
        except Exception:
            log.exception("chat failed", extra=where)
        if not requester.finished:
            await requester.finish(RehydraError("The host ended the request without an answer; its log says why."))

    def _served_by(self) -> Headers:
        """The slot, which this host may change, and the name of its life, which stays."""
        ref = self._service.host.ref
        headers = self._served_by_slot.get(ref.slot)
        if headers is None:
            headers = self._served_by_slot[ref.slot] = [slot_header(ref.slot), host_header(ref.incarnation)]
        return headers


def refusal(error: RehydraError) -> Answer:
    """The answer to a request that isn't run."""
    if error.status == 408:
        # The rest of the body may never come: this connection is of no more use.
        return problem_answer(error, (b"connection", b"close"))
    return problem_answer(error)
