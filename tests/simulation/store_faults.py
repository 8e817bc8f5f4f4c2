"""The way to the store and back, and everything that can go wrong on it. The store behind it is the real one.

A call is sent, applied at some later moment in one step, and answered; each of the three can be lost, late or doubled.
What a killed or frozen host has sent is applied all the same. The caller only ever learns an answer or
``StoreUnavailable`` after ``timeout_s``. Every application is recorded: the checker judges the store by it.

A ``Backend`` is a store whose calls take effect in one step of the simulation: ``MemoryStore``, whose methods never
wait, or the real scripts on a real server over a blocking connection (``redis_backend``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from actors.errors import RehydraError, StoreFull, StoreUnavailable
from actors.model import BeatReply, Checkpoint, HostRef, HostState, Lease, SessionKey, Table, Turn
from actors.stores.base import (
    CheckAnswer,
    ClaimAnswer,
    CommitAnswer,
    DeleteAnswer,
    Granted,
    MembershipStore,
    ReadAnswer,
    ReleaseAnswer,
    SessionStore,
)
from actors.stores.memory import MemoryStore
from actors.stores.memory_membership import MemoryMembership
from tests.simulation.history import Beaten, Evicted, Expired, History, Restored, Snapshot, StoreCall, TableCall, Told
from tests.simulation.loop import SimLoop

if TYPE_CHECKING:
    from tests.simulation.process import SimProcess


class Backend(Protocol):
    """The store itself, and what a nemesis may do to it."""

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def members(self) -> MembershipStore: ...

    def expire(self, key: SessionKey) -> None: ...

    def snapshot(self) -> None: ...

    def restore(self) -> None: ...

    def close(self) -> list[str]:
        """Free everything. Returns what would have stayed for ever, and isn't meant to."""
        ...


class MemoryBackend:
    """The stores in memory; TIME is the simulation's."""

    def __init__(self, loop: SimLoop) -> None:
        def now_ms() -> int:
            return int(loop.time() * 1000)

        self.sessions: MemoryStore = MemoryStore(now_ms, ttl_s=0.0, tombstone_s=1e6)
        self.members: MemoryMembership = MemoryMembership(now_ms)
        self._kept = self.sessions.snapshot()

    def expire(self, key: SessionKey) -> None:
        self.sessions.expire(key)

    def snapshot(self) -> None:
        self._kept = self.sessions.snapshot()

    def restore(self) -> None:
        self.sessions.restore(self._kept)

    def close(self) -> list[str]:
        return []


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    raise AssertionError("a store that the simulation drives must not wait")


class Dice:
    """How often the way to the store misbehaves; probabilities per call."""

    def __init__(self) -> None:
        self.lost_request = 0.0
        self.lost_reply = 0.0
        self.delayed = 0.0
        self.duplicate = 0.0
        self.slow = 0.0
        self.full = 0.0
        self.slow_claim = 0.0
        self.stuck = 0.0
        """A commit is under way for longer than anybody waits, and the store is full for its session meanwhile."""
        self.lost_beat = 0.0


class StoreWorld:
    """The store, its moments of absence, and its record."""

    def __init__(self, loop: SimLoop, rng: random.Random, history: History, backend: Backend, timeout_s: float) -> None:
        self.loop = loop
        self.rng = rng
        self.history = history
        self.backend = backend
        self.timeout_s = timeout_s
        self.dice = Dice()
        self.down = False
        self.cut: set[str] = set()
        """Processes whose way to the store is cut."""
        self.full_until: dict[SessionKey, float] = {}
        """Until when no commit of that session is taken."""
        self.release_late_s = 0.0
        """How much later than other calls a release arrives."""
        self._takeovers: dict[int, Callable[[], None]] = {}
        self._table_calls: dict[str, Callable[[], None]] = {}

    def latency(self) -> float:
        if self.rng.random() < self.dice.slow:
            return self.rng.uniform(0.02, 0.7)
        return self.rng.uniform(0.0001, 0.002)

    def reachable(self, process: str) -> bool:
        return not self.down and process not in self.cut

    def sent(self, record: StoreCall, again: Callable[[], None]) -> None:
        """A call is on its way. Of takeovers a twin is kept, which may arrive at any time."""
        if record.over is not None:
            self._takeovers[record.number] = again

    def repeat_takeover(self, number: int) -> None:
        """The twin of that takeover arrives now."""
        self._takeovers[number]()

    def keep_table_call(self, what: str, again: Callable[[], None]) -> None:
        """Of the last join of each host, and of the last eviction from each slot, a twin is kept."""
        self._table_calls[what] = again

    def repeat_table_call(self, what: str) -> bool:
        """The twin arrives now, if there is one: ``join <incarnation>`` or ``evict <slot>``."""
        if (again := self._table_calls.pop(what, None)) is not None:
            again()
        return again is not None

    def expire(self, key: SessionKey) -> None:
        self.backend.expire(key)
        self.history.add(Expired(key))

    def snapshot(self) -> None:
        self.backend.snapshot()
        self.history.add(Snapshot())

    def restore(self) -> None:
        self.backend.restore()
        self.history.add(Restored())


