"""The checkpoint store in DynamoDB: one transaction per commit, conditional writes for everything else.

A commit is one request: the lease (on the condition that epoch, token, turn_seq and last turn are the caller's, and
that it hasn't expired), the turn's id (on the condition that it isn't known), the turn, and the state if there is a
new one, all or nothing. If it is cancelled, lease and ids are read in one transaction, and that moment is the call's:
:mod:`~actors.stores.lease_rules` says what it means. If it would be accepted by now, it is sent once more.

A claim is three requests: read the lease, write it on the condition that nobody has in between, load the log. What is
loaded is what the new epoch starts from, because the lease that was written says how long the log is, a log only
grows, and whoever adds to it after that has fenced us. A new session has nothing to load: two requests.

Time is the injected ``now_ms``, the host's wall clock: DynamoDB has no clock that a condition could use. What that
means, and why it is safe, is in :mod:`~actors.stores.lease_rules`; how far clocks may differ is looked at in ``fit``.

Races, each with its test in ``tests/contract/test_dynamodb.py``:

- A claim that was granted and is taken over while it loads finds a state that is newer than its lease: it starts again,
  and is told who holds the session. One that finds turns missing looks whether the session was deleted meanwhile.
- A delete writes the tombstone first, and that is the deletion. Who dies before the rest is cleared away leaves turns
  that nobody can see; the repeat of the delete, or ``sweep``, clears them.
- ``ClientRequestToken`` is left to chance on purpose: it would answer the repeat of a commit with "done" for ten
  minutes only. The turn's id is a condition of the transaction, which holds as long as the session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self, TypeVar

from actors.errors import StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn
from actors.settings import Settings
from actors.stores import lease_rules as rules
from actors.stores.base import (
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Deleted,
    Granted,
    Held,
    Missing,
    Ok,
    ReadAnswer,
    ReleaseAnswer,
    Replayed,
    Turns,
)
from actors.stores.codec import encode_turn
from actors.stores.dynamodb import items, requests
from actors.stores.dynamodb.address import Address
from actors.stores.dynamodb.errors import Contested
from actors.stores.dynamodb.fit import require_fit, require_limits
from actors.stores.dynamodb.log import Log
from actors.stores.dynamodb.transport import Transport
from actors.stores.lease_rules import Known, Record

A = TypeVar("A")
Change = Callable[[Record | None, int, int], tuple[A, Record | None]]
"""(the record as it is, where the caller's last turn stands, where the turn does that is asked about) -> (the answer,
the record to write; None: nothing is)."""

TRIES: Final = 12
"""Looks at a session until it held still. Each that was in vain means that somebody else's write was done."""
PAUSE_FIRST_S: Final = 0.002
PAUSE_MAX_S: Final = 0.1
NOWHERE: Final = (0, "")


