"""The session store in memory: for ``memory://`` (one process, nothing survives it) and for tests in virtual time.

It keeps the same contract as Redis and passes the same suite. No method awaits anything, so every call is one step on
the event loop. Time is the injected ``now_ms`` alone. Turns are kept as the bytes that Redis would keep, so that nobody
shares an object with the store and what can't be stored fails here too.

Deliberately absent: a background task. What has expired is forgotten when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from actors.model import Checkpoint, HostRef, Lease, SessionKey, Turn
from actors.stores.base import (
    SUSPECTS_BYTES_MAX,
    Ahead,
    Buried,
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


@dataclass(slots=True)
class _Session:
    """What stands under one key. ``holder`` None: released; of a tombstone, who had the lease. ``expires_ms`` None:
    never."""

    born: int
    epoch: int
    token: str = ""
    holder: HostRef | None = None
    takeovers: int = 0
    running: str = ""
    suspects: tuple[str, ...] = ()
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

    def accused(self) -> tuple[str, ...]:
        """The suspects, now that this holder has died too."""
        accused = (*self.suspects, self.running) if self.running else self.suspects
        while sum(len(turn_id) + 1 for turn_id in accused) > SUSPECTS_BYTES_MAX:
            accused = accused[1:]
        return accused

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

    ``now_ms`` is the store's TIME in ms; ``ttl_s``, ``tombstone_s`` and ``page_bytes_max`` as in the settings.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        ttl_s: float = 604_800.0,
        tombstone_s: float = 86_400.0,
        page_bytes_max: int = 8 << 20,
    ) -> None:
        self._now_ms = now_ms
        self._ttl_ms = int(ttl_s * 1000)
        self._tombstone_ms = int(tombstone_s * 1000)
        self._page_bytes_max = page_bytes_max
        self._sessions: dict[SessionKey, _Session] = {}

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
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
                session.suspects = session.accused() if session.takeovers else ()
                session.running = ""
                session.takeovers += 1
            session.epoch += 1
        session.token = token
        session.holder = host
        self._renew(session)
        return Granted(
            Lease(session.epoch, token, session.born),
            Checkpoint(decode_turns(key.tenant, session.log[-(window or 0) :]), session.state),
            session.takeovers,
            session.suspects if session.takeovers else (),
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

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        session = self._find(key)
        if session is None:
            return Fenced(None, 0, 0)
        if session.deleted:
            return Deleted()
        if refusal := session.fence(lease, turn_seq, last_turn_id):
            return refusal
        if not session.begins_with(turn_seq, last_turn_id):
            return Regressed(len(session.log))
        if known := session.ids.get(running or refused):
            return Replayed(decode_turn(key.tenant, session.log[known[0] - 1]))
        if running:
            session.running = running
        return Ok()

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        session = self._find(key)
        if session is None:
            return Missing()
        if not session.deleted:
            self._sessions[key] = _Session(
                born=session.born,
                epoch=session.epoch + 1,
                holder=session.holder,
                deleted=True,
                expires_ms=self._now_ms() + self._tombstone_ms,
            )
        return Buried(session.holder)

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        session = self._find(key)
        if session is None:
            return Missing()
        if session.deleted:
            return Deleted()
        page, size_bytes = list[bytes](), 0
        for record in session.log[after : after + limit]:
            size_bytes += len(record)
            if page and size_bytes > self._page_bytes_max:
                break
            page.append(record)
        return Turns(decode_turns(key.tenant, page), len(session.log))

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
