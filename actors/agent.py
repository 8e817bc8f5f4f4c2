"""The agent contract: the application's code, called once per attempt at a turn.

An agent is anything callable with one :class:`Conversation`: an ``async def`` that returns the reply, an async
generator that yields it in pieces, a plain function or generator (run in a thread of its own), or a class, which is
instantiated once per host and whose instances are called. It never sees two turns of one session at once (I4), save
when it ignores its deadline for longer than ``agent.grace_s``: such an attempt is abandoned, and nothing that it does
to the session counts any more. What it does to ``conversation.state`` counts only if the turn is committed.

An agent that needs the last N turns only says so, by an attribute ``window = N`` (N >= 1) of its class, or with
:func:`windowed`. Its hosts then load and keep those only, and a talk of any length costs what one of N turns costs.

Side effects outside of the session are the agent's own business: an attempt may be repeated after a crash with the
same ``turn_id``, so give that to whatever must not happen twice.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from itertools import islice
from types import FunctionType
from typing import Any, TypeVar, overload

from pydantic_core import from_json, to_json

from actors.errors import AgentFailed, Misconfigured
from actors.model import JsonObject, SessionKey, Turn

Agent = Callable[["Conversation"], Any]
F = TypeVar("F", bound=Agent)


class Past(Sequence[Turn]):
    """The turns that were committed when the attempt began. A view: it costs nothing however long the talk is, what
    is committed later doesn't show, and an agent can't change what its host has in memory."""

    __slots__ = ("_count", "_turns")

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._count = len(turns)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> list[Turn]: ...
    def __getitem__(self, at: int | slice) -> Turn | list[Turn]:
        there = range(self._count)[at]
        return self._turns[there] if isinstance(there, int) else [self._turns[each] for each in there]

    def __iter__(self) -> Iterator[Turn]:
        return islice(self._turns, self._count)


class Conversation:
    """What an agent gets: the committed past, its own durable state, and the message to answer."""

    __slots__ = ("_given", "_metadata", "_packed", "_state", "attempt", "key", "message", "turn_id", "turns")

    def __init__(
        self,
        key: SessionKey,
        turns: Sequence[Turn],
        state: bytes,
        message: str,
        metadata: JsonObject | None,
        turn_id: str,
        attempt: int,
    ) -> None:
        self.key = key
        self.turns: Sequence[Turn] = Past(turns)
        """Committed turns, oldest first: all of them, or the last ones that the agent's window has room for."""
        self.message = message
        self._given = metadata
        self._metadata: dict[str, Any] | None = None
        self.turn_id = turn_id
        self.attempt = attempt
        """1, and one more for each time that this host has begun the turn before, and for each host that has died with
        this session since its last committed turn, whichever turn it ran: a hint that it may have been begun before."""
        self._packed = state
        self._state: dict[str, Any] | None = None

    @property
    def session_id(self) -> str:
        return self.key.session_id

    @property
    def turn_seq(self) -> int:
        """The number that this turn will have. Turns count from 1, whatever part of them an agent gets."""
        return self.turns[-1].turn_seq + 1 if self.turns else 1

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The request's own. The agent's copy: what is committed is what the client sent."""
        if self._metadata is None and self._given is not None:
            self._metadata = from_json(to_json(self._given))
        return self._metadata

    @property
    def state(self) -> dict[str, Any]:
        """The session's durable JSON object; change it freely, it is committed together with the reply."""
        if self._state is None:
            # Decoded on first use: an agent without state pays nothing, and a failed attempt leaves no trace.
            self._state = from_json(self._packed) if self._packed else {}
        return self._state

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._state = value

    def packed_state(self) -> bytes | None:
        """The state as bytes if the agent changed it, else None. AgentFailed if it isn't a JSON object, or holds what
        the next turn would get back as something else: a tuple as a list, bytes as text, a number's key as a text."""
        if self._state is None:
            return None
        if not isinstance(self._state, dict):
            raise AgentFailed(f"The agent's state must be a JSON object, not {type(self._state).__name__}.")
        try:
            packed = to_json(self._state, inf_nan_mode="constants")
            kept = from_json(packed, allow_inf_nan=False)
        except ValueError as error:
            raise AgentFailed(f"The agent's state isn't JSON: {error}") from error
        if kept != self._state:
            raise AgentFailed("The agent's state isn't JSON: some of it would come back as something else.")
        return None if packed == self._packed else packed


