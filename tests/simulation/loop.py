"""An event loop that owns time, chance and death: everything the simulation runs, runs as handles of this loop.

Promises: one seed, one order of events. Time is virtual: it jumps to the next timer when nothing is ready. Every handle
belongs to a :class:`Lane` (a thread of a simulated process), known from a context variable. Handles of one lane run
first in, first out, as asyncio promises; which lane goes next is the seed's choice. A killed lane's handles are dropped
for ever, so that no ``finally`` of a killed host runs; a frozen lane's are kept, timers too, and come back on thaw in
order, as after SIGSTOP and SIGCONT.

It deliberately has no I/O and no threads: whatever needs them can't be simulated and raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import logging
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context
from typing import Any

LANE: contextvars.ContextVar[Lane] = contextvars.ContextVar("LANE")

STEPS_AT_ONE_MOMENT_MAX = 100_000
"""More steps than this without time going on is a busy loop."""


class LoopStuck(Exception):
    """Nothing is left to run, or time no longer goes on."""


class NeverEnds(KeyboardInterrupt):
    """A handle that never returns was stopped from outside. Of the exceptions only this kind leaves a task; and as the
    code under test may catch even this kind (an attempt does, lest an agent end its host), ``SimLoop.overdue`` has the
    last word: the next handle that never returns would have nobody to stop it."""


class Lane:
    """One thread of a simulated process. ``crash`` and ``freeze`` may be called at any moment, also from itself."""

    __slots__ = ("_loop", "context", "dead", "frozen", "name", "queue", "runnable")

    def __init__(self, loop: SimLoop, name: str) -> None:
        self._loop = loop
        self.name = name
        self.queue: deque[SimHandle] = deque()
        self.dead = False
        self.frozen = False
        self.runnable = False
        self.context = contextvars.Context()
        self.context.run(LANE.set, self)

    def call(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Run ``callback`` as this lane's code after ``delay_s``: how one process acts on another."""
        return self._loop.call_at(self._loop.time() + delay_s, callback, *args, context=self.context.copy())

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "") -> SimTask:
        """Start a task of this lane."""
        return self.context.copy().run(self._loop.create_task, coroutine, name=name or None)  # type: ignore[arg-type]

    def crash(self) -> None:
        """SIGKILL: nothing of this lane ever runs again."""
        self.dead = True
        self._loop.bury(self)
        self.queue.clear()

    def freeze(self) -> None:
        """SIGSTOP: its clock goes on, nothing else does."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: what became ready meanwhile runs now, in the order in which it became ready."""
        self.frozen = False
        if self.queue:
            self._loop.enlist(self)


