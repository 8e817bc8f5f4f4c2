"""The agents that ship: what they say, and that what they keep is only what was committed."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest

from actors.agent import Agent, Conversation, load_agent, speak
from actors.agents.chained import chained_reply
from actors.agents.pacing import OVER_MAX_S, over_s, words
from actors.agents.recall import FACTS_MAX, HEARD_CHARACTERS_MAX
from actors.model import SessionKey, Turn
from actors.settings import AgentSettings

TEXTS = [
    " ",
    "plain words here",
    "  spaces\t and\nlines  ",
    "\u4e2d\u6587\u6ca1\u6709\u7a7a\u683c",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    "\U0001f469\U0001f3fd\u200d\U0001f680 \u00e9 e\u0301",
    "a\x00b\x01",
    "\u2028\u3000\u00a0",
    "What is \u4e2d\u6587?",
    "my name is \u05e9\u05dc\u05d5\u05dd!",
    "remember that \U0001f600 is \U0001f680\U0001f680",
]


class Talk:
    """A session without a host: what an agent would see, turn after turn."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.turns: list[Turn] = []
        self.state = b""

    async def say(self, message: str, metadata: dict[str, Any] | None = None) -> str:
        number = len(self.turns) + 1
        conversation = Conversation(SessionKey("s"), tuple(self.turns), self.state, message, metadata, f"k:{number}", 1)
        said: list[str] = []
        await speak(self.agent, conversation, said.append)
        reply = "".join(said)
        self.state = conversation.packed_state() or self.state
        self.turns.append(Turn(number, f"k:{number}", "f", message, reply))
        return reply


@pytest.fixture
def talk() -> Talk:
    return Talk(load_agent(AgentSettings().path))  # type: ignore[call-arg]


async def test_recall_counts_the_turns(talk: Talk) -> None:
    assert await talk.say("hello") == 'Turn 1: you said "hello"'
    assert await talk.say("hello again") == 'Turn 2: you said "hello again"'
    assert await talk.say("How many turns is this?") == "This is turn 3 of our session."


async def test_recall_knows_what_was_said_first_and_last(talk: Talk) -> None:
    assert await talk.say("What did I say first?") == "This is the first thing."
    await talk.say("the second thing")
    assert await talk.say("what did I say first?") == 'The first thing you said was: "What did I say first?"'
    await talk.say("the fourth thing")
    assert await talk.say("What did I just say before this?") == 'Before this you said: "the fourth thing"'


async def test_recall_keeps_a_name(talk: Talk) -> None:
    assert await talk.say("What is my name?") == "You haven't told me your name."
    assert (
        await talk.say("Hi! My name is Ada Lovelace. How are you?")
        == "Nice to meet you, Ada Lovelace. I'll remember it."
    )
    assert await talk.say("What's my name?") == "Your name is Ada Lovelace."
    assert await talk.say("who am I?") == "You are Ada Lovelace."


async def test_recall_keeps_facts_until_it_is_told_to_forget_them(talk: Talk) -> None:
    assert await talk.say("Please remember that the gate is B12.") == "I'll remember that gate is B12."
    assert await talk.say("remember my seats are 4A and 4B") == "I'll remember that seats is 4A and 4B."
    assert await talk.say("What is the gate?") == "Gate is B12."
    assert await talk.say("What do you remember?") == "I remember: gate is B12; seats is 4A and 4B."
    assert await talk.say("forget the gate") == "I've forgotten gate."
    assert await talk.say("forget the gate") == "I didn't know gate."
    assert await talk.say("What is the gate?") == 'Turn 7: you said "What is the gate?"'


async def test_recall_takes_a_fact_only_from_the_committed_state(talk: Talk) -> None:
    committed = talk.state
    await talk.say("my name is Ada")
    talk.state, talk.turns = committed, []
    assert await talk.say("what is my name?") == "You haven't told me your name."


async def test_recall_keeps_a_bounded_number_of_facts(talk: Talk) -> None:
    for number in range(FACTS_MAX):
        await talk.say(f"remember that fact{number} is {'x' * 1000}")
    assert "at most" in await talk.say("remember that another is one")
    assert "remember that fact1 is new" in await talk.say("remember that fact1 is new")
    assert len(talk.state) < AgentSettings().state_bytes_max  # type: ignore[call-arg]


async def test_recall_looks_only_at_the_beginning_of_a_long_message(talk: Talk) -> None:
    began = time.monotonic()
    await talk.say("what i said what i say " * 10_000)
    await talk.say("remember " * 20_000)
    assert time.monotonic() - began < 1
    assert "my name" not in await talk.say("." * HEARD_CHARACTERS_MAX + "what is my name?")


@pytest.mark.parametrize("path", ["recall:recall", "echo:echo", "echo:paced", "chained:chained"])
@pytest.mark.parametrize("text", TEXTS)
async def test_no_language_breaks_an_agent(path: str, text: str) -> None:
    talk = Talk(load_agent(f"actors.agents.{path}"))
    for _ in range(2):
        reply = await talk.say(text)
        assert reply.encode()
        if path.startswith("echo"):
            assert reply == text
    assert text in await Talk(load_agent("actors.agents.echo:echo")).say(text)


@pytest.mark.parametrize("text", ["", *TEXTS])
def test_words_put_together_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


async def test_recall_says_its_reply_word_by_word() -> None:
    conversation = Conversation(SessionKey("s"), (), b"", "hello there", None, "k:1", 1)
    said: list[str] = []
    await speak(load_agent("actors.agents.recall:recall"), conversation, said.append)
    assert said == [
        "Turn ",
        "1: ",
        "you ",
        "said ",
        '"hello ',
        'there"',
    ]


@pytest.mark.parametrize("path", ["echo:paced", "recall:recall", "chained:chained"])
async def test_a_paced_reply_takes_its_time(path: str) -> None:
    began = time.monotonic()
    await Talk(load_agent(f"actors.agents.{path}")).say("one two three", {"over_s": 0.15})
    assert 0.14 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        (None, 0.0),
        ({}, 0.0),
        ({"over_s": 1.5}, 1.5),
        ({"over_s": 2}, 2.0),
        ({"over_s": -1}, 0.0),
        ({"over_s": 1e9}, OVER_MAX_S),
        ({"over_s": 10**400}, OVER_MAX_S),
        ({"over_s": "3"}, 0.0),
        ({"over_s": True}, 0.0),
        ({"over_s": None}, 0.0),
    ],
)
def test_the_pace_is_a_number_of_seconds_or_nothing(metadata: dict[str, Any] | None, seconds: float) -> None:
    assert over_s(metadata) == seconds


async def test_a_chained_reply_is_the_digest_of_the_whole_past_and_the_message() -> None:
    talk = Talk(load_agent("actors.agents.chained:chained"))
    first = await talk.say("a")
    assert first == "1:" + hashlib.sha256(b"1:a").hexdigest()
    second = await talk.say("\u00e9")
    assert second == "2:" + hashlib.sha256(b"1:a66:" + first.encode() + "2:\u00e9".encode()).hexdigest()


@pytest.mark.parametrize(
    "past", [[], [("a", "x")], [("b", "y"), ("a", "x")], [("a", "x"), ("b", "z")], [("a", "x"), ("a", "x"), ("b", "y")]]
)
def test_a_chained_reply_shows_a_past_that_lacks_repeats_or_changes_a_turn(past: list[tuple[str, str]]) -> None:
    assert chained_reply(past, "c") != chained_reply([("a", "x"), ("b", "y")], "c")
