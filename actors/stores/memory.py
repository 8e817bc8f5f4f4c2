"""The stores in memory: for ``memory://`` (one process, nothing survives it) and for tests in virtual time.

They keep the same contract as Redis and pass the same suite. No method awaits anything, so every call is one
step on the event loop; :class:`MemoryMembership`, which beat threads call, holds a lock instead. Time is the
injected ``now_ms`` alone. Turns are kept as the bytes that Redis would keep, so that nobody shares an object with
the store and what can't be stored fails here too.

Deliberately absent: a background task. What has expired is forgotten when it is next asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Final

from actors.model import Beat, BeatReply, Checkpoint, HostRef, HostState, Lease, Member, SessionKey, Table, Turn
from actors.stores.base import (
    Ahead,
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Deleted,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Missing,
    Ok,
    ReadAnswer,
    Regressed,
    ReleaseAnswer,
    Replayed,
    Turns,
)
from actors.stores.codec import decode_turn, decode_turns, encode_turn

BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""


@dataclass(slots=True)
class _Session:
    """What stands under one key. ``holder`` None: released. ``expires_ms`` None: never."""

    born: int
    epoch: int
    token: str = ""
    holder: HostRef | None = None
    takeovers: int = 0
    deleted: bool = False
    expires_ms: int | None = None
    last_turn_id: str = ""
    state: bytes = b""
    log: list[bytes] = field(default_factory=list)
    ids: dict[str, tuple[int, str]] = field(default_factory=dict)
    """turn_id -> (turn_seq, fingerprint)"""

    def copy(self) -> _Session:
        return replace(self, log=list(self.log), ids=dict(self.ids))

    def begins_with(self, turn_seq: int, last_turn_id: str) -> bool:
        """Whether a log of ``turn_seq`` turns that ends in ``last_turn_id`` is a prefix of this one."""
        return turn_seq == 0 or self.ids.get(last_turn_id, (0, ""))[0] == turn_seq

    def fence(self, lease: Lease, turn_seq: int, last_turn_id: str) -> Fenced | Regressed | None:
        """None if ``lease`` is current, else what to tell its owner, whose log ends as the other two say."""
        if self.born == lease.born:
            if lease.epoch > self.epoch:
                return Regressed(len(self.log))
            if self.holder and (lease.epoch, lease.token) == (self.epoch, self.token):
                return None
            if not self.begins_with(turn_seq, last_turn_id):
                return Regressed(len(self.log))
        return Fenced(self.holder, self.epoch, len(self.log))


class MemoryStore:
    """The :class:`~actors.stores.base.SessionStore` of one process.

    ``now_ms`` is the store's TIME in ms; ``ttl_s`` and ``tombstone_s`` as in the settings.
    """

    def __init__(self, now_ms: Callable[[], int], ttl_s: float = 604_800.0, tombstone_s: float = 86_400.0) -> None:
        self._now_ms = now_ms
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = int(tombstone_s * 1000)
        self._sessions: dict[SessionKey, _Session] = {}

    async def claim(
        self, key: SessionKey, token: str, host: HostRef, over: tuple[str, int] | None = None
    ) -> ClaimAnswer:
        session = self._find(key)
        if session is None:
            now_ms = max(self._now_ms(), 1)
            session = self._sessions[key] = _Session(born=now_ms, epoch=now_ms - 1)
        elif session.deleted:
            return Deleted()
        holder = session.holder
        if holder is None or session.token != token:
            if holder is not None and holder.incarnation != host.incarnation:
                if over != (holder.incarnation, session.epoch):
                    return Held(holder, session.epoch)
                session.takeovers += 1
            session.epoch += 1
        session.token = token
        session.holder = host
        self._renew(session)
        return Granted(
            Lease(session.epoch, token, session.born),
            Checkpoint(decode_turns(key.tenant, session.log), session.state),
            session.takeovers,
        )

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        record = encode_turn(key.tenant, turn)
        session = self._find(key)
        if session is None:
            return Fenced(None, 0, 0)
        if session.deleted:
            return Deleted()
        before = turn.turn_seq - 1
        if refusal := session.fence(lease, before, previous_turn_id):
            return refusal
        if known := session.ids.get(turn.turn_id):
            turn_seq, fingerprint = known
            if fingerprint != turn.fingerprint:
                return Mismatch()
            return Replayed(decode_turn(key.tenant, session.log[turn_seq - 1]))
        if not session.begins_with(before, previous_turn_id):
            return Regressed(len(session.log))
        if len(session.log) > before:
            return Ahead(len(session.log))
        session.log.append(record)
        session.ids[turn.turn_id] = (turn.turn_seq, turn.fingerprint)
        session.last_turn_id = turn.turn_id
        session.takeovers = 0
        if state is not None:
            session.state = state
        self._renew(session)
        return Ok()

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        session = self._find(key)
        if session is None:
            return Ok()
        if session.deleted:
            return Deleted()
        released = session.holder is None and (lease.born, lease.epoch) == (session.born, session.epoch)
        if not released and (refusal := session.fence(lease, turn_seq, last_turn_id)):
            return refusal
        session.holder = None
        session.token = ""
        session.takeovers = 0
        return Ok() if session.begins_with(turn_seq, last_turn_id) else Regressed(len(session.log))

    async def check(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> CheckAnswer:
        session = self._find(key)
        if session is None:
            return Fenced(None, 0, 0)
        if session.deleted:
            return Deleted()
        if refusal := session.fence(lease, turn_seq, last_turn_id):
            return refusal
        return Ok() if session.begins_with(turn_seq, last_turn_id) else Regressed(len(session.log))

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        session = self._find(key)
        if session is None:
            return Missing()
        if not session.deleted:
            self._sessions[key] = _Session(
                born=session.born,
                epoch=session.epoch + 1,
                deleted=True,
                expires_ms=self._now_ms() + self._tombstone_ms,
            )
        return Ok()

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        session = self._find(key)
        if session is None:
            return Missing()
        if session.deleted:
            return Deleted()
        return Turns(decode_turns(key.tenant, session.log[after : after + limit]), len(session.log))

    async def aclose(self) -> None:
        return None

    # --- for tests and the simulation ---------------------------------------------------------------------------

    def snapshot(self) -> dict[SessionKey, _Session]:
        """All that is stored now, to be given to :meth:`restore`."""
        return {key: session.copy() for key, session in self._sessions.items()}

    def restore(self, snapshot: dict[SessionKey, _Session]) -> None:
        """Forget all that happened since ``snapshot``, as a promoted replica does. May be repeated."""
        self._sessions = {key: session.copy() for key, session in snapshot.items()}

    def expire(self, key: SessionKey) -> None:
        """Let the session (or its tombstone) expire now."""
        self._sessions.pop(key, None)

    def _find(self, key: SessionKey) -> _Session | None:
        session = self._sessions.get(key)
        if session is not None and session.expires_ms is not None and session.expires_ms <= self._now_ms():
            del self._sessions[key]
            return None
        return session

    def _renew(self, session: _Session) -> None:
        session.expires_ms = self._now_ms() + self._ttl_ms if self._ttl_ms else None


class MemoryMembership:
    """The :class:`~actors.stores.base.MembershipStore` of one process; may be called from many threads."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._ring_version = 0
        self._members: dict[str, Member] = {}
        self._beats: dict[str, tuple[Beat, int]] = {}
        """incarnation -> (its last beat, when it came in ms)"""

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        with self._lock:
            if self._table().slot_of(incarnation) is None:
                for slot in (f"slot-{number}" for number in range(slots_max)):
                    if slot not in self._members:
                        self._members[slot] = Member(slot, incarnation, address, health_port, weight)
                        self._changed()
                        break
            return self._table()

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        with self._lock:
            now_ms = self._now_ms()
            last = self._beats.get(incarnation)
            # A first count at the clock, so that one who was forgotten never seems to go backwards.
            counter = last[0].counter + 1 if last else now_ms
            self._beats[incarnation] = (Beat(counter, state, address), now_ms)
            table = self._table()
            self._prune(table, now_ms)
            return BeatReply(
                table.ring_version,
                table.slot_of(incarnation) is not None,
                {name: beat for name, (beat, _) in self._beats.items()},
                table if table.ring_version != known_ring_version else None,
            )

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        with self._lock:
            slot = self._table().slot_of(incarnation)
            if slot is not None:
                del self._members[slot]
                self._changed()
            if gone:
                self._beats.pop(incarnation, None)
            return self._table()

    def evict(self, slot: str, incarnation: str) -> Table:
        with self._lock:
            member = self._members.get(slot)
            if member is not None and member.incarnation == incarnation:
                del self._members[slot]
                self._beats.pop(incarnation, None)
                self._changed()
            return self._table()

    def table(self) -> Table:
        with self._lock:
            return self._table()

    def close(self) -> None:
        return None

    # --- for tests and the simulation ---------------------------------------------------------------------------

    def snapshot(self) -> object:
        """All that is stored now, to be given to :meth:`restore`."""
        with self._lock:
            return (self._ring_version, dict(self._members), dict(self._beats))

    def restore(self, snapshot: object) -> None:
        """Forget all that happened since ``snapshot``."""
        assert isinstance(snapshot, tuple)
        with self._lock:
            self._ring_version, self._members, self._beats = deepcopy(snapshot)

    def _changed(self) -> None:
        # From the clock after a loss of all data, so that nobody who knew the old table takes the new for older.
        self._ring_version = self._ring_version + 1 if self._ring_version else max(self._now_ms(), 1)

    def _table(self) -> Table:
        return Table(self._ring_version, dict(self._members))

    def _prune(self, table: Table, now_ms: int) -> None:
        listed = {member.incarnation for member in table.members.values()}
        for name, (_, seen_ms) in list(self._beats.items()):
            if seen_ms + BEATS_KEEP_MS < now_ms and name not in listed:
                del self._beats[name]
