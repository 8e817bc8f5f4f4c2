"""An agent with a window gets its last turns, memory has those only, and an older turn's id still has its one reply."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from actors.agent import Conversation, load_agent, windowed
from actors.errors import KeyMismatch, MailboxFull, Misconfigured, Outcome, PreconditionFailed
from actors.host import Host
from actors.model import Turn
from actors.ports import Done
from tests.runtime.world import KEY, Client, Gate, World, ask, in_virtual_time, request, settings

CALLS = ("claim", "commit", "check", "read", "release")


class Last:
    """Replies with what it was given; counts its runs. ``fail`` is a message that it fails at."""

    window = 2
    fail = ""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.given: list[Sequence[Turn]] = []

    async def __call__(self, conversation: Conversation) -> str:
        self.ran.append(conversation.message)
        self.given.append(conversation.turns)
        if conversation.message == self.fail:
            raise ValueError("as it was told to")
        seen = conversation.state["seen"] = conversation.state.get("seen", 0) + 1
        given = "".join(turn.message for turn in conversation.turns)
        return f"{conversation.turn_seq}/{seen}: {conversation.message} after {given}"


def counted(world: World) -> Counter[str]:
    """How often each call of the store is made from now on."""
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        call = getattr(world.memory, name)

        async def called(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return await call(*arguments, **named)

        setattr(world.memory, name, called)

    for name in CALLS:
        count(name)
    return calls


async def said(host: Host, messages: str) -> list[str]:
    """One turn for each letter; their replies."""
    return [(await ask(host, message)).reply for message in messages]


def kept(host: Host) -> list[str]:
    activation = host._residents.get(KEY)
    assert activation is not None
    return [turn.message for turn in activation.transcript]


def test_an_agent_gets_its_last_turns_and_no_others_are_in_memory() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        assert await said(a, "abcd") == ["1/1: a after ", "2/2: b after a", "3/3: c after ab", "4/4: d after bc"]
        assert kept(a) == ["c", "d"]
        assert [turn.message for turn in await world.log()] == list("abcd")
        assert [turn.message for turn in (await a.read(KEY, 0, 2)).turns] == ["a", "b"]

    in_virtual_time(scenario)


def test_a_session_that_comes_back_or_moves_is_loaded_from_its_last_turns() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a, b = world.host("a"), world.host("b")
        await said(a, "abcd")
        await world.until(lambda: not a.stats()["resident"])
        assert await said(a, "e") == ["5/5: e after cd"]
        assert kept(a) == ["d", "e"]
        world.move_to("b")
        await world.until(lambda: not a.stats()["resident"])
        assert await said(b, "f") == ["6/6: f after de"]
        assert kept(b) == ["e", "f"]

    in_virtual_time(scenario)


def test_memory_stays_the_same_however_many_turns_there_were() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        sizes = []
        for number in range(300):
            await ask(a, f"{number:03}".ljust(200))
            sizes.append(a.stats()["resident_bytes"])
        assert max(sizes[10:]) - min(sizes[10:]) < 20, "its numbers have grown a digit or two"

    in_virtual_time(scenario)


def test_a_turn_of_a_resident_session_is_one_call_and_nothing_is_read() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        await said(a, "abc")
        calls = counted(world)
        await said(a, "defg")
        assert calls == {"commit": 4}

    in_virtual_time(scenario)


def test_a_repeat_from_before_the_window_gets_the_recorded_reply() -> None:
    """I3: the agent has run for it once more, as nobody could know without a call for every turn; nothing else did."""

    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a = world.host("a")
        replies = await said(a, "abcd")
        calls = counted(world)
        for client in [await ask(a, "a"), await ask(a, "b")]:
            assert isinstance(client.final, Done) and client.final.replayed
            assert client.reply == replies[client.turn_seq - 1]
        assert calls == {"commit": 2} and agent.ran == list("abcdab")
        assert await said(a, "e") == ["5/5: e after cd"], "what was run for nothing has left no trace"
        assert [turn.message for turn in await world.log()] == list("abcde")

    in_virtual_time(scenario)


def test_a_repeat_from_within_the_window_is_answered_from_memory() -> None:
    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a = world.host("a")
        replies = await said(a, "abcd")
        calls = counted(world)
        assert await said(a, "cd") == replies[2:]
        assert not calls and agent.ran == list("abcd")

    in_virtual_time(scenario)


def test_a_stream_is_told_that_what_the_repeat_said_was_not_the_reply() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        replies = await said(a, "abcd")
        client = await ask(a, "a", stream=True)
        assert [what for what, _ in client.events][-3:] == ["turn", "delta", "finish"]
        assert client.events[-2] == ("delta", replies[0]) and client.reply == replies[0]

    in_virtual_time(scenario)


def test_another_message_under_an_old_key_is_a_mismatch() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        await said(a, "abcd")
        client = await ask(a, "something else", turn_id="k:a")
        assert isinstance(client.problem, KeyMismatch) and client.problem.outcome is Outcome.NOT_DONE
        assert len(await world.log()) == 4

    in_virtual_time(scenario)


def test_a_repeat_whose_precondition_has_passed_gets_the_recorded_reply() -> None:
    """I10: "precondition failed" would say that it is not done."""

    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a = world.host("a")
        replies = [(await ask(a, message, if_match=at)).reply for at, message in enumerate("abcd")]
        assert (await ask(a, "a", if_match=0)).reply == replies[0]
        assert agent.ran == list("abcd"), "the store was asked before the agent"
        refused = await ask(a, "e", if_match=0)
        assert isinstance(refused.problem, PreconditionFailed) and refused.problem.outcome is Outcome.NOT_DONE
        assert isinstance((await ask(a, "other", turn_id="k:a", if_match=0)).problem, KeyMismatch)

    in_virtual_time(scenario)


def test_a_repeat_at_which_the_agent_fails_gets_the_recorded_reply() -> None:  # I10
    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a = world.host("a")
        replies = await said(a, "abcd")
        agent.fail = "a"
        assert await said(a, "a") == replies[:1]

    in_virtual_time(scenario)


def test_a_repeat_after_a_takeover_is_found_before_the_agent_runs() -> None:
    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a, b = world.host("a"), world.host("b")
        replies = await said(a, "abcd")
        world.down.add("a")
        world.views["b"].dead.add("a")
        world.owner = b.ref
        assert await said(b, "a") == replies[:1]
        assert agent.ran == list("abcd")

    in_virtual_time(scenario)


def test_a_full_mailbox_does_not_say_that_a_turn_it_cannot_know_is_not_done() -> None:  # I10
    async def scenario() -> None:
        gate = Gate()
        gate.window = 1  # type: ignore[attr-defined]
        world = World(gate, settings(session={"mailbox_max": 1}))
        a = world.host("a")
        gate.open("a", "b")
        await ask(a, "a")
        full_before = await refused_by(world, a, gate, "1")
        await ask(a, "b")
        full_after = await refused_by(world, a, gate, "2")
        assert (full_before, full_after) == (Outcome.NOT_DONE, Outcome.UNKNOWN)

    in_virtual_time(scenario)


async def refused_by(world: World, host: Host, gate: Gate, name: str) -> Outcome:
    """One turn runs, one waits, and a third comes; the others are done when this returns."""
    running = asyncio.create_task(ask(host, f"running {name}"))
    await world.until(lambda: bool(gate.running))
    waiting = asyncio.create_task(ask(host, f"waiting {name}"))
    await asyncio.sleep(0)
    third = await ask(host, f"third {name}")
    assert isinstance(third.problem, MailboxFull)
    gate.open(f"running {name}", f"waiting {name}")
    await asyncio.gather(running, waiting)
    return third.problem.outcome


def test_what_an_agent_was_given_stays_when_its_turns_leave_memory() -> None:
    """It may have been given up at its deadline, and read on in its own thread."""

    async def scenario() -> None:
        agent = Last()
        world = World(agent, settings())
        a = world.host("a")
        await said(a, "abcdefgh")
        assert [turn.message for turn in agent.given[3]] == ["b", "c"]
        assert [turn.message for turn in agent.given[3][-1:]] == ["c"]

    in_virtual_time(scenario)


def test_a_batch_with_an_old_turn_in_it_is_served() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        replies = await said(a, "abcd")
        activation = a._residents.get(KEY)
        assert activation is not None and activation._standing is not None
        assert await a.accept_batch(KEY, [request("a"), request("e")], activation._standing.lease.epoch)
        assert [(await ask(a, "a")).reply, (await ask(a, "e")).turn_seq] == [replies[0], 5]

    in_virtual_time(scenario)


def test_a_session_that_is_made_again_is_told_its_first_turn() -> None:
    async def scenario() -> None:
        world = World(Last(), settings())
        a = world.host("a")
        await said(a, "abcd")
        turns, new = await a.open(KEY)
        assert (turns.turns[0].message, turns.turn_seq, new) == ("a", 4, False)

    in_virtual_time(scenario)


@windowed(3)
async def three(conversation: Conversation) -> str:
    return f"{len(conversation.turns)} of {conversation.turn_seq - 1}"


def test_a_function_declares_its_window_with_a_decorator() -> None:
    async def scenario() -> None:
        assert load_agent("tests.runtime.test_window:three") is three
        world = World(three, settings())
        a = world.host("a")
        assert (await said(a, "abcde"))[-1] == "3 of 4"

    in_virtual_time(scenario)


@pytest.mark.parametrize("window", [0, -1, 2.0, "3", True])
def test_a_window_that_is_no_number_of_turns_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, window: object
) -> None:
    monkeypatch.setattr(Last, "window", window)
    with pytest.raises(Misconfigured, match="window"):
        load_agent("tests.runtime.test_window:Last")


def test_an_agent_that_declares_nothing_gets_all_turns() -> None:
    async def everything(conversation: Conversation) -> str:
        return f"{len(conversation.turns)}"

    async def scenario() -> None:
        world = World(everything, settings())
        a = world.host("a")
        assert await said(a, "abcde") == list("01234")
        client = Client()
        await a.chat(request("c"), client)
        assert client.reply == "2"

    in_virtual_time(scenario)
