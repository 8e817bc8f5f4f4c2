"""Saying a text over some time, word by word: what a real model does, without one.

The time comes from the message's metadata (``{"over_s": 1.5}``), so that one agent serves tests that want an answer
at once and tests that want to hit a running turn.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from actors.model import JsonObject

OVER_MAX_S: Final = 60.0

_WORDS: Final = re.compile(r"\S+\s*|\s+")


def over_s(metadata: JsonObject | None) -> float:
    """Seconds that the reply shall take, 0 to 60; 0 where the metadata doesn't name a number."""
    wanted = (metadata or {}).get("over_s")
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return 0.0
    return float(min(max(wanted, 0.0), OVER_MAX_S))


def words(text: str) -> list[str]:
    """The text in words, each with the space after it; put together they are the text again. No word is longer than
    the text's spaces make it, so a language without spaces comes in one piece."""
    return _WORDS.findall(text)


async def said(text: str, seconds: float) -> AsyncIterator[str]:
    """The text word by word, the last word after ``seconds``."""
    pieces = words(text)
    for piece in pieces:
        if seconds:
            await asyncio.sleep(seconds / len(pieces))
        yield piece
