"""One attempt of the agent at one turn, within its limits. Commits nothing and knows no store.

The attempt runs in a task of its own beside the session's, which waits for it: an agent that ignores its deadline, or
cancels itself, can then harm nothing but its own turn. The deadline ends with the attempt: what follows, the commit, is
not the agent's time (I10).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from actors.agent import Agent, Conversation, speak
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
    """The reply and, if the agent changed it, the new state. ``say`` gets each piece as it comes, in time.

    AgentTimedOut past ``deadline_s``; AgentFailed for whatever the agent raises, for a reply or state that is too
    large or isn't text or JSON, and while ``abandoned_max`` attempts that were given up still run.
    """
    if len(_abandoned) >= limits.abandoned_max:
        raise AgentFailed(f"{len(_abandoned)} attempts past their deadline don't stop; no further one is begun.")
    speaker = _Speaker(say, limits.reply_bytes_max)
    attempt = asyncio.create_task(_reply(agent, conversation, speaker, threads))
    try:
        await asyncio.wait((attempt,), timeout=limits.deadline_s)
        if not attempt.done():
            speaker.silence()
            await _stop(attempt, limits.grace_s, conversation)
            raise AgentTimedOut(f"It had {limits.deadline_s:g} s.", retry_after_s=1)
    finally:
        attempt.cancel()
    return _outcome(attempt, conversation, limits)


def _outcome(attempt: asyncio.Task[str], conversation: Conversation, limits: AgentSettings) -> tuple[str, bytes | None]:
    if attempt.cancelled():
        # Nobody here cancels an attempt that is in time: the agent, or something that it awaited, did.
        raise AgentFailed("The agent cancelled itself.")
    try:
        reply, state = attempt.result(), conversation.packed_state()
    except RehydraError:
        raise
    except BaseException as error:
        # Whatever an agent raises ends its turn, not the session's task: nobody else would begin a new one.
        where = {"session": str(conversation.key), "turn_id": conversation.turn_id}
        log.warning("agent failed", exc_info=error, extra=where)
        raise AgentFailed(f"The agent raised {type(error).__name__}.") from error
    if state is not None and len(state) > limits.state_bytes_max:
        raise AgentFailed(f"The agent's state has {len(state)} bytes; at most {limits.state_bytes_max} are allowed.")
    return reply, state


async def _stop(attempt: asyncio.Task[str], grace_s: float, conversation: Conversation) -> None:
    """Cancel it and wait until it has stopped; abandon it if it doesn't stop in time."""
    attempt.cancel()
    await asyncio.wait((attempt,), timeout=grace_s)
    if attempt.done():
        # Whatever it raised on its way out comes too late to matter; asking keeps asyncio from complaining.
        _ = attempt.cancelled() or attempt.exception()
        return
    where = {"session": str(conversation.key), "turn_id": conversation.turn_id}
    log.error("agent abandoned: it did not stop", extra=where)
    _abandoned.add(attempt)
    attempt.add_done_callback(_buried)


_abandoned: set[asyncio.Task[str]] = set()
"""Attempts that did not stop, of all sessions of this process. Kept so that they aren't collected while they run."""


def _buried(attempt: asyncio.Task[str]) -> None:
    _abandoned.discard(attempt)
    _ = attempt.cancelled() or attempt.exception()


class _Speaker:
    """What an attempt says, up to so many bytes. Passes pieces on until it is silenced: an abandoned attempt must not
    speak into the next one."""

    __slots__ = ("_bytes", "_bytes_max", "_parts", "_say", "_silent")

    def __init__(self, say: Callable[[str], None], bytes_max: int) -> None:
        self._say = say
        self._bytes_max = bytes_max
        self._bytes = 0
        self._parts: list[str] = []
        self._silent = False

    def say(self, piece: str) -> None:
        # A lone surrogate is no text: encoding it raises here, before anybody has seen it.
        self._bytes += len(piece.encode())
        if self._bytes > self._bytes_max:
            raise AgentFailed(f"The reply is longer than {self._bytes_max} bytes.")
        self._parts.append(piece)
        if not self._silent:
            self._say(piece)

    def silence(self) -> None:
        self._silent = True

    @property
    def said(self) -> str:
        return "".join(self._parts)


async def _reply(agent: Agent, conversation: Conversation, speaker: _Speaker, threads: Executor | None) -> str:
    try:
        await speak(agent, conversation, speaker.say, threads)
    except (SystemExit, KeyboardInterrupt) as error:
        # They leave a task and end its event loop: the process would live on, with every session in it stuck.
        raise AgentFailed(f"The agent raised {type(error).__name__}.") from error
    return speaker.said
