"""Agents that misbehave harm their own turn and nothing else. In virtual time, save where threads are needed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from actors.agent import Agent, Conversation, Past
from actors.attempt import run_attempt
from actors.errors import AgentFailed, AgentTimedOut
from actors.model import SessionKey, Turn, TurnRequest, fingerprint_of
from actors.replica import HostLife
from actors.settings import Settings
from router.routing import HostView
from tests.runtime.test_replica import chat
from tests.runtime.test_replica import settings as settings_of_a_host
from tests.runtime.world import KEY, Client, World, ask, in_virtual_time, settings


def test_an_agent_that_cancels_itself_fails_its_turn_and_the_session_goes_on() -> None:
    async def agent(conversation: Conversation) -> str:
        if conversation.message == "bad":
            raise asyncio.CancelledError
        return "fine"

    async def scenario() -> None:
        world = World(agent, settings())
        host = world.host("a")
        assert isinstance((await ask(host, "bad")).problem, AgentFailed)
        assert (await ask(host, "good")).reply == "fine"

    in_virtual_time(scenario)


def test_an_agent_that_ignores_its_deadline_is_abandoned_and_says_no_more() -> None:  # I6
    released = asyncio.Event()

    async def agent(conversation: Conversation) -> AsyncIterator[str]:
        while conversation.message == "deaf":
            try:
                await released.wait()
                break
            except asyncio.CancelledError:
                continue
        yield f"late {conversation.message}"

    async def scenario() -> None:
        world = World(agent, settings(agent={"deadline_s": 2.0, "grace_s": 1.0}))
        host = world.host("a")
        started = world.loop.time()
        assert isinstance((await ask(host, "deaf", stream=True)).problem, AgentTimedOut)
        assert 3.0 <= world.loop.time() - started < 4.0
        assert (await ask(host, "next")).reply == "late next"
        released.set()
        assert [turn.message for turn in await world.log()] == ["next"]

    in_virtual_time(scenario)


def test_a_generators_own_end_has_come_before_the_next_turn_begins() -> None:  # I4
    events: list[str] = []

    async def agent(conversation: Conversation) -> AsyncIterator[str]:
        events.append(f"begin {conversation.message}")
        try:
            yield "x" * 100
            yield "x" * 100
        finally:
            await asyncio.sleep(0.5)
            events.append(f"end {conversation.message}")

    async def scenario() -> None:
        world = World(agent, settings(agent={"reply_bytes_max": 150}))
        host = world.host("a")
        await asyncio.gather(ask(host, "1"), ask(host, "2"))
        assert events == ["begin 1", "end 1", "begin 2", "end 2"]

    in_virtual_time(scenario)


async def test_a_thread_that_outlives_its_deadline_is_waited_for_before_the_next_turn() -> None:  # I4
    running, most, entered, leave = 0, 0, threading.Event(), threading.Event()

    def agent(conversation: Conversation) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        entered.set()
        leave.wait(10)
        running -= 1
        return "done"

    limits = Settings.load({"agent": {"deadline_s": 0.05, "grace_s": 10.0}}).agent
    attempt = asyncio.create_task(run_attempt(agent, conversation("x"), lambda _: None, limits, None))
    await asyncio.to_thread(entered.wait)
    done, _ = await asyncio.wait((attempt,), timeout=0.2)
    assert not done, "the deadline has passed, but the thread runs"
    leave.set()
    (result,) = await asyncio.gather(attempt, return_exceptions=True)
    assert isinstance(result, AgentTimedOut) and (running, most) == (0, 1)


async def test_a_synchronous_agent_that_raises_stop_iteration_fails_at_once() -> None:
    def agent(conversation: Conversation) -> str:
        return next(iter(()))

    def generator(conversation: Conversation) -> Iterator[str]:
        yield "one "
        yield "two"

    limits = Settings.load().agent
    (result,) = await asyncio.gather(
        run_attempt(agent, conversation("x"), lambda _: None, limits, None), return_exceptions=True
    )
    assert isinstance(result, AgentFailed)
    assert (await run_attempt(generator, conversation("x"), lambda _: None, limits, None))[0] == "one two"


def conversation(message: str) -> Conversation:
    return Conversation(SessionKey("s"), (), b"", message, None, "k:1", 1)


async def leaves(conversation: Conversation) -> str:
    if conversation.message == "bad":
        sys.exit(3)
    return "fine"


async def leaves_in_the_middle(conversation: Conversation) -> AsyncIterator[str]:
    yield "fi"
    if conversation.message == "bad":
        raise KeyboardInterrupt
    yield "ne"


def leaves_in_a_thread(conversation: Conversation) -> str:
    if conversation.message == "bad":
        sys.exit(3)
    return "fine"


class Own(BaseException):
    """Not an ``Exception``: nobody who catches those sees it."""


@pytest.mark.parametrize("error", [Own, GeneratorExit, asyncio.CancelledError])
def test_whatever_an_agent_raises_fails_its_turn_alone(error: type[BaseException]) -> None:
    async def agent(conversation: Conversation) -> str:
        if conversation.message == "bad":
            raise error
        return "fine"

    async def scenario() -> None:
        host = World(agent, settings()).host("a")
        assert isinstance((await ask(host, "bad")).problem, AgentFailed)
        assert (await ask(host, "good")).reply == "fine"

    in_virtual_time(scenario)


def test_an_agent_can_not_change_what_its_host_remembers_or_commits() -> None:
    async def agent(conversation: Conversation) -> str:
        turns = conversation.turns
        for change in ("append", "clear", "__setitem__", "__delitem__"):
            assert not hasattr(turns, change)
        assert conversation.metadata is not None
        conversation.metadata["more"] = object()
        assert (
            [turn.turn_seq for turn in turns] == [turn.turn_seq for turn in turns[:]] == list(range(1, len(turns) + 1))
        )
        return f"{len(turns)} before, the last {[turn.message for turn in turns[-1:]]}"

    async def scenario() -> None:
        world = World(agent, settings())
        host = world.host("a")
        for number in range(3):
            message, metadata = f"message {number}", {"n": number}
            client = Client()
            request = TurnRequest(KEY, f"k:{number}", fingerprint_of(message, metadata), message, metadata)
            await host.chat(request, client)
            assert client.reply == f"{number} before, the last {[f'message {number - 1}'][:number]}"
        assert [turn.metadata for turn in await world.log()] == [{"n": 0}, {"n": 1}, {"n": 2}]

    in_virtual_time(scenario)


def test_an_attempt_sees_the_past_as_it_was_when_it_began() -> None:
    turns = [Turn(1, "k:1", "f", "a", "b", None, 1)]
    past = Past(turns)
    turns.append(Turn(2, "k:2", "f", "c", "d", None, 1))
    assert (len(past), list(past), past[-1], past[0:9]) == (1, turns[:1], turns[0], turns[:1])
    with pytest.raises(IndexError):
        past[1]


def test_attempts_that_never_stop_are_bounded() -> None:  # I6
    async def agent(conversation: Conversation) -> str:
        while conversation.message.startswith("deaf"):
            try:
                await released.wait()
                break
            except asyncio.CancelledError:
                continue
        return "fine"

    async def scenario() -> None:
        host = World(agent, settings(agent={"deadline_s": 2.0, "grace_s": 1.0, "abandoned_max": 2})).host("a")
        for number in range(2):
            assert isinstance((await ask(host, f"deaf {number}")).problem, AgentTimedOut)
        refused = (await ask(host, "good")).problem
        assert isinstance(refused, AgentFailed) and "don't stop" in refused.detail
        released.set()
        await asyncio.sleep(0.01)
        assert (await ask(host, "better")).reply == "fine"

    released = asyncio.Event()
    in_virtual_time(scenario)


@pytest.mark.parametrize("agent", [leaves, leaves_in_the_middle, leaves_in_a_thread])
async def test_an_agent_that_exits_fails_its_turn_and_ends_no_event_loop(agent: Agent) -> None:
    life = HostLife(settings_of_a_host(agent={"path": f"{__name__}:{agent.__name__}"}), HostView)
    await life.start()
    try:
        status, problem = await chat(life.host.ref.address, "s", "bad")
        assert (status, problem["outcome"]) == (500, "not_done")
        assert "raised" in problem["detail"]
        status, answer = await chat(life.host.ref.address, "s", "good")
        assert (status, answer["reply"], answer["turn_seq"]) == (200, "fine", 1)
    finally:
        await life.end()