class SimHandle(asyncio.Handle):
    """A callback with the lane that it belongs to."""

    __slots__ = ("lane",)

    def __init__(
        self, callback: Callable[..., object], args: Sequence[Any], loop: SimLoop, context: Context | None
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.lane: Lane = self._context.get(LANE)  # type: ignore[attr-defined]


class SimTimer(asyncio.TimerHandle):
    """A timer with its lane. Timers of one moment run in the order in which they were set."""

    __slots__ = ("lane", "number")

    def __init__(
        self, when: float, callback: Callable[..., object], args: Sequence[Any], loop: SimLoop, context: Context | None
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.lane: Lane = self._context.get(LANE)  # type: ignore[attr-defined]
        self.number = loop.number()


class SimFuture(asyncio.Future[Any]):
    """A future whose hash doesn't depend on its address, so that sets of futures have the same order in each run."""

    def __init__(self, *, loop: SimLoop) -> None:
        self._hash = loop.number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._hash


class SimTask(asyncio.Task[Any]):
    """A task that knows its lane; hashed by number for the same reason."""

    def __init__(self, coroutine: Any, *, loop: SimLoop, **kwargs: Any) -> None:
        self._hash = loop.number()
        context: Context | None = kwargs.get("context")
        self.lane: Lane = context[LANE] if context is not None else LANE.get()
        super().__init__(coroutine, loop=loop, **kwargs)

    def __hash__(self) -> int:
        return self._hash


class SimLoop(asyncio.AbstractEventLoop):
    """Runs handles one by one. ``failures`` collects what asyncio reports: exceptions that nobody retrieved."""

    def __init__(self, rng: random.Random, start_s: float = 1_000_000.0) -> None:
        self._rng = rng
        self._now = start_s
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, SimTimer]] = []
        """A heap, by time and then by number."""
        self._runnable: list[Lane] = []
        self._graveyard: list[Any] = []
        self._closed = False
        self.steps = 0
        self.overdue = False
        """Somebody outside has stopped a handle that never returned: no other runs."""
        self.failures: list[str] = []
        self.world = Lane(self, "world")

    # --- what the simulation needs ------------------------------------------------------------------------------

    def number(self) -> int:
        """The next number: a deterministic identity."""
        return next(self._numbers)

    def enlist(self, lane: Lane) -> None:
        """Let a lane with ready handles take part in the draw, unless it is frozen or dead."""
        if not lane.runnable and not lane.frozen and not lane.dead:
            lane.runnable = True
            self._runnable.append(lane)

    def bury(self, lane: Lane) -> None:
        """Keep a dead lane's tasks for the rest of the run: a coroutine that is collected runs its finally blocks."""
        self._graveyard.extend(lane.queue)
        for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]
            if isinstance(task, SimTask) and task.lane is lane and not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                self._graveyard.append(task)

    def run_until(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` in the world's lane until it is done, and everybody else beside it."""
        previous = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        try:
            task = self.world.spawn(coroutine, "main")
            last, same = self._now, 0
            while not task.done():
                self._step()
                same = same + 1 if self._now == last else 0
                last = self._now
                if same > STEPS_AT_ONE_MOMENT_MAX:
                    raise LoopStuck(f"busy at {self._now:.6f} s")
            return task.result()
        finally:
            asyncio.events._set_running_loop(previous)

    def _step(self) -> None:
        self._promote()
        while not self._runnable:
            while self._timers and self._timers[0][2]._cancelled:  # type: ignore[attr-defined]
                heapq.heappop(self._timers)
            if not self._timers:
                raise LoopStuck(f"nothing left to run at {self._now:.6f} s")
            self._now = max(self._now, self._timers[0][0])
            self._promote()
        index = self._rng.randrange(len(self._runnable)) if len(self._runnable) > 1 else 0
        lane = self._runnable[index]
        if lane.frozen or lane.dead or not lane.queue:
            self._delist(index)
            return
        handle = lane.queue.popleft()
        if not lane.queue:
            self._delist(index)
        if not handle._cancelled:  # type: ignore[attr-defined]
            self.steps += 1
            handle._run()
            if self.overdue:
                raise NeverEnds
            if lane.dead:
                self._graveyard.append(handle)

    def _delist(self, index: int) -> None:
        self._runnable[index].runnable = False
        last = self._runnable.pop()
        if index < len(self._runnable):
            self._runnable[index] = last

    def _promote(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:  # type: ignore[attr-defined]
                self._enqueue(timer)

    def _enqueue(self, handle: Any) -> None:
        lane: Lane = handle.lane
        if lane.dead:
            self._graveyard.append(handle)
            return
        lane.queue.append(handle)
        self.enlist(lane)

    # --- what asyncio needs -------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = SimHandle(callback, args, self, context)
        if not self._closed:
            self._enqueue(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = SimTimer(when, callback, args, self, context)
        if not self._closed:
            heapq.heappush(self._timers, (when, timer.number, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays in the heap until its time has come."""

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> SimTask:
        return SimTask(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody retrieved, unless it belongs to a killed lane."""
        if self._closed:
            return
        task = context.get("task") or context.get("future")
        lane = getattr(task, "lane", None) or getattr(context.get("handle"), "lane", None)
        if lane is not None and lane.dead:
            return
        where = f" in {lane.name}" if lane is not None else ""
        self.failures.append(f"{self._now:.3f}{where}: {context.get('message')}: {context.get('exception')!r} {task!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """Nothing to shut down: generators are finished by whoever iterates them, or collected."""

    def close(self) -> None:
        """End everything. What the coroutines of the dead still do when they are closed reaches nobody."""
        self._closed = True
        tasks = [task for task in asyncio.tasks._all_tasks if isinstance(task, SimTask)]  # type: ignore[attr-defined]
        logging.disable(logging.CRITICAL)
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for task in sorted((task for task in tasks if task.get_loop() is self), key=hash):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]
            self._graveyard.clear()
            self._timers.clear()
            self._runnable.clear()
            del tasks
        finally:
            logging.disable(logging.NOTSET)
            sys.unraisablehook = hook
