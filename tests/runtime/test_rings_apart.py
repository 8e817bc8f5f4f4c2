"""I7: hosts whose rings name each other, with an agent that is slower than every wait. In virtual time.

Nobody is robbed, no turn is lost or run twice, and a session moves at most once per change of a ring: whoever was
given a session by a ring as new as its own keeps it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from actors.agent import Conversation
from actors.host import Host
from actors.model import HostRef, SessionKey, TurnRequest
from actors.ports import Done, Passed, Requester
from actors.stores.base import ClaimAnswer, Granted
from actors.stores.memory import MemoryStore
from tests.runtime.world import KEY, LEAVE_S, Client, Gate, Wire, World, ask, in_virtual_time, parrot, request, settings

AGENT_S = 6.0
LIMITS = settings(
    agent={"deadline_s": 10.0},
    session={"request_wait_s": 10.0, "handoff_wait_s": 2.0, "claim_patience_s": 1.0, "idle_s": 500.0},
)
KEYS = [SessionKey(f"s{number}") for number in range(4)]


class Granting(MemoryStore):
    """Counts the leases that it gives, and those that were taken from somebody."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: int(world.loop.time() * 1000))
        self.granted: Counter[SessionKey] = Counter()
        self.takeovers = 0

    async def claim(
        self,
        key: SessionKey,
        token: str,
        host: HostRef,
        over: tuple[str, int] | None = None,
        window: int | None = None,
    ) -> ClaimAnswer:
        answer = await super().claim(key, token, host, over, window)
        if isinstance(answer, Granted):
            self.granted[key] += 1
            self.takeovers += answer.takeovers
        return answer


async def slow(conversation: Conversation) -> str:
    await asyncio.sleep(AGENT_S)
    return f"{conversation.message} after {len(conversation.turns)}"


def apart(names: str) -> tuple[World, list[Host], Granting]:
    """Hosts of which each one's ring names the next, for every session."""
    world = World(slow, LIMITS)
    world.memory = world.store = store = Granting(world)
    hosts = [world.host(name) for name in names]
    for position, host in enumerate(hosts):
        point(world, host, hosts[(position + 1) % len(hosts)], 1)
    return world, hosts, store


def point(world: World, host: Host, to: Host, ring_version: int) -> None:
    """That host's ring, from now on."""
    view = world.views[host.ref.incarnation]
    view.ring_version = ring_version
    view.owner_now = lambda _: to.ref
    host.ring_changed()


async def talk(hosts: list[Host], key: SessionKey, name: str, messages: int) -> list[Done]:
    """Ask any host, again and again with the same turn id until there is an answer, one message after the other."""
    chance, answers = random.Random(name), []
    for number in range(messages):
        while not isinstance(final := (await ask(chance.choice(hosts), f"{name}-{number}", key=key)).final, Done):
            assert final is not None
        answers.append(final)
    return answers


def test_rings_that_name_each_other_and_a_slow_agent_make_turns_wait_and_nothing_worse() -> None:  # I7
    async def scenario() -> None:
        for names in ("ab", "abc"):
            world, hosts, store = apart(names)
            talks = [talk(hosts, key, f"{key.session_id}-{client}", 5) for key in KEYS for client in range(3)]
            answers = await asyncio.gather(*talks)
            for key in KEYS:
                log = await world.log(key)
                assert [turn.reply for turn in log] == [f"{turn.message} after {turn.turn_seq - 1}" for turn in log]
                assert len(log) == 15 == len({turn.turn_id for turn in log})
            recorded = {turn.turn_id: turn for key in KEYS for turn in await world.log(key)}
            assert all(recorded[done.turn.turn_id] == done.turn for told in answers for done in told)
            assert store.takeovers == 0
            assert set(store.granted.values()) == {1}, "a session moved, though no ring had changed"

    in_virtual_time(scenario)


def test_each_change_of_rings_that_stay_apart_moves_a_session_at_most_once() -> None:  # I7
    async def scenario() -> None:
        world, hosts, store = apart("abc")
        talks = [asyncio.create_task(talk(hosts, key, f"{key.session_id}-{n}", 8)) for key in KEYS for n in range(2)]
        changes = 0
        while not all(each.done() for each in talks):
            await asyncio.sleep(4 * AGENT_S)
            changes += 1
            for position, host in enumerate(hosts):
                # To the left, to the right, to the left: never two that agree.
                point(world, host, hosts[(position + (1 if changes % 2 else 2)) % 3], 1 + changes)
        assert changes > 2 and store.takeovers == 0
        assert all(1 <= granted <= 1 + changes for granted in store.granted.values()), store.granted
        assert [len(await world.log(key)) for key in KEYS] == [16] * 4

    in_virtual_time(scenario)


def test_a_newer_ring_moves_what_an_older_one_has_brought() -> None:
    async def scenario() -> None:
        world, (a, b), _ = apart("ab")
        first = Client()
        asked = asyncio.create_task(a.chat(request("1"), first, 0))
        await world.until(lambda: b.stats()["resident"] == 1)
        point(world, b, a, 2)
        point(world, a, a, 2)
        await asked
        await world.until(lambda: b.stats()["resident"] == 0)
        assert isinstance((await ask(b, "2")).final, Done)
        assert a.stats()["resident"] == 1

    in_virtual_time(scenario)