class SimStore:
    """``SessionStore`` as one process has it."""

    def __init__(self, world: StoreWorld, process: SimProcess) -> None:
        self._world = world
        self._process = process
        self._inner = world.backend.sessions

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        record = self._record("claim", key, token=token, over=over, window=window)
        return await self._send(record, lambda: self._inner.claim(key, token, host, over, window))

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        record = self._record(
            "commit", key, lease=lease, turn_seq=turn.turn_seq - 1, last_turn_id=previous_turn_id, turn=turn
        )
        return await self._send(record, lambda: self._inner.commit(key, lease, previous_turn_id, turn, state))

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        record = self._record("release", key, lease=lease, turn_seq=turn_seq, last_turn_id=last_turn_id)
        return await self._send(record, lambda: self._inner.release(key, lease, turn_seq, last_turn_id))

    async def check(
        self,
        key: SessionKey,
        lease: Lease,
        turn_seq: int,
        last_turn_id: str,
        running: str = "",
        refused: str = "",
    ) -> CheckAnswer:
        record = self._record(
            "check", key, lease=lease, turn_seq=turn_seq, last_turn_id=last_turn_id, running=running, refused=refused
        )
        return await self._send(record, lambda: self._inner.check(key, lease, turn_seq, last_turn_id, running, refused))

    async def delete(self, key: SessionKey, turn_id: str) -> DeleteAnswer:
        record = self._record("delete", key)
        return await self._send(record, lambda: self._inner.delete(key, turn_id))

    async def read(self, key: SessionKey, after: int, limit: int) -> ReadAnswer:
        record = self._record("read", key)
        return await self._send(record, lambda: self._inner.read(key, after, limit))

    async def aclose(self) -> None:
        return None

    def _record(self, call: str, key: SessionKey, **details: Any) -> StoreCall:
        loop = self._world.loop
        return StoreCall(loop.number(), self._process.name, call, key, loop.time(), **details)

    async def _send(self, record: StoreCall, apply: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        world, rng, dice = self._world, self._world.rng, self._world.dice
        answered = world.loop.create_future()
        if not world.reachable(self._process.name) and rng.random() < 0.5:
            # Refused rather than silent.
            await asyncio.sleep(0.001)
            raise StoreUnavailable("refused")
        if rng.random() < dice.full and (record.call in ("claim", "commit", "delete") or record.running):
            await asyncio.sleep(world.latency())
            raise StoreFull("full")
        if record.call == "commit" and world.full_until.get(record.key, 0.0) > world.loop.time():
            await asyncio.sleep(world.latency())
            raise StoreFull("full")
        if rng.random() >= dice.lost_request:
            delay_s = rng.uniform(0.5, 12.0) if rng.random() < dice.delayed else world.latency()
            if record.call == "commit" and dice.stuck and rng.random() < dice.stuck:
                delay_s = world.timeout_s * rng.uniform(1.05, 2.0)
                world.full_until[record.key] = world.loop.time() + delay_s
            if record.call == "claim" and rng.random() < dice.slow_claim:
                delay_s += rng.uniform(0.1, 0.8)
            if record.call == "release":
                delay_s += world.release_late_s
            world.sent(record, lambda: self._apply(record, apply, None))
            world.loop.world.call(delay_s, self._apply, record, apply, answered)
            if rng.random() < dice.duplicate:
                again_s = rng.choice((0.001, 0.1, 1.0, 6.0)) * rng.random()
                world.loop.world.call(delay_s + again_s, self._apply, record, apply, None)
        try:
            async with asyncio.timeout(world.timeout_s):
                answer = await answered
        except TimeoutError:
            raise StoreUnavailable("no answer") from None
        if isinstance(answer, RehydraError):
            raise answer
        world.history.add(Told(record.number, record.process, record.key, brief(answer)))
        return answer

    def _apply(
        self, record: StoreCall, apply: Callable[[], Coroutine[Any, Any, Any]], answered: asyncio.Future[Any] | None
    ) -> None:
        """In the store's own time, whatever has become of the caller."""
        world = self._world
        if not world.reachable(record.process):
            return
        try:
            answer = at_once(apply())
        except StoreUnavailable as error:
            answer = error
        applied = replace(record, answer=brief(answer), again=answered is None)
        world.history.add(applied)
        if answered is not None and world.rng.random() >= world.dice.lost_reply:
            self._process.main.call(world.latency(), self._answer, answered, answer)

    def _answer(self, answered: asyncio.Future[Any], answer: Any) -> None:
        if not answered.done() and self._world.reachable(self._process.name):
            answered.set_result(answer)


def brief(answer: Any) -> Any:
    """A grant without the states' bytes, whose checkpoint the checker compares by its turns."""
    if isinstance(answer, Granted):
        return Granted(answer.lease, Checkpoint(answer.checkpoint.turns), answer.takeovers, answer.suspects)
    return answer


class SimMembership:
    """The membership table as one process's beat thread has it: blocking there, waiting here."""

    def __init__(self, world: StoreWorld, process: SimProcess) -> None:
        self._world = world
        self._process = process
        self._inner = world.backend.members

    async def beat(self, state: HostState, known_ring_version: int) -> BeatReply | None:
        """None if there was no answer in time."""
        process = self._process

        def apply() -> BeatReply:
            reply = self._inner.beat(process.incarnation, process.address, state, known_ring_version)
            self._world.history.add(Beaten(process.name, known_ring_version, reply))
            return reply

        return await self._send(apply)  # type: ignore[no-any-return]

    async def join(self, slots_max: int) -> None:
        process = self._process
        await self._change(
            "join", process.incarnation, "",
            lambda: self._inner.join(process.incarnation, process.address, 1, 1, slots_max),
        )  # fmt: skip

    async def leave(self, incarnation: str, gone: bool = False) -> None:
        await self._change("leave", incarnation, "", lambda: self._inner.leave(incarnation, gone))

    async def evict(self, slot: str, incarnation: str) -> None:
        await self._change("evict", incarnation, slot, lambda: self._inner.evict(slot, incarnation))

    async def _change(self, call: str, incarnation: str, slot: str, apply: Callable[[], Table]) -> None:
        process, world = self._process, self._world
        sent = world.loop.time()

        def note() -> None:
            world.history.add(TableCall(process.name, call, incarnation, slot, apply()))
            if incarnation != process.incarnation:
                world.history.add(Evicted(process.name, incarnation, sent))

        if call in ("join", "evict"):
            world.keep_table_call(f"{call} {slot or incarnation}", note)
        await self._send(note)

    async def _send(self, apply: Callable[[], Any]) -> Any:
        world, rng, dice = self._world, self._world.rng, self._world.dice
        answered = world.loop.create_future()
        if rng.random() >= dice.lost_beat:
            world.loop.world.call(world.latency(), self._apply, apply, answered)
        try:
            async with asyncio.timeout(world.timeout_s):
                return await answered
        except TimeoutError:
            return None

    def _apply(self, apply: Callable[[], Any], answered: asyncio.Future[Any]) -> None:
        world, name = self._world, self._process.name
        if world.reachable(name):
            answer = apply()
            if world.rng.random() >= world.dice.lost_beat:
                self._process.beats.call(world.latency(), self._answer, answered, answer)

    def _answer(self, answered: asyncio.Future[Any], answer: Any) -> None:
        if not answered.done():
            answered.set_result(answer)