def load_agent(path: str) -> Agent:
    """The agent named by ``module:attribute``; a class is instantiated. Misconfigured says what is wrong."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise Misconfigured(
            f"agent {path!r} must be written 'module:attribute', such as 'actors.agents.recall:recall'."
        )
    try:
        target: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            target = getattr(target, name)
        if inspect.isclass(target):
            target = target()
    except Exception as error:
        raise Misconfigured(f"agent {path!r} can't be loaded: {type(error).__name__}: {error}") from error
    if not callable(target):
        raise Misconfigured(f"agent {path!r} is a {type(target).__name__}, which can't be called.")
    window_of(target)
    return target  # type: ignore[no-any-return]


def windowed(turns: int) -> Callable[[F], F]:
    """Declares, of an agent that is a function, that it needs the last ``turns`` turns only."""

    def declare(agent: F) -> F:
        agent.window = turns  # type: ignore[attr-defined]
        return agent

    return declare


def window_of(agent: Agent) -> int | None:
    """How many of the last turns the agent needs; None: all. Misconfigured if what it declares is no such number."""
    window = getattr(agent, "window", None)
    if window is None or (type(window) is int and window >= 1):
        return window
    raise Misconfigured(f"an agent's window is a number of turns, 1 or more, not {window!r}.")


async def speak(
    agent: Agent, conversation: Conversation, say: Callable[[str], None], threads: Executor | None = None
) -> None:
    """Run the agent and give its reply to ``say``, in the pieces in which it comes. AgentFailed if one isn't text;
    what ``say`` raises ends the agent.

    A synchronous agent runs in one of ``threads``, one step at a time: cancelling waits for the step to end.
    """
    target = agent if isinstance(agent, FunctionType) or inspect.isroutine(agent) else type(agent).__call__
    if _runs_in_the_loop(getattr(target, "__func__", target)):
        result = agent(conversation)
    else:
        result = await _in_thread(threads, agent, conversation)
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, str):
        say(result)
    elif isinstance(result, AsyncIterator):
        try:
            async for piece in result:
                say(_text(piece))
        finally:
            # Its own finally blocks belong to this turn: they must have run before the next one begins (I4).
            # One that is still running is being collected together with its event loop.
            if not getattr(result, "ag_running", False) and (aclose := getattr(result, "aclose", None)) is not None:
                await aclose()
    elif isinstance(result, Iterator):
        while (piece := await _in_thread(threads, next, result, _END)) is not _END:
            say(_text(piece))
    else:
        raise _no_text(result)


_END = object()


@lru_cache(maxsize=16)
def _runs_in_the_loop(function: Any) -> bool:
    """Whether calling it only makes a coroutine or an asynchronous generator. Asked at every turn, of one agent."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


async def _in_thread(threads: Executor | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a thread. A cancelled caller still waits for it: a thread can't be stopped, and the next turn of the
    session must not begin beside it (I4). Whoever cancels gives up after a while of its own choice."""

    def call() -> Any:
        try:
            return function(*arguments)
        except StopIteration as error:
            # A future can't carry it: the caller would wait for ever.
            raise RuntimeError("the agent raised StopIteration") from error

    running = asyncio.get_running_loop().run_in_executor(threads, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise


def _text(piece: Any) -> str:
    if not isinstance(piece, str):
        raise _no_text(piece)
    return piece


def _no_text(piece: Any) -> AgentFailed:
    return AgentFailed(f"An agent must yield or return text (str), not {type(piece).__name__}.")
