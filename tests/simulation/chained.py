"""The simulation's agent: each reply says what it was computed from, so that the checker can prove it.

A reply is ``~RUN~RUN~...|COUNT:DIGEST:STATE:CHAIN``: the number of the agent's run in every piece, then how many turns
it was given, a digest over them, how many turns its own durable state has counted, and a digest that the state carries
over all of them: an agent with a window has no other memory of most. The message says how to behave.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from actors.agent import Conversation
from actors.model import Turn
from tests.simulation.history import RunEnded, RunStarted

if TYPE_CHECKING:
    from tests.simulation.process import SimProcess


def digest_of(turns: Iterable[Turn], before: str = "") -> str:
    """Of ids and replies, in order, after what has the digest ``before``."""
    digest = hashlib.blake2b(before.encode(), digest_size=6)
    for turn in turns:
        digest.update(f"{turn.turn_seq}={turn.turn_id}={turn.reply};".encode())
    return digest.hexdigest()


def carried_on(chain: str, turn: Turn) -> str:
    """The digest that the state carries, ``turn`` being the last one since."""
    return digest_of((turn,), chain)


def runs_named_in(text: str) -> set[int]:
    """The runs whose pieces are in ``text``."""
    return {int(part) for part in text.partition("|")[0].split("~") if part}


class Chained:
    """One per process. Behaviours: ``quick``, ``slow:S``, ``block:S``, ``raise``, ``late``, ``flaky:S``, ``first:S``
    (its first attempt fails late, its others are quick), ``once`` (only its first attempt succeeds), ``poison``."""

    def __init__(self, process: SimProcess, rng: random.Random) -> None:
        self._process = process
        self._rng = rng
        self.window = process.cluster.plan.window

    async def __call__(self, conversation: Conversation) -> AsyncIterator[str]:
        history = self._process.cluster.history
        run = self._process.cluster.loop.number()
        history.add(
            RunStarted(
                run,
                self._process.name,
                conversation.key,
                conversation.turn_id,
                conversation.attempt,
                len(conversation.turns),
                digest_of(conversation.turns),
            )  # fmt: skip
        )
        how = "cut"
        try:
            async for piece in self._work(run, conversation):
                yield piece
            how = "done"
        except ArithmeticError:
            how = "raised"
            raise
        finally:
            history.add(RunEnded(run, how))

    async def _work(self, run: int, conversation: Conversation) -> AsyncIterator[str]:
        how = conversation.message.partition(" ")[0]
        pieces = 1 + how.count("+")
        behaviour, _, argument = how.rstrip("+").partition(":")
        pause_s = self._rng.uniform(0.0, 0.02)
        match behaviour:
            case "slow" | "flaky" if argument:
                pause_s = float(argument) / pieces
            case "first" if conversation.attempt == 1:
                pause_s = float(argument) / pieces
            case "block":
                self._process.stall(float(argument))
            case "late":
                pause_s = 60.0
            case "edge":
                # As near to the deadline as it can be.
                pause_s = (self._process.cluster.settings.agent.deadline_s - 0.002) / pieces
            case "poison":
                self._process.cluster.loop.world.call(0.0, self._process.crash)
        for number in range(pieces):
            await asyncio.sleep(pause_s)
            if behaviour == "raise" or (behaviour == "flaky" and self._rng.random() < 0.5 / pieces):
                raise ArithmeticError("as the message says")
            if behaviour == "first" and conversation.attempt == 1 and number == pieces - 1:
                raise ArithmeticError("as the message says")
            if behaviour == "once" and conversation.attempt > 1:
                raise ArithmeticError("as the message says")
            if number < pieces - 1:
                yield f"~{run}"
        yield f"~{run}|{self._told(conversation)}"

    def _told(self, conversation: Conversation) -> str:
        turns, state = conversation.turns, conversation.state
        state["count"] = state.get("count", 0) + 1
        state["chain"] = carried_on(state["chain"], turns[-1]) if turns else ""
        return f"{len(turns)}:{digest_of(turns)}:{state['count']}:{state['chain']}"
