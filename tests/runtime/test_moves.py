"""Several hosts and one session: rehydration, passing on, hand-off, takeover, fencing. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.agent import Conversation
from actors.errors import Outcome, PoisonTurn, StateRegressed, Unreachable
from actors.model import HostRef, Lease, SessionKey, TurnRequest
from actors.ports import Done, Residence
from actors.stores.base import CheckAnswer, ClaimAnswer, Granted, Held, Ok
from tests.runtime.world import KEY, LEAVE_S, Client, Gate, World, ask, in_virtual_time, parrot, request, settings

STRANGER = HostRef("x", "slot-9", "x:1")


def residence(client: Client) -> Residence:
    assert isinstance(client.final, Done)
    return client.final.residence


def test_an_idle_session_leaves_memory_and_comes_back_with_its_state() -> None:
    async def agent(conversation: Conversation) -> str:
        conversation.state["n"] = conversation.state.get("n", 0) + 1
        return f"{conversation.state['n']} of {len(conversation.turns)}"

    async def scenario() -> None:
        world = World(agent, settings())
        host = world.host("a")
        assert residence(await ask(host, "1")) is Residence.NEW
        assert residence(await ask(host, "2")) is Residence.RESIDENT
        await world.until(lambda: host.stats()["resident"] == 0)
        back = await ask(host, "3")
        assert residence(back) is Residence.REHYDRATED and back.reply == "3 of 2"
        assert host.stats()["passivated"]["idle"] == 1

    in_virtual_time(scenario)


def test_the_least_recently_used_idle_session_makes_room() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings(session={"resident_max": 2}))
        host = world.host("a")
        for name in ("old", "young", "old", "new"):
            await ask(host, f"{name} {name}", f"k:{name}{world.loop.time()}", key=SessionKey(name))
            await asyncio.sleep(1)
        await world.until(lambda: host.stats()["passivated"]["capacity"] == 1)
        assert residence(await ask(host, "again", key=SessionKey("old"))) is Residence.RESIDENT
        assert residence(await ask(host, "again", key=SessionKey("young"))) is Residence.REHYDRATED

    in_virtual_time(scenario)


def test_bytes_in_memory_are_bounded() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings(session={"resident_bytes_max": 50_000}))
        host = world.host("a")
        for number in range(20):
            await ask(host, "x" * 5_000, key=SessionKey(f"s{number}"))
        await world.until(lambda: host.stats()["resident_bytes"] <= 50_000)
        assert host.stats()["resident"] > 0

    in_virtual_time(scenario)


def test_a_message_that_arrives_while_its_session_passivates_is_answered() -> None:  # I5
    async def scenario() -> None:
        world = World(parrot, settings(session={"idle_s": 1.0}))
        host = world.host("a")
        for number in range(40):
            client = await ask(host, str(number))
            assert client.turn_seq == number + 1
            # Around the moment at which the sweeper finds the session idle, a little later each time.
            await asyncio.sleep(0.9 + number * 0.02)

    in_virtual_time(scenario)


def test_a_request_at_the_wrong_host_is_passed_on_to_the_owner_once() -> None:  # I7
    async def scenario() -> None:
        world = World(parrot, settings())
        world.host("a")
        wrong = world.host("b")
        assert (await ask(wrong, "x")).reply == "x!"
        assert world.wires["b"].passed == [("a", "k:x")]
        assert world.hosts["a"].stats()["resident"] == 1 and wrong.stats()["resident"] == 0

    in_virtual_time(scenario)


def test_two_hosts_whose_rings_name_each_other_still_answer() -> None:  # I7
    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        world.views["a"].owner_now = lambda _: b.ref
        world.views["b"].owner_now = lambda _: a.ref
        for number, host in enumerate([a, b, a, b, b, a]):
            assert (await ask(host, str(number))).turn_seq == number + 1
        takeovers = await world.memory.claim(KEY, "t", STRANGER)
        assert isinstance(takeovers, (Held, Granted))
        assert len(world.wires["a"].passed) + len(world.wires["b"].passed) <= 12

    in_virtual_time(scenario)


def test_a_live_holder_is_never_robbed_but_asked() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        first = asyncio.create_task(ask(a, "1"))
        await world.until(lambda: gate.running == ["1"])
        world.owner = b.ref
        second = asyncio.create_task(ask(b, "2"))
        await world.until(lambda: world.wires["b"].passed == [("a", "k:2")])
        gate.open("1", "2")
        assert (await first).turn_seq == 1 and (await second).turn_seq == 2
        assert gate.started == ["1", "2"]

    in_virtual_time(scenario)


def test_waiting_turns_are_handed_over_in_order_and_before_the_new_owners_arrivals() -> None:  # I4
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings(session={"mailbox_max": 3}))
        a, b = world.host("a"), world.host("b")
        asks = [asyncio.create_task(ask(a, "1"))]
        await world.until(lambda: gate.running == ["1"])
        asks += [asyncio.create_task(ask(a, name)) for name in "234"]
        await asyncio.sleep(0.1)
        world.move_to("b")
        own = asyncio.create_task(ask(b, "own", hops=1))
        gate.open(*"1234", "own")
        assert [(await task).turn_seq for task in asks] == [1, 2, 3, 4]
        assert (await own).turn_seq == 5 or [turn.message for turn in await world.log()][:4] == list("1234")
        assert world.wires["a"].batches[0][1][:3] == ["k:2", "k:3", "k:4"]
        first, second, *_ = await world.log()
        assert first.epoch < second.epoch

    in_virtual_time(scenario)


def test_an_idle_session_is_released_when_the_ring_moves_it() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        await ask(a, "1")
        world.move_to("b")
        await world.until(lambda: a.stats()["resident"] == 0)
        moved = await ask(b, "2")
        assert residence(moved) is Residence.REHYDRATED and world.wires["b"].passed == []

    in_virtual_time(scenario)


def test_a_batch_that_may_have_been_lost_is_run_where_it_waits() -> None:  # I3
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        accept = b.accept_batch

        async def lose_the_answer(to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
            await accept(key, batch, under)
            return False

        world.wires["a"].hand_off = lose_the_answer  # type: ignore[method-assign]
        asks = [asyncio.create_task(ask(a, "1"))]
        await world.until(lambda: gate.running == ["1"])
        asks += [asyncio.create_task(ask(a, name)) for name in "23"]
        await asyncio.sleep(0.1)
        world.owner = b.ref
        gate.open(*"123")
        assert [(await task).turn_seq for task in asks] == [1, 2, 3]
        assert gate.started == ["1", "2", "3"]
        await world.until(lambda: b.stats()["resident"] in (0, 1) and not b._tasks)

    in_virtual_time(scenario)


def test_a_dead_holders_session_is_taken_over_and_its_unfinished_turn_runs_again_once() -> None:  # I9
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        gate.open("1")
        await ask(a, "1")
        doomed = asyncio.create_task(ask(a, "2"))
        await world.until(lambda: gate.running == ["2"])
        world.down.add("a")
        doomed.cancel()
        world.owner = b.ref
        asking = asyncio.create_task(ask(b, "2"))
        await world.until(lambda: gate.running == ["2", "2"])
        gate.open("2")
        again = await asking
        assert again.turn_seq == 2 and residence(again) is Residence.REHYDRATED
        # The dead host's own attempt comes to its commit now, and is fenced.
        await world.until(lambda: a.stats()["passivated"]["fenced"] == 1)
        assert [turn.message for turn in await world.log()] == ["1", "2"]

    in_virtual_time(scenario)


def test_a_frozen_holders_request_is_taken_back_when_it_is_known_to_be_dead() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        await ask(a, "1")
        world.silent.add("a")
        world.owner = b.ref
        asking = asyncio.create_task(ask(b, "2"))
        await world.until(lambda: world.wires["b"].passed == [("a", "k:2")])
        world.views["b"].kill(a.ref)
        assert (await asking).turn_seq == 2

    in_virtual_time(scenario)


def test_a_fenced_host_says_nothing_of_its_own_and_passes_its_requests_on() -> None:  # I8
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        stream = Client(stream=True)
        asking = asyncio.create_task(a.chat(request("1"), stream))
        waiting = asyncio.create_task(ask(a, "2"))
        await world.until(lambda: gate.running == ["1"])
        epoch = stream.events[0][1]
        granted = await world.memory.claim(KEY, "tok", b.ref, over=("a", epoch))
        assert isinstance(granted, Granted)
        world.owner = b.ref
        gate.open("1", "2")
        await asking
        assert stream.turn_seq == 1 and stream.final is not None
        assert [value for kind, value in stream.events if kind == "turn"][-1] > epoch
        assert (await waiting).turn_seq == 2
        assert all(turn.epoch > epoch for turn in await world.log())

    in_virtual_time(scenario)


def test_waiting_turns_of_clients_that_have_gone_are_not_run_by_the_next_holder() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        stream = Client(stream=True)
        asks = [asyncio.create_task(a.chat(request("1"), stream)), asyncio.create_task(a.chat(request("2"), Client()))]
        await world.until(lambda: gate.running == ["1"])
        for task in asks:
            task.cancel()
        await asyncio.wait(asks)
        await world.memory.claim(KEY, "tok", b.ref, over=("a", stream.events[0][1]))
        gate.open("1", "2")
        await world.until(lambda: a.stats()["passivated"]["fenced"] == 1)
        assert world.wires["a"].batches == [] and await world.log() == ()

    in_virtual_time(scenario)


def test_a_host_whose_own_delayed_claim_fenced_it_claims_again() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a = world.host("a")
        asking = asyncio.create_task(ask(a, "1"))
        await world.until(lambda: gate.running == ["1"])
        await world.memory.claim(KEY, "an old token of a", a.ref)
        gate.open("1")
        assert (await asking).turn_seq == 1
        assert gate.started == ["1", "1"] and len(await world.log()) == 1

    in_virtual_time(scenario)


def test_a_session_that_expired_while_it_was_resident_begins_anew() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a = world.host("a")
        gate.open("1", "3")
        await ask(a, "1")
        asking = asyncio.create_task(ask(a, "2"))
        await world.until(lambda: gate.running == ["2"])
        world.memory.expire(KEY)
        gate.open("2")
        assert (await asking).turn_seq == 1
        assert (await ask(a, "3")).turn_seq == 2

    in_virtual_time(scenario)


def test_a_store_that_lost_confirmed_turns_is_reported_once_and_the_session_goes_on() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        await ask(a, "1")
        image = world.memory.snapshot()
        await ask(a, "2")
        world.memory.restore(image)
        problem = (await ask(a, "3")).problem
        assert isinstance(problem, StateRegressed) and problem.status == 409
        assert (problem.extra["turn_seq"], problem.extra["turn_seq_lost"]) == (1, 2)
        assert (await ask(a, "3")).turn_seq == 2
        assert a.stats()["regressed"] == 1

    in_virtual_time(scenario)


def test_a_regression_found_at_the_release_is_told_to_the_next_client() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        await ask(a, "1")
        image = world.memory.snapshot()
        await ask(a, "2")
        world.memory.restore(image)
        await world.until(lambda: a.stats()["regressed"] == 1)
        assert isinstance((await ask(a, "3")).problem, StateRegressed)
        assert (await ask(a, "3")).turn_seq == 2

    in_virtual_time(scenario)


async def die_running(world: World, turn_id: str, hosts: int, notes: int = 99) -> None:
    """That many hosts have claimed the session and died. After the first of them, ``notes`` have noted the turn."""
    granted = await world.memory.claim(KEY, "t0", HostRef("h0", "slot-0", "h0:1"))
    for number in range(1, hosts):
        assert isinstance(granted, Granted)
        over = (f"h{number - 1}", granted.lease.epoch)
        granted = await world.memory.claim(KEY, f"t{number}", HostRef(f"h{number}", "slot-0", "h:1"), over)
        assert isinstance(granted, Granted)
        if number <= notes:
            assert await world.memory.check(KEY, granted.lease, 0, "", turn_id) == Ok()


def test_a_turn_that_killed_every_host_is_answered_and_the_session_lives() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        await die_running(world, "k:p", 3)
        a = world.host("a")
        world.views["a"].dead.add("h2")
        problem = (await ask(a, "poison", "k:p")).problem
        assert isinstance(problem, PoisonTurn) and problem.status == 500 and problem.outcome is Outcome.NOT_DONE
        assert isinstance((await ask(a, "poison", "k:p")).problem, PoisonTurn)
        assert (await ask(a, "harmless")).turn_seq == 1
        # A turn in the log proves that the session is well: whoever was suspected may try again.
        assert (await ask(a, "poison", "k:p")).turn_seq == 2

    in_virtual_time(scenario)


def test_a_bystander_that_comes_first_is_not_taken_for_the_poison() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        await die_running(world, "k:p", 3)
        a = world.host("a")
        world.views["a"].dead.add("h2")
        assert (await ask(a, "harmless")).turn_seq == 1

    in_virtual_time(scenario)


def test_a_host_that_dies_while_a_suspect_only_waits_is_no_proof_against_it() -> None:
    async def scenario() -> None:
        world = World(parrot, settings(session={"suspect_pause_s": 7.0}))
        await die_running(world, "k:p", 5, notes=1)
        a = world.host("a")
        world.views["a"].dead.add("h4")
        assert (await ask(a, "innocent", "k:p")).turn_seq == 1

    in_virtual_time(scenario)


def test_a_turn_that_may_have_killed_two_hosts_waits_before_it_gets_a_third() -> None:
    """The edge repeats at once: the pause leaves the others, and whoever restarts, time to serve the rest."""

    async def scenario() -> None:
        world = World(parrot, settings(session={"suspect_pause_s": 7.0}))
        await die_running(world, "k:p", 2)
        a = world.host("a")
        world.views["a"].dead.add("h1")
        started = asyncio.get_running_loop().time()
        assert (await ask(a, "slow", "k:p")).turn_seq == 1
        assert 7.0 <= asyncio.get_running_loop().time() - started < 8.0
        started = asyncio.get_running_loop().time()
        assert (await ask(a, "next")).turn_seq == 2
        assert asyncio.get_running_loop().time() - started < 1.0

    in_virtual_time(scenario)


def test_only_after_a_takeover_is_the_running_turn_noted() -> None:
    """A note costs a call: a resident session has exactly one a turn."""

    async def scenario() -> None:
        world = World(parrot, settings())
        await die_running(world, "k:p", 1)
        a = world.host("a")
        world.views["a"].dead.add("h0")
        noted: list[str] = []
        check = world.memory.check

        async def counted(
            key: SessionKey, lease: Lease, turn_seq: int, last: str, running: str = "", refused: str = ""
        ) -> CheckAnswer:
            noted.append(running)
            return await check(key, lease, turn_seq, last, running, refused)

        world.memory.check = counted  # type: ignore[method-assign, assignment]
        await ask(a, "1")
        await ask(a, "2")
        assert noted == ["k:1"]

    in_virtual_time(scenario)


def test_a_draining_host_gives_every_lease_back_and_loses_no_waiting_turn() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a, b = world.host("a"), world.host("b")
        gate.open("idle")
        await ask(a, "idle", key=SessionKey("idle"))
        asks = [asyncio.create_task(ask(a, "1"))]
        await world.until(lambda: gate.running == ["1"])
        asks += [asyncio.create_task(ask(a, name)) for name in "23"]
        await asyncio.sleep(0.1)
        world.owner = b.ref
        draining = asyncio.create_task(a.drain(LEAVE_S))
        await world.until(lambda: a.stats()["resident"] == 1)
        gate.open(*"123")
        assert [(await task).turn_seq for task in asks] == [1, 2, 3]
        await draining
        assert a.stats()["resident"] == 0
        for key in (KEY, SessionKey("idle")):
            answer = await world.memory.claim(key, "t", STRANGER)
            assert isinstance(answer, Granted) or answer.holder.incarnation == "b"  # type: ignore[union-attr]

    in_virtual_time(scenario)


def test_the_last_host_runs_what_waits_to_the_end_before_it_goes() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a = world.host("a")
        asks = [asyncio.create_task(ask(a, name)) for name in "12"]
        await world.until(lambda: gate.running == ["1"])
        world.views["a"].owner_now = lambda _: None
        draining = asyncio.create_task(a.drain(LEAVE_S))
        gate.open("1", "2")
        assert [(await task).turn_seq for task in asks] == [1, 2]
        await draining
        assert isinstance(await world.memory.claim(KEY, "t", STRANGER), Granted)

    in_virtual_time(scenario)


def test_a_request_is_not_passed_on_without_end() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        await world.memory.claim(KEY, "t", STRANGER)
        problem = (await ask(a, "x", hops=world.settings.session.hops_max)).problem
        assert isinstance(problem, Unreachable) and problem.outcome is Outcome.UNKNOWN

    in_virtual_time(scenario)


async def gone(asking: asyncio.Task[Client]) -> None:
    """The client's connection has broken."""
    asking.cancel()
    await asyncio.wait([asking])


