"""What a host may not conclude: another may have the turn, may run it, or has told its client already. In virtual time.

Each of these is one line of the code whose loss nothing else notices, save for a rare schedule of the simulation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actors.agent import Conversation
from actors.errors import AgentFailed, Outcome, StoreUnavailable
from actors.model import HostRef, Lease, SessionKey, Turn, TurnRequest
from actors.ports import Passed, Requester
from actors.stores.base import ClaimAnswer, CommitAnswer, Granted, Ok
from actors.stores.memory import MemoryStore
from tests.runtime.world import KEY, Client, Gate, World, ask, in_virtual_time, parrot, request, settings


class Failing(Gate):
    """Fails when the message says so, at the moment that the test chooses."""

    async def __call__(self, conversation: Conversation) -> str:
        said = await super().__call__(conversation)
        if conversation.message.startswith("fail"):
            raise ValueError("as the message says")
        return said


async def waiting(world: World, gate: Gate, *messages: str) -> list[asyncio.Task[Client]]:
    """The first of these turns runs on host a, the others wait behind it."""
    asks = []
    for message in messages:
        asks.append(asyncio.create_task(ask(world.hosts["a"], message)))
        await world.until(lambda: gate.running == [messages[0]])
    await asyncio.sleep(0.001)
    return asks


def test_a_turn_whose_batch_may_have_arrived_is_not_called_not_done() -> None:  # I10
    """Its copy waits at the other host, which runs it if it gets the lease."""

    async def scenario() -> None:
        gate = Failing()
        world = World(gate, settings())
        world.host("a"), world.host("b")
        wire = world.wires["a"]
        deliver = wire.hand_off

        async def lose_the_answer(to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
            await deliver(to, key, batch, under)
            return False

        wire.hand_off = lose_the_answer  # type: ignore[method-assign]
        _, failing = await waiting(world, gate, "1", "fail")
        world.move_to("b")
        gate.open("1", "fail")
        problem = (await failing).problem
        assert wire.batches == [("b", ["k:fail"])]
        assert isinstance(problem, AgentFailed) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)


def test_a_batch_whose_sender_has_gone_on_without_it_is_run_by_nobody() -> None:  # I10
    """b has it, and a doesn't know. c gets it as well, and the lease, and calls the turn not done, which is true."""

    async def scenario() -> None:
        gate = Failing()
        world = World(gate, settings())
        hosts = {name: world.host(name) for name in "abc"}
        wire = world.wires["a"]
        deliver = wire.hand_off

        async def lose_one_answer(to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
            return await deliver(to, key, batch, under) and to.incarnation != "b"

        wire.hand_off = lose_one_answer  # type: ignore[method-assign]
        _, second, failing = await waiting(world, gate, "1", "2", "fail")
        world.move_to("b")
        gate.open("1")
        await world.until(lambda: gate.running == ["2"])
        world.move_to("c")
        gate.open("2", "fail")
        assert (await second).turn_seq == 2
        assert (await failing).problem.outcome is Outcome.NOT_DONE
        assert wire.batches == [("b", ["k:2", "k:fail"]), ("c", ["k:fail"])]
        assert hosts["b"].stats()["resident"] == 1
        world.move_to("b")
        gate.open("3")
        assert (await ask(hosts["b"], "3")).turn_seq == 3
        assert gate.started == ["1", "2", "fail", "3"]

    in_virtual_time(scenario)


def test_a_batch_that_comes_late_is_not_run() -> None:  # I10
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        await ask(a, "1")
        epoch = (await world.log())[0].epoch
        await a.accept_batch(KEY, [request("late")], epoch - 1)
        await a.accept_batch(KEY, [request("in time")], epoch)
        assert (await ask(a, "2")).turn_seq == 3
        assert [turn.message for turn in await world.log()] == ["1", "in time", "2"]

    in_virtual_time(scenario)


def test_a_turn_that_no_other_host_can_have_is_called_not_done() -> None:  # I10
    async def scenario() -> None:
        gate = Failing()
        world = World(gate, settings())
        world.host("a")
        gate.open("fail")
        problem = (await ask(world.hosts["a"], "fail")).problem
        assert isinstance(problem, AgentFailed) and problem.outcome is Outcome.NOT_DONE

    in_virtual_time(scenario)


def test_what_arrives_while_a_batch_is_on_its_way_is_handed_over_behind_it() -> None:  # I4
    """Passed on one by one, the two could overtake each other."""

    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, _ = world.host("a"), world.host("b")
        wire = world.wires["a"]
        deliver, pass_on = wire.hand_off, wire.pass_on
        sent, arrive = asyncio.Event(), asyncio.Event()

        async def slow_batch(to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
            sent.set()
            await arrive.wait()
            return await deliver(to, key, batch, under)

        async def slow_way(to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
            await asyncio.sleep(0.5 if request.message == "3" else 0)
            return await pass_on(to, request, requester, hops)

        wire.hand_off = slow_batch  # type: ignore[method-assign]
        wire.pass_on = slow_way  # type: ignore[method-assign]
        asks = await waiting(world, gate, "1", "2")
        world.move_to("b")
        gate.open(*"1234")
        await sent.wait()
        for message in "34":
            asks.append(asyncio.create_task(ask(a, message, hops=1)))
            await asyncio.sleep(0.001)
        arrive.set()
        assert [(await task).turn_seq for task in asks] == [1, 2, 3, 4]
        assert [batch for _, batch in wire.batches] == [["k:2"], ["k:2", "k:3", "k:4"]]

    in_virtual_time(scenario)


def test_a_host_that_gets_no_answer_to_its_claim_does_not_know_what_became_of_the_turn() -> None:  # I10
    async def scenario() -> None:
        world = World(parrot, settings())
        host = world.host("a")

        async def away(*_: object) -> ClaimAnswer:
            raise StoreUnavailable("away")

        world.memory.claim = away  # type: ignore[method-assign, assignment]
        problem = (await ask(host, "x")).problem
        assert isinstance(problem, StoreUnavailable) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)


def test_a_host_whose_beats_are_not_accepted_claims_nothing() -> None:
    """Nobody has heard of it: whoever met its lease would take it for dead, and rob it."""

    async def scenario() -> None:
        world = World(parrot, settings(session={"claim_patience_s": 5.0}))
        a, view = world.host("a"), world.views["a"]
        view.is_trusted = False
        asking = asyncio.create_task(ask(a, "x"))
        await asyncio.sleep(2.0)
        assert world.memory.snapshot() == {}
        view.is_trusted = True
        view.notify()
        assert (await asking).turn_seq == 1

    in_virtual_time(scenario)


def test_an_owner_that_broke_off_may_still_do_the_turn() -> None:  # I10
    async def scenario() -> None:
        gate = Failing()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        world.owner = b.ref

        async def break_off(*_: object) -> Passed:
            return Passed.BROKEN

        world.wires["a"].pass_on = break_off  # type: ignore[method-assign, assignment]
        gate.open("fail")
        problem = (await ask(a, "fail")).problem
        assert isinstance(problem, AgentFailed) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)


def test_a_holder_that_broke_off_may_still_do_the_turn() -> None:  # I10
    async def scenario() -> None:
        gate = Failing()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        granted = await world.memory.claim(KEY, "t", b.ref)
        assert isinstance(granted, Granted)

        async def break_off(*_: object) -> Passed:
            assert await world.memory.release(KEY, granted.lease, 0, "") == Ok()
            return Passed.BROKEN

        world.wires["a"].pass_on = break_off  # type: ignore[method-assign, assignment]
        gate.open("fail")
        problem = (await ask(a, "fail")).problem
        assert isinstance(problem, AgentFailed) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)


