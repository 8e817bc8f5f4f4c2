"""Agents that say the message again: ``echo`` at once, ``paced`` over the time that the metadata names."""

from __future__ import annotations

from collections.abc import AsyncIterator

from actors.agent import Conversation
from actors.agents.pacing import over_s, said


async def echo(conversation: Conversation) -> str:
    """The message, as it came."""
    return conversation.message


async def paced(conversation: Conversation) -> AsyncIterator[str]:
    """The message word by word over ``metadata["over_s"]`` seconds, at most 60; at once without it."""
    async for piece in said(conversation.message, over_s(conversation.metadata)):
        yield piece
