"""What the suite needs of a store besides the contract: to look at time, and to make it lose things."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import redis

from actors.model import HostRef, Lease, SessionKey, Turn
from actors.settings import StoreSettings
from actors.stores.base import CommitAnswer, Granted, MembershipStore, Ok, SessionStore
from actors.stores.keys import Keys
from actors.stores.memory import MemoryStore
from actors.stores.memory_membership import MemoryMembership
from actors.stores.redis import RedisStore
from actors.stores.redis_guard import RedisGuard
from actors.stores.redis_membership import RedisMembership
from actors.stores.redis_pipeline import Pipelines
from tests.servers import leaked

TTL_S = 3600.0
PAGE_BYTES_MAX = 1 << 20
TOMBSTONE_S = 60.0

ANNA = HostRef("inc-anna", "slot-0", "10.0.0.1:7000")
BERT = HostRef("inc-bert", "slot-1", "10.0.0.2:7000")
CARL = HostRef("inc-carl", "slot-2", "10.0.0.3:7000")

_numbers = itertools.count(1)


def fresh_key(tenant: str = "-") -> SessionKey:
    """A session that no other test knows."""
    return SessionKey(f"s-{next(_numbers)}", tenant)


def turn(turn_seq: int, turn_id: str, fingerprint: str = "f" * 32, **fields: Any) -> Turn:
    """A turn to commit."""
    values: dict[str, Any] = {
        "message": f"message {turn_id}",
        "reply": f"reply {turn_id}",
        "epoch": 7,
        "committed_ms": 11,
    } | fields
    return Turn(turn_seq, turn_id, fingerprint, **values)


class Lab(Protocol):
    """One store under test, with the levers that only tests pull."""

    kind: str

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> SessionStore:
        """A client of the one store behind this lab."""
        ...

    def membership(self) -> MembershipStore:
        """A client of the one membership table behind this lab."""
        ...

    def lose_membership(self) -> None:
        """All data of the membership are gone, as after FLUSHALL."""
        ...

    def age_beats(self) -> None:
        """All beats so far came long ago."""
        ...

    def keep_for_ever(self, key: SessionKey) -> None:
        """The test has made this session permanent (``ttl_s`` 0)."""
        ...

    async def snapshot(self, key: SessionKey) -> object:
        """All that is stored of a session now."""
        ...

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        """Lose all that happened to the session since."""
        ...

    async def expire(self, key: SessionKey) -> None:
        """Its expiry comes now."""
        ...

    async def ttl_ms(self, key: SessionKey) -> int | None:
        """Time until the session expires; None: never, or there is none."""
        ...

    async def pass_ms(self, duration_ms: int) -> None:
        """That much of the store's time passes."""
        ...

    def now_ms(self) -> int:
        """The store's TIME."""
        ...

    async def aclose(self) -> None:
        """Close all clients; afterwards no key may have leaked."""
        ...


class MemoryLab:
    """The store in memory, under a clock that stands until it is moved."""

    kind = "memory"

    def __init__(self) -> None:
        self._now_ms = 1_700_000_000_000
        self._store = MemoryStore(self.now_ms, TTL_S, TOMBSTONE_S)
        self._membership = MemoryMembership(self.now_ms)

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> MemoryStore:
        if (ttl_s, tombstone_s, page_bytes_max) != (TTL_S, TOMBSTONE_S, PAGE_BYTES_MAX):
            self._store = MemoryStore(self.now_ms, ttl_s, tombstone_s, page_bytes_max)
        return self._store

    def membership(self) -> MemoryMembership:
        return self._membership

    def lose_membership(self) -> None:
        self._now_ms += 1000
        self._membership.restore(MemoryMembership(self.now_ms).snapshot())

    def age_beats(self) -> None:
        self._now_ms += 3_600_000

    def keep_for_ever(self, key: SessionKey) -> None:
        return None

    async def snapshot(self, key: SessionKey) -> object:
        return {at: session for at, session in self._store.snapshot().items() if at == key}

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        others = {at: session for at, session in self._store.snapshot().items() if at != key}
        self._store.restore(others | cast(Any, snapshot))

    async def expire(self, key: SessionKey) -> None:
        self._store.expire(key)

    async def ttl_ms(self, key: SessionKey) -> int | None:
        session = self._store.snapshot().get(key)
        return None if session is None or session.expires_ms is None else session.expires_ms - self._now_ms

    async def pass_ms(self, duration_ms: int) -> None:
        self._now_ms += duration_ms

    def now_ms(self) -> int:
        return self._now_ms

    async def aclose(self) -> None:
        await self._store.aclose()


