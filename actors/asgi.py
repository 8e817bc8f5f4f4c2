"""The rim of ASGI: its types, one whole answer, one bounded body, and noticing that a client has gone.

What a handler awaits here may end with :class:`ClientGone`: there is nobody left to answer, and nothing else follows
from it; a turn that runs goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, Protocol

from actors.api_answers import Answer
from actors.errors import BodyTooSlow, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY: Final = "rehydra.body"
"""In a scope of the host's own listener: the request's whole body, if it was there together with the head."""
LEAVING: Final = "rehydra.leaving"
"""In such a scope: the :class:`Leaving` of its connection."""
WRITER: Final = "rehydra.writer"
"""In such a scope: the :class:`Writer` of its answer."""

_LENGTH: Final = re.compile("[0-9]{1,18}")
WATCH_AFTER_S: Final = 0.05
"""A turn that is done by then costs no watcher. Who leaves earlier is noticed then, which is soon enough."""


class ClientGone(Exception):
    """The client closed its connection."""


class Writer(Protocol):
    """Writes a whole answer at once, which costs a fifth of what two sends through a general server do."""

    def write_whole(self, answer: Answer) -> bool:
        """Written, and the request has ended. False, and nothing was: the answer has to be sent."""
        ...


async def send_answer(send: Send, answer: Answer, writer: Writer | None = None) -> None:
    """The whole answer, by the writer if it can, else in two sends, which the server joins as far as it can."""
    if writer is None or not writer.write_whole(answer):
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})


class Leaving(Protocol):
    """Knows at once that a client has gone. ``tell`` is called then, once. A connection has one request at a time."""

    tell: Callable[[], object] | None

    @property
    def has_left(self) -> bool: ...


async def read_body(scope: Scope, receive: Receive, declared: str | None, bytes_max: int, body_s: float) -> bytes:
    """The request's body. ``declared`` is its Content-Length, if it has one.

    TooLarge as soon as it is known to be over ``bytes_max``, BodyTooSlow after ``body_s``, ClientGone.
    """
    if declared is not None and not (_LENGTH.fullmatch(declared) and int(declared) <= bytes_max):
        raise TooLarge(f"The body has {declared} bytes; {bytes_max} are allowed.")
    whole: bytes | None = scope.get(BODY)
    if whole is not None and len(whole) <= bytes_max:
        return whole
    try:
        async with asyncio.timeout(body_s):
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            body: bytes = message["body"]
            if not message.get("more_body", False) and len(body) <= bytes_max:
                return body
            return await _read_on(receive, body, message.get("more_body", False), bytes_max)
    except TimeoutError as error:
        raise BodyTooSlow(f"The body wasn't complete after {body_s:g} s.") from error


async def _read_on(receive: Receive, first: bytes, more: bool, bytes_max: int) -> bytes:
    body = bytearray(first)
    while len(body) <= bytes_max:
        if not more:
            return bytes(body)
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
    raise TooLarge(f"The body has more than {bytes_max} bytes.")


class ClientWatch:
    """``async with ClientWatch(scope, receive):`` cancels the block, and raises ClientGone, when the client leaves.

    The host's own listener says so. Elsewhere (Serve's proxy) somebody has to wait for it: that watcher starts late,
    because most answers are quicker than a task is worth. Only after the body has been read: two readers of one
    connection would take each other's messages.
    """

    __slots__ = ("_gone", "_leaving", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._leaving: Leaving | None = scope.get(LEAVING)
        self._receive = receive
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a client is watched from within a task"
        self._task: asyncio.Task[Any] = task
        if self._leaving is None:
            self._timer = task.get_loop().call_later(WATCH_AFTER_S, self._start)
        elif self._leaving.has_left:
            raise ClientGone
        else:
            self._leaving.tell = self._left

    def _start(self) -> None:
        self._watcher = self._task.get_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()

    def _left(self) -> None:
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leaving is not None:
            self._leaving.tell = None
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # Somebody else may have cancelled this task too (the listener's end): that cancellation stays.
        if self._gone and self._task.uncancel() == 0 and (kind is None or kind is asyncio.CancelledError):
            raise ClientGone from error
