"""The background writer of ``ack=hot``: turns that Redis has acknowledged, on their way to PostgreSQL.

What runs at the same time: commits add turns to the :class:`Copy` of their session, each under its ``commits`` lock; a
few writers take copies that have some, and append what they have as one statement, under the copy's ``flushing`` lock.
Whoever needs PostgreSQL's log to be complete settles a copy himself (``settle``), and waits for a writer that is at it.
The order of the locks is ``commits``, then ``flushing``.

What it promises: turns of a session reach PostgreSQL in their order, none is left out, and each is kept in memory until
PostgreSQL has confirmed it or has said that this host may no longer write. What it deliberately doesn't do: refuse
anything. The store looks at ``lag_s`` and ``turns``, and acknowledges nothing in Redis alone beyond their bounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from actors.errors import StoreUnavailable
from actors.model import Turn
from actors.stores import hybrid_calls as calls
from actors.stores import scripts
from actors.stores.base import Deleted, Fenced, Regressed
from actors.stores.codec import encode_turn
from actors.stores.hybrid_copies import Acknowledged, Copies, Copy
from actors.stores.hybrid_hot import Hot
from actors.stores.postgres import Transport

log = logging.getLogger(__name__)
PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0
Refusal = Fenced | Regressed | Deleted


class Behind:
    """Turns of this host that PostgreSQL doesn't have yet, and the ``writers`` that bring them there.

    ``open_s``: how long it may stay open, when another host takes a session over, whether it has found them.
    """

    def __init__(
        self,
        postgres: Transport,
        hot: Hot,
        ttl_ms: int,
        bytes_max: int,
        writers: int,
        open_s: float,
    ) -> None:
        self._postgres = postgres
        self._hot = hot
        self._open_s = open_s
        self._ttl_ms = ttl_ms
        self._bytes_max = bytes_max
        self._in_order: deque[Acknowledged] = deque()
        self._copies: asyncio.Queue[Copy] = asyncio.Queue()
        self._writers_max = writers
        self._writers: list[asyncio.Task[None]] = []
        self.turns = 0
        """Turns that are in Redis alone."""
        self.lost = 0
        """Turns that were confirmed and are in neither."""

    def add(self, copy: Copy, turn: Turn, state: bytes | None, since_s: float) -> None:
        """Redis has acknowledged it; ``since_s`` is the loop's time before it was asked."""
        acknowledged = Acknowledged(turn, state, since_s)
        copy.waiting.append(acknowledged)
        self._in_order.append(acknowledged)
        self.turns += 1
        self._queue(copy)

    def lag_s(self) -> float:
        """For how long the oldest turn that is in Redis alone has been acknowledged."""
        while self._in_order and self._in_order[0].settled:
            self._in_order.popleft()
        return asyncio.get_running_loop().time() - self._in_order[0].since_s if self._in_order else 0.0

    async def settle(self, copy: Copy, hot: bool = True) -> Refusal | None:
        """Until PostgreSQL has all turns of the session; None then, or why it takes none from this host any more.

        Without ``hot`` it also notes that no more will be in Redis alone. StoreUnavailable if it doesn't answer.
        """
        async with copy.flushing:
            while copy.waiting or not hot:
                if (refusal := await self._append(copy, hot)) is not None:
                    return refusal
                if not copy.waiting:
                    break
        return None

    async def cool(self, copies: Copies) -> None:
        """Redis is gone: have PostgreSQL know that it has all there is of this host's sessions, so that other hosts may
        go on with them if this one dies. Ends early if PostgreSQL doesn't answer."""
        warm = [copy for copy in copies if copy.noted and not copy.doubtful and not copy.lost]
        room = asyncio.Semaphore(self._writers_max)

        async def cool(copy: Copy) -> None:
            async with room, copy.commits:
                copy.hot = copy.in_step = False
                if copies.has(copy):
                    await self.settle(copy, hot=False)

        try:
            async with asyncio.TaskGroup() as group:
                for copy in warm:
                    group.create_task(cool(copy))
        except* StoreUnavailable as errors:
            log.info("PostgreSQL doesn't know yet that Redis is gone: %s", errors.exceptions[0])

    def forget(self, copy: Copy) -> None:
        """Its turns needn't, or can't, be brought to PostgreSQL any more."""
        self._done(copy, len(copy.waiting))

    async def aclose(self) -> None:
        """End the writers; what waits stays in Redis, for whoever claims next."""
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _queue(self, copy: Copy) -> None:
        if copy.queued:
            return
        copy.queued = True
        self._copies.put_nowait(copy)
        if len(self._writers) < self._writers_max:
            self._writers.append(asyncio.create_task(self._write(), name=f"store-writer-{len(self._writers)}"))

    async def _write(self) -> None:
        """The life of a writer."""
        pause_s = PAUSE_FIRST_S
        while True:
            copy = await self._copies.get()
            copy.queued = False
            try:
                await self.settle(copy)
                pause_s = PAUSE_FIRST_S
            except StoreUnavailable as error:
                # It may have been done: a repeat finds out. Other writers try meanwhile, each at its own pace.
                log.info("turns aren't in PostgreSQL yet: %s", error.detail)
                self._queue(copy)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
            except Exception:
                log.exception("turns can't be brought to PostgreSQL", extra={"session": str(copy.key)})
                self._queue(copy)
                await asyncio.sleep(PAUSE_MAX_S)

    async def _append(self, copy: Copy, hot: bool) -> Refusal | None:
        """One statement, with as much of what waits as may be in one. None if it was done."""
        batch: list[Acknowledged] = []
        size_bytes = 0
        for acknowledged in copy.waiting:
            size_bytes += len(encode_turn(copy.key.tenant, acknowledged.turn))
            if batch and size_bytes > self._bytes_max:
                break
            batch.append(acknowledged)
        # Not before all of them are there.
        stays_hot = hot or len(batch) < len(copy.waiting)
        asked_s = asyncio.get_running_loop().time()
        state = next((entry.state for entry in reversed(batch) if entry.state is not None), None)
        turns = [entry.turn for entry in batch]
        answer = await self._postgres.call(
            calls.append(
                *(copy.key, copy.lease, copy.last_turn_id, turns, copy.turn_seq + len(turns)),
                *(state, self._ttl_ms, stays_hot),
            )
        )
        if not isinstance(answer, calls.Appended):
            copy.in_step = copy.hot = False
            refusal = await self._refused(copy, answer)
            self.forget(copy)
            return refusal
        copy.noted = answer.hot
        copy.hot = copy.hot and answer.hot
        if batch:
            self._done(copy, len(batch))
            copy.note(turns[-1], asked_s)
        return None

    async def _refused(self, copy: Copy, answer: Refusal) -> Refusal:
        """PostgreSQL takes no more turns from this lease: what that means for those that it doesn't have.

        If its log is what it was, whoever has the next lease may just be reading them from Redis, and brings them: the
        outcome is unknown (StoreUnavailable), for ``open_s`` at most. If it has gone on without them, they are lost.
        """
        if isinstance(answer, Regressed) and answer.turn_seq == copy.turn_seq:
            mine = scripts.check(self._hot.keys, copy.key, copy.lease, copy.end, copy.last, "", "")
            found = await self._hot.ask(mine)
            if isinstance(found, Fenced) and found.epoch > copy.lease.epoch:
                copy.handed_over = found
                return found
            now_s = asyncio.get_running_loop().time()
            copy.refused_s = now_s if copy.refused_s is None else copy.refused_s
            if now_s - copy.refused_s < self._open_s:
                raise StoreUnavailable("Another host is taking this session over.")
        if isinstance(answer, Regressed):
            self.lost += len(copy.waiting)
            log.error("confirmed turns are lost", extra={"session": str(copy.key), "turns": len(copy.waiting)})
        return answer

    def _done(self, copy: Copy, count: int) -> None:
        # They may have been forgotten while PostgreSQL was at it.
        for _ in range(min(count, len(copy.waiting))):
            copy.waiting.popleft().settled = True
            self.turns -= 1
