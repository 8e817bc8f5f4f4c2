"""What is left over when hosts, stores and clients behave badly: nothing. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.agent import Conversation
from actors.errors import Outcome, SessionDeleted, StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn, TurnRequest
from actors.residents import REVIEW_SLICE
from actors.stores.base import Ahead, ClaimAnswer, CommitAnswer, Granted, ReleaseAnswer
from actors.stores.memory import MemoryStore
from tests.runtime.world import KEY, LEAVE_S, Client, Gate, World, ask, in_virtual_time, parrot, request, settings


class Broken(MemoryStore):
    """A store on which one kind of call fails while the test says so."""

    failing = ""

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        if self.failing == "commit":
            raise StoreUnavailable("away")
        if self.failing == "memory":
            return Ahead(turn.turn_seq)
        return await super().commit(key, lease, previous_turn_id, turn, state)

    async def release(self, key: SessionKey, lease: Lease, turn_seq: int, last_turn_id: str) -> ReleaseAnswer:
        if self.failing == "release":
            raise StoreUnavailable("away")
        return await super().release(key, lease, turn_seq, last_turn_id)


class Slow(MemoryStore):
    """A store whose claims take 10 ms; it counts them, and how many there are at one time."""

    claims = claiming = claiming_most = 0

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        self.claims += 1
        self.claiming += 1
        self.claiming_most = max(self.claiming_most, self.claiming)
        await asyncio.sleep(0.01)
        self.claiming -= 1
        return await super().claim(key, token, host, over, window)


def broken(world: World) -> Broken:
    world.memory = world.store = store = Broken(lambda: int(world.loop.time() * 1000))
    return store


def test_a_turn_whose_commit_never_succeeds_is_run_a_bounded_number_of_times() -> None:  # I6, I10
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        broken(world).failing = "commit"
        gate.open("x")
        problem = (await ask(world.host("a"), "x")).problem
        assert isinstance(problem, StoreUnavailable) and problem.outcome is Outcome.UNKNOWN
        assert len(gate.started) == 1 + world.settings.session.restarts_max

    in_virtual_time(scenario)


def test_a_turn_whose_host_never_knows_the_log_is_run_a_bounded_number_of_times() -> None:  # I6, I10
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        broken(world).failing = "memory"
        gate.open("x")
        problem = (await ask(world.host("a"), "x")).problem
        assert (problem.code, problem.outcome) == ("internal", Outcome.UNKNOWN)
        assert len(gate.started) == 1 + world.settings.session.restarts_max

    in_virtual_time(scenario)


def test_an_attempt_counts_how_often_its_turn_was_begun() -> None:
    attempts: list[int] = []

    async def agent(conversation: Conversation) -> str:
        attempts.append(conversation.attempt)
        return "fine"

    async def scenario() -> None:
        world = World(agent, settings())
        broken(world).failing = "commit"
        await ask(world.host("a"), "x")
        assert attempts == list(range(1, 2 + world.settings.session.restarts_max))

    in_virtual_time(scenario)


def test_a_session_waits_once_for_its_release_however_often_it_is_asked_for() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings(session={"idle_s": 1.0, "releases_max": 2}))
        store = broken(world)
        host = world.host("a")
        for number in range(20):
            await ask(host, "x", key=SessionKey(f"s{number}"))
        store.failing = "release"
        most = 0
        for _ in range(100):
            await asyncio.sleep(0.5)
            host.ring_changed()
            most = max(most, host.stats()["releasing"])
        assert most <= 22
        store.failing = ""
        await world.until(lambda: host.stats()["resident"] == 0 and host.stats()["releasing"] == 0)

    in_virtual_time(scenario)


def test_a_new_ring_is_looked_at_in_slices_so_that_others_are_answered_meanwhile() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        host, other = world.host("a"), world.host("b")
        for number in range(2 * REVIEW_SLICE):
            await ask(host, "x", key=SessionKey(f"s{number}"))
        looked = steps = most = 0

        def owner(_: str) -> HostRef:
            nonlocal looked
            looked += 1
            return other.ref

        world.views["a"].owner_now = owner
        host.ring_changed()
        while host.stats()["resident"] or host.stats()["releasing"]:
            before = looked
            await asyncio.sleep(0)
            most, steps = max(most, looked - before), steps + 1
        # A look when it is queued and one before it is released.
        assert 0 < most <= 2 * REVIEW_SLICE + world.settings.session.releases_max
        assert looked >= 2 * REVIEW_SLICE and steps > 2

    in_virtual_time(scenario)


def test_a_ring_that_changes_back_during_the_look_keeps_those_not_looked_at_yet() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        host, other = world.host("a"), world.host("b")
        sessions = 4 * REVIEW_SLICE
        for number in range(sessions):
            await ask(host, "x", key=SessionKey(f"s{number}"))
        world.views["a"].owner_now = lambda _: other.ref
        host.ring_changed()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.views["a"].owner_now = lambda _: host.ref
        host.ring_changed()
        await world.until(lambda: host.stats()["releasing"] == 0)
        await asyncio.sleep(1)
        assert host.stats()["resident"] >= sessions - 3 * REVIEW_SLICE

    in_virtual_time(scenario)


def test_sessions_that_are_all_wanted_at_once_are_loaded_few_at_a_time_and_only_those() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings(session={"activations_max": 3}))
        world.store = store = Slow(lambda: int(world.loop.time() * 1000))
        host = world.host("a")
        keys = [SessionKey(f"s{number}") for number in range(50)]
        answers = await asyncio.gather(*(ask(host, "x", key=key) for key in keys))
        assert [answer.reply for answer in answers] == ["x!"] * 50
        assert store.claims == 50 and store.claiming_most == host.stats()["claims_most"] == 3

    in_virtual_time(scenario)


def test_a_hand_off_that_raises_leaves_nobody_without_an_answer() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")

        async def explode(to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
            raise RuntimeError("the session is closed")

        world.wires["a"].hand_off = explode  # type: ignore[method-assign]
        stream = Client(stream=True)
        asking = asyncio.create_task(a.chat(request("1"), stream))
        await world.until(lambda: gate.running == ["1"])
        await world.memory.claim(KEY, "t", b.ref, over=("a", stream.events[0][1]))
        gate.open("1")
        await asking
        assert stream.turn_seq == 1

    in_virtual_time(scenario)


def test_an_arrival_during_the_release_of_a_handed_over_session_does_not_overtake_the_batch() -> None:  # I4
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        store = broken(world)
        a, b = world.host("a"), world.host("b")
        asks = [asyncio.create_task(ask(a, "1"))]
        await world.until(lambda: gate.running == ["1"])
        asks.append(asyncio.create_task(ask(a, "2")))
        await asyncio.sleep(0.1)
        world.owner = b.ref
        store.failing = "release"
        gate.open("1", "2", "late")
        await world.until(lambda: bool(world.wires["a"].batches))
        late = asyncio.create_task(ask(a, "late", hops=1))
        await asyncio.sleep(0.1)
        store.failing = ""
        assert [(await task).turn_seq for task in asks] == [1, 2]
        assert (await late).turn_seq == 3

    in_virtual_time(scenario)


def test_a_draining_host_waits_for_the_requests_that_it_has_passed_on() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        world.owner = b.ref
        relayed = asyncio.create_task(ask(a, "x"))
        await world.until(lambda: gate.running == ["x"])
        draining = asyncio.create_task(a.drain(LEAVE_S))
        await asyncio.sleep(5)
        assert not draining.done()
        gate.open("x")
        assert (await relayed).turn_seq == 1
        await draining

    in_virtual_time(scenario)


def test_a_drain_ends_with_every_lease_released() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        store = broken(world)
        a, b = world.host("a"), world.host("b")
        asks = [asyncio.create_task(ask(a, "1"))]
        await world.until(lambda: gate.running == ["1"])
        asks.append(asyncio.create_task(ask(a, "2")))
        await asyncio.sleep(0.1)
        world.owner = b.ref
        store.failing = "release"
        draining = asyncio.create_task(a.drain(LEAVE_S))
        gate.open("1", "2")
        await asyncio.sleep(0.5)
        assert not draining.done(), "the lease isn't free yet"
        store.failing = ""
        await draining
        assert [(await task).turn_seq for task in asks] == [1, 2]

    in_virtual_time(scenario)


def test_turns_count_with_their_metadata_towards_the_bytes_in_memory() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings())
        host = world.host("a")
        big = TurnRequest(KEY, "k:1", "f", "m", {"blob": "x" * 100_000})
        await host.chat(big, Client())
        assert host.stats()["resident_bytes"] > 100_000

    in_virtual_time(scenario)


def test_a_host_that_gave_its_lease_back_was_not_killed_by_what_it_ran() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        granted = await world.memory.claim(KEY, "t0", HostRef("h0", "slot-0", "h0:1"))
        for number in range(1, 4):
            assert isinstance(granted, Granted)
            over = (f"h{number - 1}", granted.lease.epoch)
            granted = await world.memory.claim(KEY, f"t{number}", HostRef(f"h{number}", "slot-0", "h:1"), over)
        assert isinstance(granted, Granted)
        await world.memory.release(KEY, granted.lease, 0, "")
        assert (await ask(world.host("a"), "innocent")).turn_seq == 1

    in_virtual_time(scenario)


def test_a_turn_of_a_session_that_was_deleted_meanwhile_may_have_been_read() -> None:  # I10
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a = world.host("a")
        asking = asyncio.create_task(ask(a, "x"))
        await world.until(lambda: gate.running == ["x"])
        await a.delete(KEY, "k:d")
        gate.open("x")
        problem = (await asking).problem
        assert isinstance(problem, SessionDeleted) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)
