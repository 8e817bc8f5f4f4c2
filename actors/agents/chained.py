"""An agent whose reply proves from which turns it was computed.

With all turns before, in order, and the message that is being answered::

    part(text) = decimal length of the text's UTF-8, ":", the text's UTF-8
    chain      = part(message_1) part(reply_1) ... part(message_n-1) part(reply_n-1) part(message_n)
    reply_n    = n, ":", SHA-256 of the chain in lower-case hex

So a checker that has the log can compute every reply again, and a reply that was computed from another past (a turn
missing, twice, or in another order) can't have the right digest. ``metadata["over_s"]`` paces it like ``paced``.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable

from actors.agent import Conversation
from actors.agents.pacing import over_s, said


def chained_reply(past: Iterable[tuple[str, str]], message: str) -> str:
    """The reply to ``message`` after ``past``, pairs of message and reply."""
    digest, turn_seq = hashlib.sha256(), 1
    for said_then, replied in past:
        digest.update(_part(said_then) + _part(replied))
        turn_seq += 1
    digest.update(_part(message))
    return f"{turn_seq}:{digest.hexdigest()}"


def _part(text: str) -> bytes:
    raw = text.encode()
    return b"%d:%b" % (len(raw), raw)


async def chained(conversation: Conversation) -> AsyncIterator[str]:
    """The digest over the whole past and this message."""
    reply = chained_reply(((turn.message, turn.reply) for turn in conversation.turns), conversation.message)
    async for piece in said(reply, over_s(conversation.metadata)):
        yield piece