class RedisLab:
    """A real server; every lab has a prefix of its own on it."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.settings = StoreSettings.model_validate({"url": url, "prefix": f"test-{time.time_ns()}"})
        self.keys = Keys(self.settings.prefix)
        self.client: redis.Redis = redis.Redis.from_url(url)
        self._close: list[Callable[[], object]] = [self.client.close]
        self._stores: list[RedisStore] = []
        self.guards: list[RedisGuard] = []
        self.stays_for_ever: set[str] = set()
        """Keys that the test itself has made permanent (``ttl_s`` 0)."""

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> RedisStore:
        store = RedisStore(Pipelines(self.settings), self.keys, ttl_s, tombstone_s, page_bytes_max)
        self._stores.append(store)
        return store

    def membership(self) -> RedisMembership:
        membership = RedisMembership.connect(self.settings, 1.0)
        self._close.append(membership.close)
        return membership

    def lose_membership(self) -> None:
        self.client.delete(self.keys.table, self.keys.beats)

    def age_beats(self) -> None:
        beats = cast(dict[bytes, bytes], self.client.hgetall(self.keys.beats))
        for name, line in beats.items():
            counter, _, rest = line.split(b" ", 2)
            self.client.hset(self.keys.beats, cast(Any, name), cast(Any, b"%b 1 %b" % (counter, rest)))

    def keep_for_ever(self, key: SessionKey) -> None:
        self.stays_for_ever |= set(self.keys.of_session(key))

    async def snapshot(self, key: SessionKey) -> object:
        return {name: self.client.dump(name) for name in self.keys.of_session(key)}

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        for name, dump in cast(dict[str, Any], snapshot).items():
            self.client.delete(name)
            if dump is not None:
                self.client.restore(name, int(TTL_S * 1000), dump)

    async def expire(self, key: SessionKey) -> None:
        self.client.delete(*self.keys.of_session(key))

    def expires_ms(self, *names: str) -> set[int]:
        """The moments at which these keys expire."""
        call: Callable[..., int] = self.client.execute_command
        return {call("PEXPIRETIME", name) for name in names}

    async def ttl_ms(self, key: SessionKey) -> int | None:
        remaining = self.client.pttl(self.keys.of_session(key)[0])
        return None if remaining < 0 else remaining

    async def pass_ms(self, duration_ms: int) -> None:
        # The server's clock can't be moved and tells nobody; there is no event to wait for.
        await asyncio.sleep(duration_ms / 1000 + 0.005)

    def now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return seconds * 1000 + microseconds // 1000

    def evalsha_calls(self) -> int:
        """How many scripts the server has been asked to run since it started."""
        stats = self.client.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))

    def leaked(self) -> list[str]:
        """Keys of this lab that neither expire nor stand on the list of the permanent ones."""
        return leaked(self.client, f"{self.settings.prefix}:*", self.stays_for_ever)

    def sweep(self) -> None:
        """Delete all keys of this lab."""
        for name in self.client.scan_iter(f"{self.settings.prefix}:*", count=1000):
            self.client.delete(name)

    async def aclose(self) -> None:
        for store in self._stores:
            await store.aclose()
        for guard in self.guards:
            await guard.aclose()
        leaked = self.leaked()
        self.sweep()
        for close in self._close:
            close()
        assert not leaked, f"Keys without an expiry that aren't on the permanent list: {leaked}"


@dataclass
class Talk:
    """One holder's view of one session: its lease, and the log that it believes in, from turn ``before`` + 1 on."""

    store: SessionStore
    key: SessionKey
    host: HostRef = ANNA
    token: str = ""
    log: list[str] = field(default_factory=list)
    granted: Granted | None = None
    before: int = 0

    @property
    def lease(self) -> Lease:
        assert self.granted is not None, "Nothing was claimed."
        return self.granted.lease

    @property
    def last(self) -> str:
        return self.log[-1] if self.log else ""

    @property
    def turn_seq(self) -> int:
        return self.before + len(self.log)

    async def claim(self, over: tuple[str, int] | None = None, window: int | None = None) -> Granted:
        """Claim, which must be granted, and know what is stored, or the last ``window`` turns of it."""
        self.token = self.token or f"token-{next(_numbers)}"
        answer = await self.store.claim(self.key, self.token, self.host, over, window)
        assert isinstance(answer, Granted), answer
        self.granted = answer
        self.log = [turn.turn_id for turn in answer.checkpoint.turns]
        self.before = answer.checkpoint.turn_seq - len(self.log)
        return answer

    async def commit(self, turn_id: str, state: bytes | None = None, **fields: Any) -> CommitAnswer:
        """Commit the next turn as this holder sees it; remembered if accepted."""
        answer = await self.store.commit(
            self.key, self.lease, self.last, turn(self.turn_seq + 1, turn_id, **fields), state
        )
        if answer == Ok():
            self.log.append(turn_id)
        return answer

    async def say(self, *turn_ids: str) -> None:
        """Commit turns, all of which must be accepted."""
        for turn_id in turn_ids:
            assert await self.commit(turn_id) == Ok()

    async def release(self) -> Any:
        return await self.store.release(self.key, self.lease, self.turn_seq, self.last)

    async def check(self, running: str = "", refused: str = "") -> Any:
        return await self.store.check(self.key, self.lease, self.turn_seq, self.last, running, refused)

    async def stored(self) -> list[str]:
        """The turn ids that any reader sees now."""
        answer = await self.store.read(self.key, 0, 10_000)
        return [turn.turn_id for turn in getattr(answer, "turns", ())]

    async def until_stored(self, *turn_ids: str) -> None:
        """Wait until the log is this."""
        async with asyncio.timeout(5):
            while await self.stored() != list(turn_ids):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)


async def begin(store: SessionStore, *turn_ids: str, host: HostRef = ANNA, key: SessionKey | None = None) -> Talk:
    """A claimed session with these turns."""
    talk = Talk(store, key or fresh_key(), host)
    await talk.claim()
    await talk.say(*turn_ids)
    return talk


async def take_over(talk: Talk, host: HostRef = BERT) -> Talk:
    """``host`` finds the holder of ``talk`` dead and claims over it."""
    other = Talk(talk.store, talk.key, host)
    await other.claim(over=(talk.host.incarnation, talk.lease.epoch))
    return other