def test_a_host_that_leaves_gives_away_what_another_ring_has_brought_it() -> None:
    async def scenario() -> None:
        world, (a, b), _ = apart("ab")
        asked = [asyncio.create_task(ask(a, message)) for message in ("1", "2", "3")]
        await world.until(lambda: b.stats()["resident"] == 1)
        await b.drain(LEAVE_S)
        assert b.stats()["resident"] == 0 and len(await world.log()) == 1
        assert world.wires["b"].batches == [("a", ["k:2", "k:3"])]
        await asyncio.gather(*asked)
        await asyncio.sleep(4 * AGENT_S)
        assert [turn.message for turn in await world.log()] == ["1", "2", "3"]

    in_virtual_time(scenario)


def test_an_owner_that_has_not_heard_of_it_yet_gets_the_session_in_one_move() -> None:  # I7
    """The edge learns of a change before a host does: what it sends to the new owner must not go back to the old one,
    which would claim it again only to hand it over."""

    async def scenario() -> None:
        world, (a, b), store = apart("ab")
        point(world, a, a, 1)
        point(world, b, a, 1)
        first = await ask(a, "first")
        point(world, a, b, 2)
        await world.until(lambda: a.stats()["resident"] == 0)
        second = await ask(b, "second")
        third = await ask(b, "third")
        assert [client.turn_seq for client in (first, second, third)] == [1, 2, 3]
        assert store.granted[KEY] == 2, "one claim by each of the two"
        assert b.stats()["resident"] == 1

    in_virtual_time(scenario)


def test_a_dead_owners_session_goes_to_the_next_owner_wherever_the_request_landed() -> None:  # I7
    """The edge repeats on any host what broke with the owner; the ring without it names one, and all know which."""

    async def scenario() -> None:
        world = World(parrot, settings())
        a, b, c = world.host("a"), world.host("b"), world.host("c")
        await ask(a, "1")
        world.down.add("a")
        for view in world.views.values():
            view.heir_now = c.ref
        assert [(await ask(host, message)).turn_seq for host, message in ((b, "2"), (c, "3"), (b, "4"))] == [2, 3, 4]
        assert c.stats()["resident"] == 1 and b.stats()["activations"] == 0
        world.move_to("c")
        assert (await ask(c, "5")).turn_seq == 5
        assert len({turn.epoch for turn in await world.log()}) == 2, "it moved once"

    in_virtual_time(scenario)


class Pooled(Wire):
    """A connection of before breaks first, which says nothing of the host; whoever asks again learns what is true."""

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        if to.incarnation in self.world.down | self.world.silent and not self.passed:
            self.passed.append((to.incarnation, request.turn_id))
            return Passed.BROKEN
        return await super().pass_on(to, request, requester, hops)


@pytest.mark.parametrize("ending", ["down", "silent"])
def test_a_dead_owner_whose_connection_broke_first_leaves_its_session_to_the_same_heir(ending: str) -> None:  # I7
    """Served where the request landed, it would move again as soon as the ring is without the dead one."""

    async def scenario() -> None:
        world = World(parrot, settings())
        a, b, c = world.host("a"), world.host("b"), world.host("c")
        await ask(a, "1")
        getattr(world, ending).add("a")
        for view in world.views.values():
            view.heir_now = c.ref
        world.wires["b"] = b.peers = Pooled(world)
        asking = asyncio.create_task(ask(b, "2"))
        await world.until(lambda: len(world.wires["b"].passed) == 2)
        for view in world.views.values():
            view.kill(a.ref)
        assert (await asking).turn_seq == 2
        assert [to for to, _ in world.wires["b"].passed] == ["a", "a", "c"]
        assert c.stats()["resident"] == 1 and b.stats()["resident"] == 0
        assert len({turn.epoch for turn in await world.log()}) == 2, "it moved once"

    in_virtual_time(scenario)


def test_a_host_with_an_old_lease_takes_no_batch_and_the_sender_runs_it() -> None:  # I4, I10
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        b, a = world.host("b"), world.host("a")
        old = asyncio.create_task(ask(b, "old"))
        await world.until(lambda: gate.running == ["old"])
        world.views["a"].kill(b.ref)  # It only seems so: b was slow.
        world.owner = a.ref
        asked = [asyncio.create_task(ask(a, message)) for message in ("1", "2")]
        await world.until(lambda: gate.running == ["old", "1"])
        world.views["a"].dead.clear()
        world.owner = b.ref
        gate.open("1", "2")
        assert [(await each).turn_seq for each in asked] == [1, 2]
        assert world.wires["a"].batches == [("b", ["k:2"])], "it was offered"
        gate.open("old")
        assert (await old).turn_seq == 3 and gate.started.count("2") == 1

    in_virtual_time(scenario)


class Late(Wire):
    """Before it passes a request on, the host there gives the session back."""

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        holder = self.world.hosts[to.incarnation]
        holder.ring_changed()
        await self.world.until(lambda: not holder.stats()["resident"] and not holder.stats()["releasing"])
        return await super().pass_on(to, request, requester, hops)


def test_a_host_that_was_asked_for_a_lease_it_has_given_back_does_not_claim_it_again() -> None:  # I7
    """The new owner found the old one's lease and passed the request on; the old one released meanwhile. It would
    claim, run the turn, and hand over again: three moves for one change of the ring."""

    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        await ask(a, "1")
        world.wires["b"] = b.peers = Late(world)
        world.owner = b.ref
        assert (await ask(b, "2")).turn_seq == 2
        assert a.stats()["activations"] == 1
        first, second = await world.log()
        assert second.epoch == first.epoch + 1
        assert [to for to, _ in world.wires["b"].passed] == ["a"]
        assert [to for to, _ in world.wires["a"].passed] == ["b"]

    in_virtual_time(scenario)
