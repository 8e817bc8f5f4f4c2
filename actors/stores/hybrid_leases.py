"""How a hybrid store gets a lease: PostgreSQL grants it, Redis is told, and the two logs become one.

The order, and what a crash leaves after each step:

1. PostgreSQL grants: from here on no earlier lease can begin to have turns acknowledged by Redis.
2. The lease is installed in Redis: from here on no earlier lease can add to what is there. Until then it may, and is
   right to: what it has acknowledged is read in this very step.
3. What Redis has beyond PostgreSQL's log is appended there, under the new lease; PostgreSQL no longer says "hot". Left
   out where it doesn't say so: then there is nothing.
4. If Redis had lost its copy, it is filled from PostgreSQL.

Only then is the claim granted. Whoever claims after a crash in between finds less to do, and does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from actors.errors import StoreUnavailable
from actors.model import Checkpoint, HostRef, SessionKey, Turn
from actors.record import Records, pack
from actors.stores import hybrid_calls as calls
from actors.stores.base import ClaimAnswer, Fenced, Granted, Held, Turns
from actors.stores.codec import encode_turn
from actors.stores.hybrid_behind import Behind
from actors.stores.hybrid_calls import Head
from actors.stores.hybrid_copies import Copies, Copy
from actors.stores.hybrid_hot import Hot
from actors.stores.postgres import PostgresStore, Transport

log = logging.getLogger(__name__)
TRIES: Final = 4
"""How often a claim is made again because other claims of the same session were under way."""
PAGE_TURNS_MAX: Final = 1_000


class Leases:
    """Claims for a :class:`~actors.stores.hybrid.HybridStore`. ``ttl_ms`` is the session's, ``copy_ms`` that of Redis'
    copy of it; what was granted is kept in ``copies``."""

    def __init__(
        self,
        postgres: Transport,
        reader: PostgresStore,
        hot: Hot,
        behind: Behind,
        copies: Copies,
        ttl_ms: int,
        copy_ms: int,
        bytes_max: int,
    ) -> None:
        self._postgres = postgres
        self._reader = reader
        self._hot = hot
        self._ttl_ms = ttl_ms
        self._copy_ms = copy_ms
        self._bytes_max = bytes_max
        self._behind = behind
        self._copies = copies
        self._healing: set[asyncio.Task[None]] = set()

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None,
        window: int | None,
        mine: Copy | None,
    ) -> ClaimAnswer:
        """:meth:`actors.stores.base.SessionStore.claim`. ``mine``: this host's lease until now, settled."""
        assert window is None or window > 0, "Whoever commits must know the last turn."
        for _ in range(TRIES):
            asked_s = asyncio.get_running_loop().time()
            answer = await self._postgres.call(calls.claim(key, token, host, over, self._ttl_ms))
            if not isinstance(answer, Head):
                return answer
            granted = await self._granted(key, answer, host, mine, asked_s, window)
            if granted is not None:
                return granted
        raise StoreUnavailable("Other claims of this session are under way.")

    def heal(self, copy: Copy) -> None:
        """Redis is there, but doesn't have this session as it is: have it follow again, before the next commit."""
        task = asyncio.create_task(self._heal(copy), name="store-heal")
        self._healing.add(task)
        task.add_done_callback(self._healing.discard)

    async def aclose(self) -> None:
        """End what heals. Idempotent."""
        for task in self._healing:
            task.cancel()
        await asyncio.gather(*self._healing, return_exceptions=True)

    async def _heal(self, copy: Copy) -> None:
        async with copy.commits:
            if not self._copies.has(copy) or copy.in_step or not self._hot.up:
                return
            try:
                if await self._behind.settle(copy) is None:
                    await self._refresh(copy)
            except StoreUnavailable as error:
                log.info("Redis doesn't have a session's log yet: %s", error.detail)

    async def _refresh(self, copy: Copy) -> None:
        """The claim is repeated, and gets the same grant. ``copy`` is settled."""
        asked_s = asyncio.get_running_loop().time()
        answer = await self._postgres.call(calls.claim(copy.key, copy.lease.token, copy.host, None, self._ttl_ms))
        if not isinstance(answer, Head):
            return
        if answer.lease == copy.lease:
            await self._granted(copy.key, answer, copy.host, copy, asked_s, 1)
        else:
            # It was taken over and given back since: nobody here wants it again.
            await self._reader.release(copy.key, answer.lease, answer.turn_seq, answer.last_turn_id)

    async def _granted(
        self, key: SessionKey, head: Head, host: HostRef, mine: Copy | None, asked_s: float, window: int | None
    ) -> Granted | Held | None:
        """The session, once Redis agrees. None: another claim has come first, ask again."""
        found = head
        if mine is not None and _continues(mine, head):
            # Whatever the lease before this one has had acknowledged is in PostgreSQL.
            head = replace(head, hot=False)
        installed = await self._hot.ask(calls.install(self._hot.keys, key, head, host, self._copy_ms, window))
        if isinstance(installed, calls.Newer):
            return await self._surpass(key, found, host, mine, asked_s, window, installed.epoch)
        if installed is None and head.hot:
            raise StoreUnavailable("Turns of this session may be in Redis alone, and Redis is gone.")
        copy = Copy(key, head.lease, host, head.turn_seq, head.last_turn_id, asked_s, noted=found.hot)
        if installed is None or installed.turns is None:
            # Redis' copy is filled from the whole log.
            before = max(0, head.turn_seq - window) if window and installed is None else 0
            turns, state, beyond = await self._read(key, before, head.turn_seq), head.state, 0
        else:
            turns, beyond = installed.turns, installed.turn_seq - head.turn_seq
            state = installed.state if beyond else head.state
        copy.lost = installed is not None and installed.lost
        tail = tuple(turns[len(turns) - beyond :])
        if found.hot and not copy.lost and not await self._bring(copy, tail, state):
            return None
        if installed is not None:
            copy.in_step = installed.turns is not None or await self._fill(copy, turns, state)
        self._copies.keep(copy)
        last = turns[-window:] if window else turns
        return Granted(head.lease, Checkpoint(last, state), head.takeovers, head.suspects)

    async def _surpass(
        self,
        key: SessionKey,
        head: Head,
        host: HostRef,
        mine: Copy | None,
        asked_s: float,
        window: int | None,
        found: int,
    ) -> Granted | Held | None:
        """Redis has a later lease: ours isn't current any more, or PostgreSQL has lost that one."""
        answer = await self._postgres.call(calls.surpass(key, head.lease, found))
        if isinstance(answer, Fenced):
            holder = answer.holder
            return None if holder is None or holder.incarnation == host.incarnation else Held(holder, answer.epoch)
        return await self._granted(key, replace(head, lease=answer), host, mine, asked_s, window)

    async def _bring(self, copy: Copy, tail: tuple[Turn, ...], state: bytes) -> bool:
        """What Redis alone has of the session into PostgreSQL, which then has all. False: the lease has gone."""
        asked_s = asyncio.get_running_loop().time()
        end, last_state = copy.turn_seq + len(tail), (state or None) if tail else None
        answer = await self._postgres.call(
            calls.append(copy.key, copy.lease, copy.last_turn_id, tail, end, last_state, self._ttl_ms, hot=False)
        )
        if not isinstance(answer, calls.Appended):
            return False
        copy.noted = False
        if tail:
            copy.note(tail[-1], asked_s)
        return True

    async def _read(self, key: SessionKey, before: int, turn_seq: int) -> Sequence[Turn]:
        """PostgreSQL's log after its first ``before`` turns. The lease is ours, so nobody adds to it."""
        packed: list[bytes] = []
        while before + len(packed) < turn_seq:
            page = await self._reader.read(key, before + len(packed), PAGE_TURNS_MAX)
            if not isinstance(page, Turns) or not page.turns:
                raise StoreUnavailable("The session went while it was read.")
            packed += page.turns.packed if isinstance(page.turns, Records) else map(pack, page.turns)
        return Records(before + 1, packed[: turn_seq - before])

    async def _fill(self, copy: Copy, turns: Sequence[Turn], state: bytes) -> bool:
        """PostgreSQL's log into Redis, in pieces. Whether all of it is there."""
        first = 0
        while first < len(turns):
            size_bytes, end = 0, first
            while end < len(turns) and (end == first or size_bytes < self._bytes_max):
                size_bytes += len(encode_turn(copy.key.tenant, turns[end]))
                end += 1
            piece = calls.fill(self._hot.keys, copy.key, copy.lease, first, turns[first:end], state, self._copy_ms)
            if not await self._hot.ask(piece):
                return False
            first = end
        return True


def _continues(mine: Copy, head: Head) -> bool:
    """Whether no other lease was between ``mine`` and the one that was granted, and nothing of mine is in doubt."""
    clean = not (mine.waiting or mine.doubtful or mine.lost)
    follows = mine.lease.born == head.lease.born and 0 <= head.lease.epoch - mine.lease.epoch <= 1
    return clean and follows and (mine.turn_seq, mine.last_turn_id) == (head.turn_seq, head.last_turn_id)