def test_a_turn_that_lost_its_lease_is_not_run_again_for_a_client_that_has_gone() -> None:  # I10
    """Another host may have told that client that its turn is not done."""

    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        a = world.host("a")
        left, stayed = (asyncio.create_task(ask(a, name)) for name in ("left", "stayed"))
        await world.until(lambda: gate.running == ["left"])
        await gone(left)
        world.memory.expire(KEY)
        gate.open("left", "stayed")
        assert (await stayed).turn_seq == 1
        assert gate.started == ["left", "stayed"]
        assert [turn.message for turn in await world.log()] == ["stayed"]

    in_virtual_time(scenario)


def test_a_host_that_was_cut_off_while_it_claimed_runs_nothing_for_clients_that_have_gone() -> None:  # I10
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        view = world.views["a"]
        asked, answer_now = asyncio.Event(), asyncio.Event()
        claim, epochs = world.memory.claim, list[int]()

        async def slow(
            key: SessionKey,
            token: str,
            host: HostRef,
            over: tuple[str, int] | None = None,
            window: int | None = None,
        ) -> ClaimAnswer:
            answer = await claim(key, token, host, over, window)
            assert isinstance(answer, Granted)
            epochs.append(answer.lease.epoch)
            asked.set()
            await answer_now.wait()
            return answer

        world.memory.claim = slow  # type: ignore[method-assign, assignment]
        left, stayed = (asyncio.create_task(ask(a, name)) for name in ("left", "stayed"))
        await asked.wait()
        await a.accept_batch(KEY, [request("handed over")], epochs[0])
        await gone(left)
        view.lapses += 1
        answer_now.set()
        # A batch was accepted by a holder: its requesters are on their way.
        assert (await stayed).turn_seq == 2
        assert [turn.message for turn in await world.log()] == ["handed over", "stayed"]

    in_virtual_time(scenario)


def test_a_client_that_leaves_before_the_lease_is_there_has_its_turn_all_the_same() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a = world.host("a")
        left = asyncio.create_task(ask(a, "left"))
        await asyncio.sleep(0)
        await gone(left)
        assert (await ask(a, "next")).turn_seq == 2

    in_virtual_time(scenario)
