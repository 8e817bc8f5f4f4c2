"""Beats and health checks go on whatever the event loop or the store does, and end when they are told to."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from actors.beats import Beats
from actors.errors import StoreUnavailable
from actors.health import Health
from actors.model import BeatReply, HostRef, HostState, Table
from actors.settings import RingSettings
from actors.stores.memory_membership import MemoryMembership
from router.routing import HostView

QUICK = RingSettings(beat_interval_s=0.1, beat_ttl_s=0.8, loop_stall_s=1.5)  # type: ignore[call-arg]


class Store(MemoryMembership):
    """The memory store, with faults on demand and a record of who asked for what."""

    def __init__(self) -> None:
        super().__init__(lambda: int(time.time() * 1000))
        self.flowing = threading.Event()
        self.flowing.set()
        self.down = False
        self.closed = 0
        self.beaten = 0

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        if not self.flowing.wait(20):
            raise StoreUnavailable
        if self.down:
            raise StoreUnavailable
        self.beaten += 1
        return super().beat(incarnation, address, state, known_ring_version)

    def close(self) -> None:
        self.closed += 1

    def beats_of(self, incarnation: str) -> int | None:
        last = self._beats.get(incarnation)
        return last[0].counter if last else None


@asynccontextmanager
async def host(store: Store, name: str, settings: RingSettings = QUICK) -> AsyncIterator[tuple[HostView, Beats]]:
    view = HostView(HostRef(name, "", f"{name}:80"), settings, time.monotonic)
    beats = Beats(store, view, name, f"{name}:80", settings)
    view.hurry = beats.hurry
    await beats.start()
    try:
        yield view, beats
    finally:
        store.flowing.set()
        await beats.stop()


def get(port: int, timeout_s: float = 3.0) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


async def until(true: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - it comes about on another thread
            await asyncio.sleep(0.01)


async def test_a_host_joins_serves_and_is_seen_by_the_next() -> None:
    store = Store()
    async with host(store, "a") as (a, a_beats), host(store, "b") as (b, b_beats):
        await asyncio.wait_for(asyncio.gather(a_beats.wait_listed(), b_beats.wait_listed()), 5)
        await until(lambda: len(a.ring.members) == len(b.ring.members) == 2)
        assert {a.ref.slot, b.ref.slot} == {"slot-0", "slot-1"}
        assert a.owner("talk") == b.owner("talk")
        assert a.trusted()
        assert store.table().members[a.ref.slot].health_port == a_beats.health_port


async def test_a_blocked_loop_loses_neither_beats_nor_health_checks() -> None:
    store = Store()
    async with host(store, "a") as (a, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        before = store.beats_of("a")
        answers: list[int] = []
        checks = threading.Thread(target=lambda: answers.extend(get(beats.health_port) for _ in range(20)))
        checks.start()
        time.sleep(1.0)  # noqa: ASYNC251 - this is an agent that blocks the event loop
        checks.join()
        after = store.beats_of("a")
        assert before is not None
        assert after is not None
        assert after - before >= 7
        assert answers == [200] * 20
        await asyncio.wait_for(a.wait_trusted(), 5)
        assert a.lapses == 0, "the answers that waited for the loop prove that nothing was missed"


async def test_a_loop_that_stalls_silences_beats_and_health_until_it_ticks_again() -> None:
    store = Store()
    async with host(store, "a") as (a, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        time.sleep(QUICK.loop_stall_s + 0.3)  # noqa: ASYNC251
        silent_at = store.beats_of("a")
        assert get(beats.health_port) == 503
        time.sleep(0.5)  # noqa: ASYNC251
        assert store.beats_of("a") == silent_at
        await until(lambda: store.beats_of("a") != silent_at)
        assert await asyncio.to_thread(get, beats.health_port) == 200
        await asyncio.wait_for(a.wait_trusted(), 5)


async def test_a_store_that_hangs_blocks_neither_the_health_listener_nor_the_loop() -> None:
    store = Store()
    async with host(store, "a") as (a, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        store.flowing.clear()
        await until(lambda: not a.trusted())
        started = time.monotonic()
        assert await asyncio.to_thread(get, beats.health_port) == 200
        assert time.monotonic() - started < 1.0
        store.flowing.set()
        await asyncio.wait_for(a.wait_trusted(), 5)
        assert a.lapses >= 1  # More, if this machine had something better to do meanwhile.


async def test_a_store_outage_evicts_nobody() -> None:
    store = Store()
    async with host(store, "a") as (a, _), host(store, "b") as (b, _), host(store, "c") as (c, _):
        await until(lambda: all(len(view.ring.members) == 3 for view in (a, b, c)))
        before = store.table()
        store.down = True
        await asyncio.sleep(2 * QUICK.beat_ttl_s)
        assert not a.trusted()
        store.down = False
        await asyncio.gather(*(asyncio.wait_for(view.wait_trusted(), 5) for view in (a, b, c)))
        await asyncio.sleep(2 * QUICK.beat_ttl_s)
        assert store.table() == before


async def test_a_host_that_falls_silent_is_evicted_and_its_slot_goes_to_the_spare() -> None:
    store = Store()
    settings = QUICK.model_copy(update={"slots_max": 2})
    async with host(store, "a", settings) as (a, a_beats):
        await asyncio.wait_for(a_beats.wait_listed(), 5)
        async with host(store, "b", settings) as (b, b_beats):
            await asyncio.wait_for(b_beats.wait_listed(), 5)
            async with host(store, "spare", settings) as (spare, spare_beats):
                await until(lambda: spare.ring.ring_version == store.table().ring_version)
                assert spare.state is HostState.SPARE
                slot = b.ref.slot
                b_beats._stopping.set()  # as if killed: the thread ends, but what it would say at the end ...
                b_beats._store = Store()  # ... goes nowhere.
                await asyncio.wait_for(a.wait_dead(b.ref), 5)
                await asyncio.wait_for(spare_beats.wait_listed(), 5)
                assert spare.ref.slot == slot
                await until(lambda: a.ring.lists("spare") and not a.ring.lists("b"))


async def test_an_evicted_host_that_lives_joins_again_and_knows_that_its_leases_may_be_gone() -> None:
    store = Store()
    async with host(store, "a") as (a, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        store.evict("slot-0", "a")
        await until(lambda: a.lapses == 1 and a.state is HostState.SERVING)
        assert store.table().slot_of("a") == "slot-0"


async def test_draining_gives_the_slot_back_while_beats_and_health_go_on_until_the_stop() -> None:
    store = Store()
    async with host(store, "a") as (a, a_beats), host(store, "b") as (b, _):
        await until(lambda: len(a.ring.members) == len(b.ring.members) == 2)
        a_beats.drain()
        await until(lambda: not a.ring.lists("a") and not b.ring.lists("a"))
        await until(lambda: "a" in b.observer.beats and b.observer.beats["a"].state is HostState.DRAINING)
        b.refused(a.ref)
        assert not b.is_dead(a.ref)
        assert await asyncio.to_thread(get, a_beats.health_port) == 200
        assert a.ref.slot == ""
        port = a_beats.health_port
        await a_beats.stop()
        with pytest.raises(OSError):
            get(port)
        await asyncio.wait_for(b.wait_dead(a.ref), 5)
        assert store.beats_of("a") is None


async def test_asking_after_an_unknown_host_beats_at_once_instead_of_at_the_next_interval() -> None:
    store = Store()
    slow = RingSettings(beat_interval_s=5, beat_ttl_s=20)  # type: ignore[call-arg]
    async with host(store, "a", slow) as (a, beats):
        await asyncio.wait_for(beats.wait_listed(), 2)
        await asyncio.wait_for(a.wait_dead(HostRef("of-last-week", "slot-3", "x:1")), 2)


async def test_beats_that_everybody_hurries_are_still_spaced() -> None:
    store = Store()
    async with host(store, "a") as (_, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        before, started = store.beaten, time.monotonic()
        while time.monotonic() - started < 0.5:
            beats.hurry()
            await asyncio.sleep(0)
        assert store.beaten - before <= 0.5 / 0.05 + 2


async def test_stopping_ends_both_threads_even_while_the_store_hangs() -> None:
    store = Store()
    async with host(store, "a") as (_, beats):
        await asyncio.wait_for(beats.wait_listed(), 5)
        store.flowing.clear()
        await asyncio.sleep(2 * QUICK.beat_interval_s)
        started = time.monotonic()
        await beats.stop(patience_s=0.5)
        assert time.monotonic() - started < 2.0
        assert not beats._health._thread.is_alive()
        store.flowing.set()
        await until(lambda: not beats._thread.is_alive())
        assert store.closed == 1
        assert store.table() == Table(store.table().ring_version)


async def test_a_health_check_that_says_nothing_keeps_nobody_else_waiting() -> None:
    health = Health("127.0.0.1", 0, lambda: True)
    port = health.open()
    try:
        mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        started = time.monotonic()
        assert await asyncio.to_thread(get, port) == 200
        assert time.monotonic() - started < 0.5
        for reader, writer in mute:
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
    finally:
        health.close()
        health.join(2)
    assert not health._thread.is_alive()


async def test_a_health_port_that_is_taken_is_an_error_at_the_start() -> None:
    health, second = Health("127.0.0.1", 0, lambda: True), None
    port = health.open()
    try:
        second = Health("127.0.0.1", port, lambda: True)
        with pytest.raises(OSError):
            second.open()
    finally:
        health.close()
        health.join(2)
