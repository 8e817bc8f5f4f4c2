"""Redis in front, PostgreSQL behind: one session store made of two, with one authority.

PostgreSQL decides who has a lease, under which epoch, and what the log is. Redis has a copy of each session that is in
use: it is loaded from there, and pages of it are read from there, once PostgreSQL has said in one row how long the log
must be. What Redis says is believed only as a continuation of PostgreSQL's log, so an old, empty or foreign Redis never
wins. ``store.ack`` says who confirms a turn:

- ``durable``: PostgreSQL, by its commit. Then the turn is written to Redis.
- ``hot``: Redis, by the same checks, once PostgreSQL has noted (``hot``, with the first turn of each lease, which Redis
  has by then) that turns may be in Redis alone; it gets them within ``store.lag_max_s`` (``hybrid_behind``). Any other
  answer of Redis than "ok" is none: PostgreSQL is asked. So is it when the lag is at its bound, or Redis is gone.

Who may have turns acknowledged, and what becomes of them when anything dies, is told in DECISIONS.md.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from actors.errors import StoreFull, StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn
from actors.settings import SessionSettings, StoreSettings
from actors.stores import hybrid_calls as calls
from actors.stores import postgres_calls, scripts
from actors.stores.base import (
    Buried,
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Deleted,
    Fenced,
    Mismatch,
    Missing,
    Ok,
    ReadAnswer,
    Regressed,
    ReleaseAnswer,
    Replayed,
)
from actors.stores.hybrid_behind import Behind
from actors.stores.hybrid_calls import Head
from actors.stores.hybrid_copies import Copies, Copy
from actors.stores.hybrid_hot import Hot
from actors.stores.hybrid_hot import Transport as RedisTransport
from actors.stores.hybrid_leases import Leases
from actors.stores.keys import Keys
from actors.stores.postgres import PostgresStore, Transport

A = TypeVar("A")
log = logging.getLogger(__name__)


class HybridStore:
    """The :class:`~actors.stores.base.SessionStore` on a Redis and a PostgreSQL. Belongs to one event loop.

    ``gone``: why Redis is away already. ``writers``: in the background, to PostgreSQL; else half of the connections.
    """

    def __init__(
        self,
        redis: RedisTransport,
        postgres: Transport,
        session: SessionSettings,
        own: StoreSettings,
        sweep_s: float = 0.0,
        gone: str = "",
        writers: int | None = None,
    ) -> None:
        self._acks_hot = own.ack == "hot"
        self._own = own
        self._ttl_s = session.ttl_s
        self._ttl_ms = int(session.ttl_s * 1000)
        self._tombstone_ms = max(1, int(session.tombstone_s * 1000))
        idle_ms = int(own.hot_ttl_s * 1000)
        self._idle_ms = min(idle_ms, self._ttl_ms) if self._ttl_ms else idle_ms
        # While turns may be in Redis alone, it keeps them for as long as the session lives.
        self._copy_ms = self._ttl_ms if self._acks_hot else self._idle_ms
        self._copies = Copies()
        self._postgres = postgres
        self._plain = PostgresStore(postgres, session.ttl_s, session.tombstone_s, own.page_bytes_max, sweep_s)
        self._hot = Hot(redis, Keys(own.prefix), lambda: self._behind.cool(self._copies))
        writers = max(1, own.connections_max // 2) if writers is None else writers
        open_s = max(own.lag_max_s, 2 * own.timeout_s)
        self._behind = Behind(postgres, self._hot, self._ttl_ms, own.pipeline_bytes_max, writers, open_s)
        bytes_max = own.pipeline_bytes_max
        self._leases = Leases(
            *(postgres, self._plain, self._hot, self._behind, self._copies, self._ttl_ms, self._copy_ms, bytes_max)
        )
        if gone:
            self._hot.gone(gone)

    # --- the contract -----------------------------------------------------------------------------------------------

    async def claim(
        self, key: SessionKey, token: str, host: HostRef, over: tuple[str, int] | None = None, window: int | None = None
    ) -> ClaimAnswer:
        async with self._copies.held(key) as mine:
            if mine is not None:
                await self._behind.settle(mine)
            return await self._leases.claim(key, token, host, over, window, mine)

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        async with self._copies.held(key) as copy:
            if copy is None or copy.lease != lease:
                await self._settled(key)
                return await self._plain.commit(key, lease, previous_turn_id, turn, state)
            if copy.lost:
                return self._told(copy)
            answer, taken = await self._by_redis(copy, previous_turn_id, turn, state)
            return self._judged(copy, answer or await self._by_postgres(copy, previous_turn_id, turn, state, taken))

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        async with self._copies.held(key) as copy:
            await self._settled(key)
            mine = copy if copy is not None and copy.lease == lease else None
            stays_hot = mine is not None and (mine.doubtful or mine.lost)
            answer = await self._postgres.call(postgres_calls.release(key, lease, turn_seq, last_turn_id, stays_hot))
            if mine is not None:
                self._drop(mine)
        if isinstance(answer, Ok):
            await self._hot.ask(calls.archive(self._hot.keys, key, lease, self._ttl_ms if stays_hot else self._idle_ms))
        return self._judged(mine, answer) if mine is not None else answer

    async def check(
        self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str, running: str = "", refused: str = ""
    ) -> CheckAnswer:
        copy = await self._settled(key)
        mine = copy if copy is not None and copy.lease == lease else None
        if mine is not None and mine.lost:
            return self._told(mine)
        answer = await self._plain.check(key, lease, turn_seq, last_turn_id, running, refused)
        return self._judged(mine, answer) if mine is not None else answer

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        buried = await self._postgres.call(calls.delete(key, self._tombstone_ms))
        if (copy := self._copies.get(key)) is not None:
            self._drop(copy)
        if buried is None:
            return Missing()
        holder, hot = buried
        removed = await self._hot.ask(scripts.delete(self._hot.keys, key, turn_id, self._tombstone_ms))
        if removed is None and hot:
            # Its holder may go on to have turns acknowledged: a repeat tries again.
            raise StoreUnavailable("The session is deleted, but Redis, which may have turns of it, is gone.")
        return Buried(holder)

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        copy = await self._settled(key)
        head = await self._postgres.call(calls.head(key))
        if not isinstance(head, Head):
            return head
        page = await self._hot.ask(calls.page(self._hot.keys, key, after, limit, self._own.page_bytes_max, head))
        if page is not None:
            return page
        complete = copy is not None and copy.lease.epoch == head.lease.epoch and not (copy.waiting or copy.doubtful)
        if head.hot and not complete:
            raise StoreUnavailable("Turns of this session may be in Redis alone, and Redis doesn't have them now.")
        return await self._plain.read(key, after, limit)

    def stats(self) -> dict[str, Any]:
        """For ``/healthz``: who confirms turns, whether Redis is gone, how far PostgreSQL is behind, and how many turns
        that Redis had confirmed were lost."""
        return {
            "ack": self._own.ack,
            "degraded": not self._hot.up,
            "lag_s": round(self._behind.lag_s(), 3),
            "lag_turns": self._behind.turns,
            "lost_turns": self._behind.lost,
        }

    async def settle(self) -> None:
        """Until PostgreSQL has every turn that Redis has acknowledged to this host. StoreUnavailable if it can't be."""
        for copy in self._copies:
            await self._behind.settle(copy)

    async def aclose(self) -> None:
        try:
            async with asyncio.timeout(self._own.lag_max_s):
                await self.settle()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("turns are left in Redis alone, for whoever claims next: %s", error)
        await self._leases.aclose()
        await self._behind.aclose()
        await self._hot.aclose()
        await self._plain.aclose()

    # --- one commit -------------------------------------------------------------------------------------------------

    async def _by_redis(
        self, copy: Copy, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> tuple[CommitAnswer | None, bool]:
        """Redis' word, where that is enough, or None: ask PostgreSQL. And whether Redis has the turn.

        While PostgreSQL says that turns may be in Redis alone, nothing is written there but what is confirmed by that.
        """
        enough, now_s = self._may_confirm(copy), asyncio.get_running_loop().time()
        if not (self._acks_hot and copy.in_step and self._hot.up) or (copy.hot and not enough):
            return None, False
        call = scripts.commit(self._hot.keys, copy.key, copy.lease, previous_turn_id, turn, state, self._ttl_ms)
        try:
            answer = await self._hot.call(call)
        except StoreFull:
            answer = None
        except StoreUnavailable:
            answer, copy.doubtful = None, True
        known = isinstance(answer, Replayed | Mismatch)
        taken = isinstance(answer, Ok) or (isinstance(answer, Replayed) and answer.turn.turn_seq == copy.end + 1)
        if taken and enough:
            self._behind.add(copy, answer.turn if isinstance(answer, Replayed) else turn, state, now_s)
        if (taken and enough) or (known and not taken):
            return answer, taken
        copy.in_step, copy.doubtful = taken, copy.doubtful or taken
        return None, taken

    def _may_confirm(self, copy: Copy) -> bool:
        """Whether Redis' word is enough now."""
        now_s = asyncio.get_running_loop().time()
        # PostgreSQL must not let the session expire while Redis goes on with it.
        fresh = not self._ttl_s or now_s - copy.renewed_s < self._ttl_s / 2
        within = self._behind.lag_s() < self._own.lag_max_s and self._behind.turns < self._own.waiting_max
        return copy.hot and fresh and within

    async def _by_postgres(
        self, copy: Copy, previous_turn_id: str, turn: Turn, state: bytes | None, taken: bool
    ) -> CommitAnswer:
        """PostgreSQL's word, after all that Redis has confirmed before. ``taken``: Redis has the turn already."""
        copy.hot = False
        if (refusal := await self._behind.settle(copy)) is not None:
            return refusal
        hot = taken and self._hot.up
        asked_s = asyncio.get_running_loop().time()
        copy.noted = copy.noted or hot
        answer = await self._postgres.call(
            postgres_calls.commit(copy.key, copy.lease, previous_turn_id, turn, state, self._ttl_ms, hot)
        )
        if isinstance(answer, Replayed) and answer.turn.turn_seq == copy.turn_seq + 1:
            # An earlier try of it, whose answer was lost: with or without a note.
            turn = answer.turn
        elif not isinstance(answer, Ok):
            copy.in_step = copy.in_step and isinstance(answer, Replayed | Mismatch)
            return answer
        copy.note(turn, asked_s)
        copy.doubtful = False
        if isinstance(answer, Ok):
            copy.noted = copy.hot = hot
        if not taken and copy.in_step:
            copy.in_step = await self._mirrored(copy, previous_turn_id, turn, state)
        if not copy.in_step and self._hot.up:
            self._leases.heal(copy)
        return answer

    async def _mirrored(self, copy: Copy, previous_turn_id: str, turn: Turn, state: bytes | None) -> bool:
        """The turn that PostgreSQL has just taken, in Redis too. Whether the copy there is whole."""
        answer = await self._hot.ask(
            scripts.commit(self._hot.keys, copy.key, copy.lease, previous_turn_id, turn, state, self._copy_ms)
        )
        return isinstance(answer, Ok | Replayed)

    # --- whose turns are where ----------------------------------------------------------------------------------------

    def _judged(self, copy: Copy, answer: A) -> A | Fenced:
        """PostgreSQL's answer to this host, which has no use for the lease any more if that was refused. PostgreSQL may
        not have been brought all turns yet: then nothing has regressed."""
        if isinstance(answer, Regressed) and copy.handed_over is not None:
            self._drop(copy)
            return copy.handed_over
        if isinstance(answer, Fenced | Regressed | Deleted):
            self._drop(copy)
        return answer

    def _told(self, copy: Copy) -> Regressed:
        copy.lost = False
        return Regressed(copy.turn_seq)

    def _drop(self, copy: Copy) -> None:
        self._behind.forget(copy)
        self._copies.drop(copy)

    async def _settled(self, key: SessionKey) -> Copy | None:
        """This host's lease of the session, if it has one, with all of its turns in PostgreSQL."""
        if (copy := self._copies.get(key)) is not None:
            await self._behind.settle(copy)
        return copy
