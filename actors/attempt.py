"""One attempt of the agent at one turn, within its limits. Commits nothing and knows no store.

The deadline ends with the attempt: what follows, the commit, is not the agent's time (I10).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing

from actors.agent import Agent, Conversation, pieces
from actors.errors import AgentFailed, AgentTimedOut, RehydraError
from actors.settings import AgentSettings

log = logging.getLogger("rehydra.agent")


async def run_attempt(
    agent: Agent,
    conversation: Conversation,
    say: Callable[[str], None],
    limits: AgentSettings,
    threads: Executor | None,
) -> tuple[str, bytes | None]:
    """The reply and, if the agent changed it, the new state. ``say`` gets each piece as it comes.

    AgentTimedOut past ``deadline_s``; AgentFailed for whatever the agent raises, and for a reply or state that is too
    large or isn't text or JSON.
    """
    deadline = asyncio.timeout(limits.deadline_s)
    try:
        async with deadline:
            reply = await _reply(agent, conversation, say, limits.reply_bytes_max, threads)
        state = conversation.packed_state()
    except RehydraError:
        raise
    except Exception as error:
        if deadline.expired():
            raise AgentTimedOut(f"It had {limits.deadline_s:g} s.", retry_after_s=1) from error
        where = {"session": str(conversation.key), "turn_id": conversation.turn_id}
        log.warning("agent failed", exc_info=error, extra=where)
        raise AgentFailed(f"The agent raised {type(error).__name__}.") from error
    if state is not None and len(state) > limits.state_bytes_max:
        raise AgentFailed(f"The agent's state has {len(state)} bytes; at most {limits.state_bytes_max} are allowed.")
    return reply, state


async def _reply(
    agent: Agent, conversation: Conversation, say: Callable[[str], None], bytes_max: int, threads: Executor | None
) -> str:
    parts: list[str] = []
    size_bytes = 0
    async with aclosing(pieces(agent, conversation, threads)) as said:
        async for piece in said:
            # A lone surrogate is no text: encoding it raises here, before anybody has seen it.
            size_bytes += len(piece.encode())
            if size_bytes > bytes_max:
                raise AgentFailed(f"The reply is longer than {bytes_max} bytes.")
            parts.append(piece)
            say(piece)
    return "".join(parts)
