"""Group commit: the calls of different sessions that wait at one moment go to Redis in one pipeline.

What runs at the same time: callers of :meth:`Pipelines.call` append to one queue and wait; a few lanes, each a task
with a connection of its own, take what waits and exchange it, one pipeline at a time each. While a lane waits for its
replies the next pipeline gathers by itself, so the busier the host, the larger the groups, without any delay by clock.

What it promises: a pipeline carries at most one commit per session, ``LOADS_MAX`` calls that load one, in all
``pipeline_calls_max`` calls and ``pipeline_bytes_max`` bytes; every call gets its own answer or its own error; a call
that was sent is never sent again, save after NOSCRIPT, which means that it was not begun. A caller that is cancelled
doesn't stop what was sent. A call waits up to ``timeout_s`` for its place and up to ``timeout_s`` for its answer, then
it is ``StoreUnavailable``.

What it deliberately doesn't do: retry (who asks knows whether that is safe), use redis-py's own pipeline and retries
(several times the cost per call, and a silent second sending), keep any order between calls of different callers.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from actors.errors import StoreUnavailable
from actors.settings import StoreSettings
from actors.stores.redis_errors import as_store_error, is_unknown_script
from actors.stores.scripts import Call, Script

A = TypeVar("A")
LANES: Final = 2
"""Pipelines in flight per host. Measured on 2 cores with 64 sessions, 1, 2 and 4 lanes: 34,000, 34,000
and 43,000 commits/s (everysec); with 2 a long answer to a claim leaves a lane for commits."""


LOADS_MAX: Final = 2
"""Claims and reads in one pipeline. Their answers may have ``session.log_bytes_max`` each, and whatever shares the
pipeline with them shares their ``timeout_s``."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """One call on its way: packed, with the future that its caller awaits."""

    call: Call[Any]
    packed: bytes
    reply: asyncio.Future[Any]
    place_until: float


class Pipelines:
    """The transport of :class:`~actors.stores.redis.RedisStore`. Belongs to one event loop, which starts it."""

    def __init__(self, settings: StoreSettings, lanes: int = LANES) -> None:
        self._settings = settings
        self._lanes_max = min(lanes, settings.connections_max)
        # The pool only knows how to make a connection to the URL; lanes own what it makes.
        self._pool: ConnectionPool = ConnectionPool.from_url(
            settings.url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
        self._waiting: deque[_Waiting] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes: list[asyncio.Task[None]] = []
        self._place_timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, call: Call[A]) -> A:
        """The decoded answer. StoreFull: nothing was written. StoreUnavailable: unknown."""
        if self._closed:
            raise StoreUnavailable("The connection to the checkpoint store is closed.")
        if len(self._waiting) >= self._settings.waiting_max:
            raise StoreUnavailable("Too many calls wait for the checkpoint store (store.waiting_max).")
        loop = asyncio.get_running_loop()
        place_until = loop.time() + self._settings.timeout_s
        waiting = _Waiting(call, packed(call), loop.create_future(), place_until)
        self._waiting.append(waiting)
        if self._place_timer is None:
            self._place_timer = loop.call_at(place_until, self._give_up_waiting)
        self._wake()
        return call.decode(await waiting.reply)

    async def aclose(self) -> None:
        """End the lanes and their connections; whoever waits gets StoreUnavailable. Idempotent."""
        self._closed = True
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        if self._place_timer is not None:
            self._place_timer.cancel()
        while self._waiting:
            _fail(self._waiting.popleft(), StoreUnavailable("The connection to the checkpoint store was closed."))

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return
        if len(self._lanes) < self._lanes_max:
            self._lanes.append(asyncio.create_task(self._lane(), name=f"store-lane-{len(self._lanes)}"))

    def _give_up_waiting(self) -> None:
        """Fail those who found no place in time. The queue is in order of arrival, so in order of deadlines."""
        self._place_timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0].place_until <= loop.time():
            _fail(
                self._waiting.popleft(), StoreUnavailable("No answer of the checkpoint store: calls are queueing up.")
            )
        if self._waiting:
            self._place_timer = loop.call_at(self._waiting[0].place_until, self._give_up_waiting)

    def _take(self) -> list[_Waiting]:
        """The next pipeline: from the head of the queue, within its bounds, one commit per session, few loads."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        sessions: set[str] = set()
        size_bytes = loads = 0
        while self._waiting and len(batch) < self._settings.pipeline_calls_max:
            waiting = self._waiting.popleft()
            if waiting.reply.done():
                continue  # Its caller was cancelled before anything was sent.
            exclusive = waiting.call.exclusive
            if (exclusive and exclusive in sessions) or (waiting.call.loads and loads == LOADS_MAX):
                later.append(waiting)
                continue
            size_bytes += len(waiting.packed)
            if batch and size_bytes > self._settings.pipeline_bytes_max:
                later.append(waiting)
                break
            sessions.add(exclusive)
            loads += waiting.call.loads
            batch.append(waiting)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _lane(self) -> None:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            while True:
                batch = self._take()
                if batch:
                    await self._exchange(connection, batch)
                else:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle.append(idle)
                    await idle
        finally:
            await connection.disconnect(nowait=True)

    async def _exchange(self, connection: AbstractConnection, batch: list[_Waiting]) -> None:
        """Send ``batch`` and hand out its answers. Whatever happens, each call of it has ended afterwards."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await _require_open(connection)
                unknown = await _round(connection, batch)
                if unknown:
                    await _load(connection, {waiting.call.script for waiting in unknown})
                    for waiting in await _round(connection, unknown):
                        _fail(waiting, StoreUnavailable("The checkpoint store forgets its scripts at once."))
        except Exception as error:  # Whatever it is: the lane goes on with the next pipeline, on a new connection.
            await connection.disconnect(nowait=True)
            unavailable = as_store_error(error)
            for waiting in batch:
                _fail(waiting, unavailable)
        except BaseException:
            for waiting in batch:
                _fail(waiting, StoreUnavailable("The connection to the checkpoint store was closed."))
            raise


async def _require_open(connection: AbstractConnection) -> None:
    """A connection that has died since its last use is replaced before anything is sent on it."""
    if connection.is_connected and await connection.can_read():
        await connection.disconnect(nowait=True)
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call]


async def _round(connection: AbstractConnection, batch: list[_Waiting]) -> list[_Waiting]:
    """One pipeline: all commands, then all replies. Returns the calls whose script the server doesn't know."""
    await connection.send_packed_command([waiting.packed for waiting in batch], check_health=False)
    unknown = []
    for waiting in batch:
        try:
            reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except ResponseError as error:
            if is_unknown_script(error):
                unknown.append(waiting)
            else:
                _fail(waiting, as_store_error(error))
        else:
            if not waiting.reply.done():
                waiting.reply.set_result(reply)
    return unknown


async def _load(connection: AbstractConnection, wanted: set[Script]) -> None:
    for script in wanted:
        await connection.send_command("SCRIPT", "LOAD", script.source)
        await connection.read_response(timeout=math.inf, disconnect_on_error=False)


def _fail(waiting: _Waiting, error: StoreUnavailable) -> None:
    if not waiting.reply.done():
        waiting.reply.set_exception(error)


def packed(call: Call[Any]) -> bytes:
    """EVALSHA with the call's keys and arguments as the server's protocol wants it (RESP arrays of bulk strings)."""
    parts = (b"EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)
    raw: bytes = pack_command(parts)  # type: ignore[arg-type]  # Its stub knows tuples of one only.
    return raw
