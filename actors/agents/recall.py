"""The demo's agent: it needs no model, and everything it says shows that the session is still there.

It counts the turns, knows what was said first and last (from the committed turns), and keeps named facts in the
session's durable state: "my name is Ada", "remember that the gate is B12", "what is my name?", "what is the gate?",
"what do you remember?", "forget the gate". Anything else is answered with the count and an echo of the beginning.
Any language goes through it unharmed; it understands English.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Final

from actors.agent import Conversation
from actors.agents.pacing import over_s, said

FACTS_MAX: Final = 100
FACT_CHARACTERS_MAX: Final = 200
QUOTED_CHARACTERS_MAX: Final = 80
HEARD_CHARACTERS_MAX: Final = 400
"""Only so much of a message is searched for requests: the patterns' cost grows faster than the text."""

_FLAGS: Final = re.IGNORECASE | re.DOTALL
_NAME: Final = re.compile(r"\bmy name(?: is|'s)\s+(?P<value>[^.!?\n]+)", _FLAGS)
_REMEMBER: Final = re.compile(r"\bremember(?: that)?\s+(?P<key>.{1,200}?)\s+(?:is|are)\s+(?P<value>.+)", _FLAGS)
_FORGET: Final = re.compile(r"^\s*(?:please\s+)?forget\s+(?P<key>.{1,200}?)[.!]?\s*$", _FLAGS)
_ASKED: Final = re.compile(r"\bwhat(?:'s| is| are)\s+(?P<key>[^?\n]{1,200}?)\s*\?", _FLAGS)
_WHO: Final = re.compile(r"\bwho am i\b", _FLAGS)
_FIRST: Final = re.compile(r"\bwhat\b.*\b(?:i|we)\b.*\b(?:say|said|ask|asked|write|wrote)\b.*\bfirst\b", _FLAGS)
_LAST: Final = re.compile(
    r"\bwhat\b.*\b(?:i|we)\b.*\b(?:say|said|ask|asked|write|wrote)\b.*\b(?:last|before)\b", _FLAGS
)
_COUNT: Final = re.compile(r"\bhow many\b.*\b(?:turns|messages|times)\b", _FLAGS)
_ALL: Final = re.compile(r"\bwhat do you (?:remember|know)\b", _FLAGS)
_ARTICLE: Final = re.compile(r"^(?:my|your|the|a|an|that)\s+", re.IGNORECASE)


async def recall(conversation: Conversation) -> AsyncIterator[str]:
    """The reply, word by word; ``metadata["over_s"]`` spreads it over that many seconds."""
    async for piece in said(answer(conversation), over_s(conversation.metadata)):
        yield piece


def answer(conversation: Conversation) -> str:
    """The whole reply. Changes the facts in the session's state where the message asks for it."""
    message, count = conversation.message, len(conversation.turns) + 1
    return _about_the_past(conversation, count) or _about_facts(conversation) or _otherwise(message, count)


def _about_the_past(conversation: Conversation, count: int) -> str | None:
    message, turns = conversation.message[:HEARD_CHARACTERS_MAX], conversation.turns
    if _COUNT.search(message):
        return f"This is turn {count} of our session."
    if _FIRST.search(message):
        return f"The first thing you said was: {_quoted(turns[0].message)}" if turns else "This is the first thing."
    if _LAST.search(message):
        return f"Before this you said: {_quoted(turns[-1].message)}" if turns else "This is the first thing."
    return None


def _about_facts(conversation: Conversation) -> str | None:
    message, state = conversation.message[:HEARD_CHARACTERS_MAX], conversation.state
    facts: dict[str, str] = state.get("facts", {})
    if _ALL.search(message):
        known = "; ".join(f"{key} is {value}" for key, value in facts.items())
        return f"I remember: {known}." if known else "I remember nothing yet."
    if match := _NAME.search(message):
        return _keep(state, "name", match["value"]) or f"Nice to meet you, {_fact(state, 'name')}. I'll remember it."
    if match := _REMEMBER.search(message):
        key = _key(match["key"])
        return _keep(state, key, match["value"]) or f"I'll remember that {key} is {_fact(state, key)}."
    if match := _FORGET.search(message):
        key = _key(match["key"])
        return f"I've forgotten {key}." if facts.pop(key, None) is not None else f"I didn't know {key}."
    return _about_one(message, facts)


def _about_one(message: str, facts: dict[str, str]) -> str | None:
    if _WHO.search(message):
        return f"You are {facts['name']}." if "name" in facts else "You haven't told me your name."
    if match := _ASKED.search(message):
        key = _key(match["key"])
        if key in facts:
            return f"Your name is {facts[key]}." if key == "name" else f"{key[:1].upper()}{key[1:]} is {facts[key]}."
        if key == "name":
            return "You haven't told me your name."
    return None


def _otherwise(message: str, count: int) -> str:
    return f"Turn {count}: you said {_quoted(message)}"


def _fact(state: dict[str, Any], key: str) -> str:
    value: str = state["facts"][key]
    return value


def _keep(state: dict[str, Any], key: str, value: str) -> str | None:
    """Keep the fact; a refusal if there is no room for it. No older fact goes for a new one."""
    facts: dict[str, str] = state.setdefault("facts", {})
    if key not in facts and len(facts) >= FACTS_MAX:
        return f"I keep {FACTS_MAX} facts at most; tell me to forget one first."
    facts[key] = value.strip().rstrip(".!").strip()[:FACT_CHARACTERS_MAX]
    return None


def _key(raw: str) -> str:
    return _ARTICLE.sub("", " ".join(raw.split())).lower()


def _quoted(text: str) -> str:
    short = text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"
    return f'"{short}"'