# --- a host that was frozen has its news in its sockets, and reads them in any order ----------------------------------


def test_a_claim_that_is_answered_together_with_a_disconnect_runs_nothing_for_who_has_gone() -> None:  # I10
    async def scenario() -> None:
        world = World(parrot, settings())
        a, view = world.host("a"), world.views["a"]
        asked, answer_now = asyncio.Event(), asyncio.Event()
        claim = world.memory.claim

        async def slow(
            key: SessionKey,
            token: str,
            host: HostRef,
            over: tuple[str, int] | None = None,
            window: int | None = None,
        ) -> ClaimAnswer:
            answer = await claim(key, token, host, over, window)
            asked.set()
            await answer_now.wait()
            return answer

        world.memory.claim = slow  # type: ignore[method-assign, assignment]
        left, stayed = (asyncio.create_task(ask(a, name)) for name in ("left", "stayed"))
        await asked.wait()
        view.lapses += 1
        answer_now.set()
        left.cancel()
        assert (await stayed).turn_seq == 1
        assert [turn.message for turn in await world.log()] == ["stayed"]

    in_virtual_time(scenario)


class SlowCommit(MemoryStore):
    """The answer to the first commit comes when the test says so."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: int(world.loop.time() * 1000))
        self.reached, self.answer_now = asyncio.Event(), asyncio.Event()

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        answer = await super().commit(key, lease, previous_turn_id, turn, state)
        self.reached.set()
        await self.answer_now.wait()
        return answer


@pytest.mark.parametrize("taken", [True, False], ids=["another holds it", "nobody holds it"])
def test_a_fenced_host_that_hears_of_a_disconnect_at_that_moment_goes_on_for_the_others_only(taken: bool) -> None:
    """I10."""

    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        world.memory = world.store = store = SlowCommit(world)
        a, b = world.host("a"), world.host("b")
        stream = Client(stream=True)
        left = asyncio.create_task(a.chat(request("left"), stream))
        await world.until(lambda: gate.running == ["left"])
        stayed = asyncio.create_task(ask(a, "stayed"))
        await asyncio.sleep(0.001)
        if taken:
            await store.claim(KEY, "tok", b.ref, over=("a", stream.events[0][1]))
            world.owner = b.ref
        else:
            store.expire(KEY)
        gate.open("left", "stayed")
        await store.reached.wait()
        store.answer_now.set()
        left.cancel()
        assert (await stayed).turn_seq == 1
        assert [batch for _, batch in world.wires["a"].batches] == ([["k:stayed"]] if taken else [])
        assert gate.started == ["left", "stayed"]

    in_virtual_time(scenario)
