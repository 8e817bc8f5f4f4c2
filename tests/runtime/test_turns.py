"""One session on one host: what happens between a message and its committed reply. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from actors.agent import Conversation
from actors.errors import (
    AgentFailed,
    AgentTimedOut,
    KeyMismatch,
    MailboxFull,
    Outcome,
    PreconditionFailed,
    SessionDeleted,
    SessionUnknown,
    StoreUnavailable,
    WaitedTooLong,
)
from actors.following import follow
from actors.model import HostRef, Lease, SessionKey, Turn
from actors.ports import Done, Residence
from actors.stores.base import ClaimAnswer, CommitAnswer, Ok
from actors.stores.memory import MemoryStore
from actors.ticket import Ticket
from tests.runtime.world import KEY, Client, Gate, World, ask, in_virtual_time, parrot, request, settings


class FlakyStore(MemoryStore):
    """Loses what the test tells it to lose."""

    commits_to_lose: list[str]
    commits = 0

    async def commit(
        self, key: SessionKey, lease: Lease, previous_turn_id: str, turn: Turn, state: bytes | None
    ) -> CommitAnswer:
        self.commits += 1
        what = self.commits_to_lose.pop(0) if self.commits_to_lose else ""
        if what == "request":
            raise StoreUnavailable("lost")
        answer = await super().commit(key, lease, previous_turn_id, turn, state)
        if what == "reply":
            raise StoreUnavailable("lost")
        return answer


def flaky(world: World, *losses: str) -> FlakyStore:
    store = FlakyStore(lambda: int(world.loop.time() * 1000), 604_800)
    store.commits_to_lose = list(losses)
    world.memory = world.store = store
    return store


def test_a_reply_is_in_the_log_when_it_leaves() -> None:  # I2
    async def scenario() -> None:
        world = World(parrot, settings())
        client = await ask(world.host("a"), "hello")
        assert client.reply == "hello!"
        assert [turn.reply for turn in await world.log()] == ["hello!"]
        assert isinstance(client.final, Done) and client.final.residence is Residence.NEW

    in_virtual_time(scenario)


def test_turns_of_one_session_run_one_after_the_other_in_the_order_of_arrival() -> None:  # I4
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        asks = [asyncio.create_task(ask(host, name)) for name in "abc"]
        await world.until(lambda: gate.running == ["a"])
        gate.open("c", "b")
        await world.until(lambda: gate.running == ["a"])
        gate.open("a")
        replies = [(await task).reply for task in asks]
        assert replies == ["a after []", "b after ['a']", "c after ['a', 'b']"]

    in_virtual_time(scenario)


def test_sessions_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        slow = asyncio.create_task(ask(host, "slow"))
        gate.open("quick")
        quick = await ask(host, "quick", key=SessionKey("other"))
        assert quick.turn_seq == 1
        gate.open("slow")
        await slow

    in_virtual_time(scenario)


def test_a_repeat_gets_the_recorded_reply_and_runs_nothing() -> None:  # I3
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        gate.open("x")
        first = await ask(host, "x", "k:1")
        again = await ask(host, "x", "k:1")
        assert again.reply == first.reply and isinstance(again.final, Done) and again.final.replayed
        assert gate.started == ["x"]

    in_virtual_time(scenario)


def test_a_repeat_of_a_running_turn_attaches_to_it() -> None:  # I3
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        both = [asyncio.create_task(ask(host, "x", "k:1")) for _ in range(2)]
        await world.until(lambda: gate.running == ["x"])
        gate.open("x")
        assert {(await task).turn_seq for task in both} == {1}
        assert gate.started == ["x"]

    in_virtual_time(scenario)


def test_the_same_key_with_another_message_is_refused_before_and_after_the_turn() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        running = asyncio.create_task(ask(host, "x", "k:1"))
        await world.until(lambda: gate.running == ["x"])
        assert isinstance((await ask(host, "other", "k:1")).problem, KeyMismatch)
        gate.open("x")
        await running
        assert isinstance((await ask(host, "other", "k:1")).problem, KeyMismatch)
        assert len(await world.log()) == 1

    in_virtual_time(scenario)


def test_a_repeat_is_answered_before_its_if_match_is_judged() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        host = world.host("a")
        await ask(host, "x", "k:1", if_match=0)
        assert (await ask(host, "x", "k:1", if_match=0)).turn_seq == 1

    in_virtual_time(scenario)


def test_if_match_is_judged_when_the_turn_is_due() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        first = asyncio.create_task(ask(host, "a"))
        await world.until(lambda: gate.running == ["a"])
        due = asyncio.create_task(ask(host, "b", if_match=1))
        late = asyncio.create_task(ask(host, "c", if_match=1))
        gate.open("a", "b", "c")
        await first
        assert (await due).turn_seq == 2
        problem = (await late).problem
        assert isinstance(problem, PreconditionFailed) and problem.extra["turn_seq"] == 2

    in_virtual_time(scenario)


def test_a_full_mailbox_refuses_and_loses_nobody() -> None:  # I6
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings(session={"mailbox_max": 2}))
        host = world.host("a")
        asks = [asyncio.create_task(ask(host, "a"))]
        await world.until(lambda: gate.running == ["a"])
        asks += [asyncio.create_task(ask(host, name)) for name in "bc"]
        await asyncio.sleep(0.1)
        full = (await ask(host, "d")).problem
        assert isinstance(full, MailboxFull) and full.outcome is Outcome.NOT_DONE and full.retry_after_s
        gate.open(*"abcd")
        assert [(await task).turn_seq for task in asks] == [1, 2, 3]
        assert (await ask(host, "d")).turn_seq == 4

    in_virtual_time(scenario)


def test_requests_that_wait_for_one_turn_are_bounded() -> None:  # I6
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings(session={"attachments_max": 2}))
        host = world.host("a")
        asks = [asyncio.create_task(ask(host, "a", "k:1")) for _ in range(2)]
        await world.until(lambda: gate.running == ["a"])
        refused = (await ask(host, "a", "k:1")).problem
        assert isinstance(refused, MailboxFull) and refused.outcome is Outcome.UNKNOWN
        gate.open("a")
        assert [(await task).turn_seq for task in asks] == [1, 1]

    in_virtual_time(scenario)


def test_an_agent_that_raises_leaves_no_trace_and_the_session_goes_on() -> None:
    async def agent(conversation: Conversation) -> str:
        touched = conversation.state.get("touched", 0)
        conversation.state["touched"] = touched + 1
        if conversation.message == "bad":
            raise ValueError("no")
        return f"{len(conversation.turns)} turns, touched {touched}"

    async def scenario() -> None:
        world = World(agent, settings())
        host = world.host("a")
        problem = (await ask(host, "bad")).problem
        assert isinstance(problem, AgentFailed) and problem.outcome is Outcome.NOT_DONE
        assert await world.log() == ()
        assert (await ask(host, "good")).reply == "0 turns, touched 0"
        assert (await ask(host, "bad", "k:again")).problem.outcome is Outcome.NOT_DONE
        assert (await ask(host, "good", "k:later")).reply == "1 turns, touched 1"

    in_virtual_time(scenario)


def test_an_agent_past_its_deadline_is_stopped_and_nothing_is_committed() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings(agent={"deadline_s": 5.0}))
        host = world.host("a")
        problem = (await ask(host, "slow")).problem
        assert isinstance(problem, AgentTimedOut) and problem.outcome is Outcome.NOT_DONE
        assert gate.running == [] and await world.log() == ()

    in_virtual_time(scenario)


def test_the_deadline_does_not_touch_the_commit() -> None:  # I10
    async def scenario() -> None:
        world = World(parrot, settings(agent={"deadline_s": 0.02}))
        flaky(world, "request", "request", "request", "reply")
        client = await ask(world.host("a"), "x")
        assert client.turn_seq == 1 and isinstance(client.final, Done) and not client.final.replayed
        assert len(await world.log()) == 1

    in_virtual_time(scenario)


def test_a_commit_that_stays_unknown_is_looked_up_by_a_new_claim_and_never_run_twice_in_the_record() -> None:  # I3, I10
    async def scenario() -> None:
        world = World(parrot, settings())
        store = flaky(world, *["reply"] * 40)
        host = world.host("a")
        asking = asyncio.create_task(ask(host, "x"))
        await world.until(lambda: host.stats()["passivated"]["failed"] == 1)
        store.commits_to_lose.clear()
        assert (await asking).turn_seq == 1
        assert [turn.turn_seq for turn in await world.log()] == [1]

    in_virtual_time(scenario)


def test_a_client_that_goes_away_does_not_stop_its_turn() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        asking = asyncio.create_task(ask(host, "x"))
        await world.until(lambda: gate.running == ["x"])
        asking.cancel()
        await asyncio.wait([asking])
        gate.open("x")
        await world.until(lambda: not gate.running)
        assert [turn.message for turn in await world.log()] == ["x"]

    in_virtual_time(scenario)


def test_a_request_that_has_waited_long_enough_is_told_that_the_outcome_is_unknown() -> None:  # I10
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings(session={"request_wait_s": 20.0}, agent={"deadline_s": 20.0}))
        host = world.host("a")
        asks = [asyncio.create_task(ask(host, name)) for name in "ab"]
        await world.until(lambda: len(gate.started) == 2, within_s=30)
        gate.open("b")
        problem = (await asks[1]).final
        assert isinstance(problem, (WaitedTooLong, Done))
        assert isinstance((await asks[0]).problem, (AgentTimedOut, WaitedTooLong))

    in_virtual_time(scenario)


def test_a_stream_says_the_pieces_in_order_and_ends_after_the_commit() -> None:
    async def agent(conversation: Conversation) -> AsyncIterator[str]:
        for piece in ("one ", "two ", "three"):
            await asyncio.sleep(1)
            yield piece

    async def scenario() -> None:
        world = World(agent, settings())
        client = await ask(world.host("a"), "x", stream=True)
        kinds = [kind for kind, _ in client.events]
        assert kinds == ["turn", "delta", "delta", "delta", "finish"]
        assert "".join(value for kind, value in client.events if kind == "delta") == client.reply == "one two three"

    in_virtual_time(scenario)


def test_what_is_said_while_a_client_wants_quiet_is_one_delta_when_that_is_over() -> None:
    told_s: list[float] = []

    class Timed(Client):
        async def delta(self, text: str) -> None:
            told_s.append(asyncio.get_running_loop().time())
            await super().delta(text)

    async def agent(conversation: Conversation) -> AsyncIterator[str]:
        for piece in "abcdefg":
            yield piece
            await asyncio.sleep(1)

    async def scenario() -> None:
        world = World(agent, settings())
        client, begun = Timed(stream=True, quiet_for_s=2.6), world.loop.time()
        await world.host("a").chat(request("x"), client)
        assert [text for kind, text in client.events if kind == "delta"] == ["a", "bc", "def", "g"]
        assert [round(told - begun, 1) for told in told_s] == [0.0, 2.6, 5.2, 7.0], "the end takes the last along"

    in_virtual_time(scenario)


def test_a_client_that_wants_quiet_hears_at_once_of_the_end_and_of_another_attempt() -> None:
    async def scenario() -> None:
        asked = request("x")
        activation: Any = SimpleNamespace(entitled=True, residence=Residence.NEW)
        ticket, client = Ticket(asked, activation), Client(stream=True, quiet_for_s=60.0)
        loop = asyncio.get_running_loop()
        following, begun = asyncio.create_task(follow(ticket, client)), loop.time()

        def finish() -> None:
            turn = Turn(1, asked.turn_id, asked.fingerprint, asked.message, "cd", None, 2)
            ticket.finish(Done(turn, False, Residence.NEW))

        steps: tuple[Callable[[], None], ...] = (
            *(lambda: ticket.begin(1), lambda: ticket.say("a"), lambda: ticket.say("b")),
            *(lambda: ticket.void(activation), lambda: ticket.begin(2), lambda: ticket.say("c")),
            *(lambda: ticket.say("d"), finish),
        )
        for step in steps:
            step()
            for _ in range(3):
                await asyncio.sleep(0)
        assert client.events == [("turn", 1), ("delta", "a"), ("turn", 2), ("delta", "cd")]
        assert await following is ticket.end and loop.time() == begun
        assert not ticket._pausing and not ticket.attached

    in_virtual_time(scenario)


def test_who_goes_while_he_wants_quiet_is_forgotten() -> None:
    async def scenario() -> None:
        activation: Any = SimpleNamespace(entitled=True, residence=Residence.NEW)
        ticket = Ticket(request("x"), activation)
        following = asyncio.create_task(follow(ticket, Client(stream=True, quiet_for_s=60.0)))
        ticket.begin(1)
        for piece in "ab":
            ticket.say(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        assert len(ticket._pausing) == 1
        following.cancel()
        await asyncio.wait([following])
        assert not ticket._pausing and not ticket.attached

    in_virtual_time(scenario)


def test_a_host_whose_beats_lapsed_streams_nothing_until_the_store_confirms_its_lease() -> None:  # I8
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        client = Client(stream=True)
        asking = asyncio.create_task(host.chat(request("x"), client))
        await world.until(lambda: gate.running == ["x"])
        other = HostRef("b", "slot-1", "b:1")
        # Frozen, replaced and thawed: beats are accepted again, but they lapsed, and the lease is another's.
        answer: ClaimAnswer = await world.memory.claim(KEY, "tok-b", other, over=("a", (client.events[0][1])))
        assert not isinstance(answer, Ok)
        world.views["a"].lapses = 1
        world.silent.add("b")
        world.hosts["b"] = host
        gate.open("x")
        await world.until(lambda: bool(world.wires["a"].passed))
        assert [kind for kind, _ in client.events] == ["turn"]
        asking.cancel()
        await asyncio.wait([asking])
        assert await world.log() == ()

    in_virtual_time(scenario)


def test_a_session_does_not_grow_beyond_what_can_be_loaded() -> None:  # I6
    async def scenario() -> None:
        world = World(parrot, settings(session={"log_bytes_max": 800}))
        host = world.host("a")
        for number in range(3):
            await ask(host, f"{number}" * 100)
        full = (await ask(host, "one more")).problem
        assert (full.code, full.status, full.outcome) == ("session-full", 409, Outcome.NOT_DONE)
        assert len(await world.log()) == 3
        assert (await ask(host, "2" * 100)).turn_seq == 3, "what it has is still answered"
        assert (await ask(host, "another session", key=SessionKey("t"))).turn_seq == 1

    in_virtual_time(scenario)


def test_a_deleted_session_answers_gone_and_runs_nothing() -> None:
    async def scenario() -> None:
        gate = Gate()
        world = World(gate, settings())
        host = world.host("a")
        gate.open("a")
        await ask(host, "a")
        running = asyncio.create_task(ask(host, "b"))
        waiting = asyncio.create_task(ask(host, "c"))
        await world.until(lambda: gate.running == ["b"])
        await host.delete(KEY, "k:del")
        gate.open("b", "c")
        assert isinstance((await running).problem, SessionDeleted)
        assert isinstance((await waiting).problem, SessionDeleted)
        assert isinstance((await ask(host, "d")).problem, SessionDeleted)
        assert gate.started == ["a", "b"]

    in_virtual_time(scenario)


def test_a_deletion_through_another_host_reaches_the_holder() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        await ask(a, "hi")
        await b.delete(KEY, "k:del")
        assert isinstance((await ask(a, "hi")).problem, SessionDeleted), "it must not answer from memory"
        assert a.stats()["resident"] == 0

    in_virtual_time(scenario)


def test_a_holder_that_can_not_be_told_of_a_deletion_holds_nothing_up_and_commits_nothing() -> None:  # I1, I9
    async def scenario() -> None:
        world = World(parrot, settings())
        a, b = world.host("a"), world.host("b")
        await ask(a, "hi")
        world.down.add("a")
        await b.delete(KEY, "k:del")
        assert isinstance((await ask(a, "more")).problem, SessionDeleted)
        assert await world.log() == ()

    in_virtual_time(scenario)


def test_deleting_or_reading_what_never_was_says_so() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        host = world.host("a")
        for attempt in (host.delete(KEY, "k:1"), host.read(KEY, 0, 10)):
            try:
                await attempt
            except SessionUnknown:
                continue
            raise AssertionError("it should have said so")

    in_virtual_time(scenario)


def test_what_a_store_says_of_itself_is_among_the_hosts_counts() -> None:
    async def scenario() -> None:
        world = World(parrot, settings())
        host = world.host("a")
        assert "store" not in host.stats()
        host.store = Telling(lambda: 0, 0.0, 1.0)
        assert host.stats()["store"] == {"lag_s": 0.25}

    in_virtual_time(scenario)


class Telling(MemoryStore):
    """A store with something to say."""

    def stats(self) -> dict[str, float]:
        return {"lag_s": 0.25}