class DynamoStore:
    """The :class:`~actors.stores.base.SessionStore` in one DynamoDB table.

    ``ttl_s`` and ``tombstone_s`` are those of the session settings, ``page_bytes_max`` of the store's. ``now_ms`` is
    this host's wall clock in ms.
    """

    def __init__(
        self,
        transport: Transport,
        prefix: str,
        ttl_s: float,
        tombstone_s: float,
        page_bytes_max: int = 8 << 20,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._transport = transport
        self._names = items.Names(prefix)
        self._log = Log(transport, self._names)
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = max(1, int(tombstone_s * 1000))
        self._page_bytes_max = page_bytes_max
        self._now_ms = now_ms

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """A store whose table was found fit, or made. Misconfigured says in one sentence what isn't so."""
        require_limits(settings)
        await asyncio.to_thread(require_fit, settings.store, begin=True)
        session, store = settings.session, settings.store
        transport = Transport(Address.of(store.url), store)
        await transport.open()
        return cls(transport, store.prefix, session.ttl_s, session.tombstone_s, store.page_bytes_max)

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        rules.require_window(window)

        def change(record: Record | None, *_: int) -> tuple[Held | Deleted | None, Record | None]:
            after = rules.claimed(record, token, host, over, self._now_ms(), self._ttl_ms)
            return (None, after) if isinstance(after, Record) else (after, None)

        for _ in range(TRIES):
            refusal, record = await self._change(key, change, expired_too=True)
            if refusal is not None:
                return refusal
            assert record is not None
            if (checkpoint := await self._log.load(key, record, window)) is not None:
                suspects = record.suspects if record.takeovers else ()
                return Granted(Lease(record.epoch, token, record.born), checkpoint, record.takeovers, suspects)
            await self._require_moved_on(key, record)
        raise _contended(key)

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        assert turn.turn_id and turn.turn_seq >= 1, "A turn has an id and counts from 1."
        rules.require_shown(turn.turn_seq - 1, previous_turn_id)
        encoded = encode_turn(key.tenant, turn)
        for attempt in range(TRIES):
            now_ms = self._now_ms()
            expires_ms = now_ms + self._ttl_ms if self._ttl_ms else 0
            append = requests.append_turn(
                self._transport.table, self._names.session(key), lease, previous_turn_id, turn, encoded, state, now_ms,
                expires_ms,
            )  # fmt: skip
            try:
                await self._transport.call("transact_write_items", **append)
                return Ok()
            except Contested:
                found, known = await self._look(key, lease.born, previous_turn_id, turn.turn_id)
            record, (place, _) = self._living(found), known.get(previous_turn_id, NOWHERE)
            answer = rules.refused(record, lease, turn, place, known.get(turn.turn_id))
            if isinstance(answer, Known):
                if recorded := await self._log.turn(key, lease.born, answer.turn_seq):
                    return Replayed(recorded)
                await self._require_moved_on(key, record)
            elif answer is not None:
                return answer
            await _pause(attempt)
        raise _contended(key)

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        rules.require_shown(turn_seq, last_turn_id)

        def change(record: Record | None, place: int, _: int) -> tuple[ReleaseAnswer, Record | None]:
            return rules.released(record, lease, turn_seq, place)

        answer, _ = await self._change(key, change, lease.born, last_turn_id)
        return answer

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        rules.require_shown(turn_seq, last_turn_id)
        rules.require_one_of(running, refused)

        def change(record: Record | None, place: int, known: int) -> tuple[CheckAnswer | Known, Record | None]:
            return rules.checked(record, lease, turn_seq, place, running, known)

        for _ in range(TRIES):
            answer, record = await self._change(key, change, lease.born, last_turn_id, running or refused)
            if not isinstance(answer, Known):
                return answer
            if recorded := await self._log.turn(key, lease.born, answer.turn_seq):
                return Replayed(recorded)
            await self._require_moved_on(key, record)
        raise _contended(key)

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        def change(record: Record | None, *_: int) -> tuple[DeleteAnswer, Record | None]:
            return rules.buried(record, turn_id, self._now_ms(), self._tombstone_ms)

        answer, tombstone = await self._change(key, change)
        if tombstone is not None:
            await self._log.clear(key, tombstone.born)
        return answer

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        assert after >= 0 and limit >= 0, "Turns count from 1."
        for _ in range(TRIES):
            record = self._living(await self._find(key))
            if record is None:
                return Missing()
            if record.deleted:
                return Deleted()
            last = min(after + limit, record.turn_seq)
            if last <= after:
                return Turns((), record.turn_seq)
            page = await self._log.page(key, record.born, after, last, self._page_bytes_max)
            if page is not None:
                return Turns(page, record.turn_seq)
            await self._require_moved_on(key, record)
        raise _contended(key)

    async def aclose(self) -> None:
        await self._transport.aclose()

    # --- the lease --------------------------------------------------------------------------------------------------

    async def _change(
        self,
        key: SessionKey,
        change: Change[A],
        born: int = 0,
        last_turn_id: str = "",
        about: str = "",
        expired_too: bool = False,
    ) -> tuple[A, Record | None]:
        """Read, decide, and write if nobody has in between, else again. The answer, and the record that stands now.

        The turns ``last_turn_id`` and ``about`` are looked up in the life that began at ``born``, at one moment with
        the record; the former only if the record alone doesn't tell where it stands.
        """
        for attempt in range(TRIES):
            found, place, at = None, None, 0
            if not about:
                found = await self._find(key)
                place = found.place(last_turn_id) if found else 0
            if place is None:
                found, known = await self._look(key, born, *filter(None, (last_turn_id, about)))
                (place, _), (at, _) = (known.get(turn_id, NOWHERE) for turn_id in (last_turn_id, about))
            answer, after = change(found if expired_too else self._living(found), place, at)
            if after is None:
                return answer, self._living(found)
            try:
                write = requests.write_record(self._transport.table, self._names.session(key), found, after)
                await self._transport.call("put_item", **write)
                return answer, after
            except Contested:
                await _pause(attempt)
        raise _contended(key)

    async def _find(self, key: SessionKey) -> Record | None:
        """The record as it stands, expired or not."""
        lease = items.key_of(self._names.session(key), items.LEASE)
        answer = await self._transport.call("get_item", TableName=self._transport.table, Key=lease, ConsistentRead=True)
        return items.record_in(answer["Item"]) if "Item" in answer else None

    async def _look(
        self, key: SessionKey, born: int, *turn_ids: str
    ) -> tuple[Record | None, dict[str, tuple[int, str]]]:
        """The record, expired or not, and turn id -> (turn_seq, fingerprint) of those that are known, at one moment."""
        wanted = tuple(dict.fromkeys(turn_ids))
        look = requests.look(self._transport.table, self._names.session(key), born, *wanted)
        for attempt in range(TRIES):
            try:
                answer = await self._transport.call("transact_get_items", **look)
            except Contested:
                await _pause(attempt)
                continue
            lease, *found = (one.get("Item") for one in answer["Responses"])
            known = {turn_id: items.known_in(item) for turn_id, item in zip(wanted, found, strict=True) if item}
            return items.record_in(lease) if lease else None, known
        raise _contended(key)

    async def _require_moved_on(self, key: SessionKey, record: Record | None) -> None:
        """The log wasn't what ``record`` says: that is right only if another record stands there by now."""
        now = self._living(await self._find(key))
        if now is not None and record is not None and now.rev == record.rev:
            raise rules.damaged(key)

    def _living(self, record: Record | None) -> Record | None:
        return None if record is None or record.expired(self._now_ms()) else record


async def _pause(attempt: int) -> None:
    """Let the other writer finish; DynamoDB tells nobody when it has."""
    await asyncio.sleep(min(PAUSE_FIRST_S * 2**attempt, PAUSE_MAX_S))


def _contended(key: SessionKey) -> StoreUnavailable:
    return StoreUnavailable(f"Too many write to session {key.session_id!r} at one time.")
