"""The pool: a few connections, each with one call in flight, and a queue of calls before them.

What runs at the same time: callers of :meth:`Lanes.call` append to one queue and wait; each lane is a task with a
connection of its own that takes what waits, a call at a time. Commits that are in flight on several lanes share the
server's write to the disk, which groups them by itself. Calls of one session that are in flight at one moment queue at
the lock of its row.

What it promises, as Redis's pipelines do: every call gets its own answer or its own error; a call that was sent is
never sent again; half of the lanes at most load sessions at one moment, so that commits find one; a caller that is
cancelled doesn't stop what was sent. A call waits up to ``timeout_s`` for its place and up to ``timeout_s`` for its
answer, then it is ``StoreUnavailable``, and its connection, on which an answer may still come, is ended.

What it deliberately doesn't do: retry, keep any order between calls of different callers, ask the server to cancel a
statement (it may be waiting for a standby to confirm its commit, and would then answer as if that had happened), or use
asyncpg's own pool (a round trip more whenever a connection is put aside).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.errors import StoreUnavailable
from actors.settings import StoreSettings
from actors.stores.postgres_errors import as_store_error, is_passing
from actors.stores.postgres_functions import FUNCTIONS, Answer, Call, Functions
from actors.stores.postgres_link import Link

A = TypeVar("A")


@dataclass(slots=True, eq=False)
class _Waiting:
    """One call on its way, with the future that its caller awaits."""

    call: Call[Any]
    answer: asyncio.Future[Answer]
    place_until: float


class Lanes:
    """Calls the ``functions`` that are ``names``. Belongs to one event loop, which starts it.

    ``lanes`` and ``timeout_s`` in place of ``store.connections_max`` and ``store.timeout_s``, if they are given.
    """

    def __init__(
        self,
        settings: StoreSettings,
        names: Sequence[str],
        lanes: int = 0,
        timeout_s: float = 0.0,
        functions: Functions = FUNCTIONS,
    ) -> None:
        self._settings = settings
        self._names = names
        self._functions = functions
        self._timeout_s = timeout_s or settings.timeout_s
        self._lanes_max = lanes or settings.connections_max
        self._loads_max = max(1, self._lanes_max // 2)
        self._loads = 0
        self._waiting: deque[_Waiting] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes: list[_Lane] = []
        self._place_timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, call: Call[A]) -> A:
        """The decoded answer. StoreFull: nothing was written. StoreUnavailable: unknown."""
        if self._closed:
            raise StoreUnavailable("The connection to the checkpoint store is closed.")
        if len(self._waiting) >= self._settings.waiting_max:
            raise StoreUnavailable("Too many calls wait for the checkpoint store (store.waiting_max).")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(call, loop.create_future(), loop.time() + self._timeout_s)
        self._waiting.append(waiting)
        if self._place_timer is None:
            self._place_timer = loop.call_at(waiting.place_until, self._give_up_waiting)
        self._wake()
        return call.decode(await waiting.answer)

    async def aclose(self) -> None:
        """End the lanes and their connections; whoever waits gets StoreUnavailable. Idempotent."""
        self._closed = True
        for lane in self._lanes:
            lane.end()
        await asyncio.gather(*(lane.task for lane in self._lanes), return_exceptions=True)
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
            self._lanes.append(_Lane(self._run, f"store-lane-{len(self._lanes)}"))

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

    def _take(self) -> _Waiting | None:
        """The next call: the first in the queue, save that few load at one moment."""
        later: list[_Waiting] = []
        try:
            while self._waiting:
                waiting = self._waiting.popleft()
                if waiting.answer.done():
                    continue  # Its caller was cancelled before anything was sent.
                if waiting.call.loads and self._loads == self._loads_max:
                    later.append(waiting)
                    continue
                return waiting
            return None
        finally:
            self._waiting.extendleft(reversed(later))

    async def _run(self, lane: _Lane) -> None:
        """The life of a lane."""
        try:
            while True:
                waiting = self._take()
                if waiting is None:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle.append(idle)
                    await idle
                    continue
                if lane.link is None or lane.link.closed:
                    # Nothing was sent, so the call waits for its place on, whether here or on another lane.
                    self._waiting.appendleft(waiting)
                    await self._open(lane)
                    continue
                self._loads += waiting.call.loads
                try:
                    await self._exchange(lane, lane.link, waiting)
                finally:
                    self._loads -= waiting.call.loads
        finally:
            if lane.link is not None:
                await lane.link.close()

    async def _open(self, lane: _Lane) -> None:
        """Connect; if that fails, so does the call whose turn it is.

        It has the settings' whole time, also where calls have less: a connection takes longer to make than a beat may
        wait, on a busy machine, and the next beat finds it made.
        """
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout_s):
                lane.link = await Link.open(settings, self._names, self._timeout_s, self._functions)
        except Exception as error:  # Whatever it is: the lane tries again for the next call.
            if (waiting := self._take()) is not None:
                _fail(waiting, as_store_error(error))

    async def _exchange(self, lane: _Lane, link: Link, waiting: _Waiting) -> None:
        """Send the call and hand out its answer. Whatever happens, it has ended afterwards."""
        timer = asyncio.get_running_loop().call_later(self._timeout_s, link.terminate)
        lane.busy = True
        try:
            answer = await link.ask(waiting.call)
        except Exception as error:  # Whatever it is: the lane goes on with the next call.
            if not is_passing(error):
                link.terminate()
            _fail(waiting, as_store_error(error))
        except BaseException:
            _fail(waiting, StoreUnavailable("The connection to the checkpoint store was closed."))
            raise
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        finally:
            lane.busy = False
            timer.cancel()


class _Lane:
    """One task, its connection, and whether an answer is awaited on it."""

    def __init__(self, run: Callable[[_Lane], Coroutine[Any, Any, None]], name: str) -> None:
        self.link: Link | None = None
        self.busy = False
        self.task = asyncio.create_task(run(self), name=name)

    def end(self) -> None:
        # First the connection: asyncpg asks the server to cancel what a cancelled task awaits of it.
        if self.busy and self.link is not None:
            self.link.terminate()
        self.task.cancel()


def _fail(waiting: _Waiting, error: StoreUnavailable) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
