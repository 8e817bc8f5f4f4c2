"""``POST /chat``: the hot route, plain ASGI.

A request is read (``actors.api_request``) and given to the host, which ends it with exactly one final answer. Every
check happens before the host hears of the request, so a bad one leaves its session as it was. A client that goes away
ends only its own waiting: the turn goes on and is committed.

What the edge and other hosts add (the turn's id, its tenant, the hops) counts only with their pass: ``api_headers``
leaves it out otherwise, and the request is a client's like any other.

The way of one turn in a resident session, and what each step takes of the CPU time of its host (some 500 Python calls,
0.3 to 0.5 ms on the machine of the README; shares by cProfile, agent ``echo``, a JSON answer):

====  =====================================================================================================  =====
1     ``connection.Connection.data_received``: head and body are parsed, the request gets its task            14 %
2     :class:`ChatRoute`: headers, JSON, turn id, fingerprint                                                 12 %
3     ``api_telling.Telling``, ``Host.chat``: who is told, and until when it waits                             9 %
4     ``Host._answer``, ``Activation.submit``: at home on the ring? known id? into the mailbox, a task        10 %
5     ``Activation._work``, ``TurnRunner.run``, ``run_attempt``: the agent, in a task of its own              18 %
6     ``TurnRunner._commit``, ``record.pack``, ``scripts.commit``: the turn as bytes, one command             10 %
7     ``redis_pipeline.Pipelines``: sent and answered together with other sessions' commits                    5 %
8     ``Transcript.append``: the same bytes into memory                                                        6 %
9     ``Telling``, ``Joined.write_whole``: the answer, in one write                                            6 %
10    ``Host.let_go``, ends of tasks, the event loop                                                          10 %
====  =====================================================================================================  =====
"""

from __future__ import annotations

from actors.api_headers import ANY_TURN, picked
from actors.api_request import RequestReader
from actors.api_telling import Client, Telling, refusal
from actors.asgi import ClientGone, Receive, Scope, Send, send_answer
from actors.errors import (
    PreconditionFailed,
    RehydraError,
    SessionUnknown,
)
from actors.model import SessionKey
from actors.service import Service


class ChatRoute:
    """The ASGI handler of ``POST /chat``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = RequestReader(service)
        self._telling = Telling(service)
        self._pass = self._reader.right_pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = picked(scope["headers"], self._pass)
            hops = self._reader.hops(headers)
            body = await self._reader.body(headers, scope, receive)
            request, stream = self._reader.request(headers, body)
            if headers.get(b"if-match") == ANY_TURN:
                await self._must_exist(request.key)
        except RehydraError as error:
            await send_answer(send, refusal(error))
            return
        except ClientGone:
            return

        async def tell(requester: Client) -> None:
            await self._service.host.chat(request, requester, hops)

        await self._telling.answer(tell, request.key.session_id, request.turn_id, stream, scope, receive, send)

    async def _must_exist(self, key: SessionKey) -> None:
        """``If-Match: *``. A session that has a turn keeps it until it is deleted or expires, so no race can undo the
        answer but those, and whoever loses them gets 410 or a new session, as without the header."""
        try:
            turn_seq = (await self._service.host.read(key, 0, 1)).turn_seq
        except SessionUnknown:
            turn_seq = 0
        if not turn_seq:
            raise PreconditionFailed("The session has no turn yet.", turn_seq=0)
