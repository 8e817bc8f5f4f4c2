"""Planted bugs of sessions that are only partly in memory: which turns those are, and what an older one's id does."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import CHECK, CLAIM, MEMORY, PACKED, SESSION, TRANSCRIPT, TURN, one

WINDOWS: Final = (
    one(
        "memory: a claim loads the first turns, not the last",
        MEMORY,
        "session.log[-(window or 0) :]",
        "session.log[: window or None]",
    ),
    one(
        "lua: a claim loads the turns before the last ones too",
        CLAIM,
        "local first = window > 0 and math.max(0, turn_seq - window) or 0",
        "local first = 0",
    ),
    one(
        "memory: a check doesn't know the turn that is refused",
        MEMORY,
        "        if known := session.ids.get(running or refused):",
        "        if known := session.ids.get(running):",
    ),
    one("lua: a check doesn't know any turn", CHECK, "if known then", "if false then"),
    one(
        "a window grows with each turn",
        TRANSCRIPT,
        "        if self._window is not None and len(self) > self._window:\n",
        "        if False:\n",
    ),
    one(
        "the turns in memory are taken for all there are",
        PACKED,
        "        return self.dropped + len(self)\n",
        "        return len(self)\n",
    ),
    one(
        "whoever refuses a turn doesn't ask whether it is an old one",
        TURN,
        "            answer = await self._confirm(refused=request.turn_id)\n",
        "            answer = await self._confirm()\n",
    ),
    one(
        "what isn't in memory is called not done",
        TRANSCRIPT,
        "        return Outcome.UNKNOWN if self.dropped else Outcome.NOT_DONE\n",
        "        return Outcome.NOT_DONE\n",
    ),
    one(
        "an old turn is no answer to its repeat",
        TURN,
        "        return Recorded(answer.turn)\n",
        "        return Contradicted()\n",
    ),
    one(
        "an old turn answers whatever message comes under its id",
        TURN,
        "        if answer.turn.fingerprint != request.fingerprint:\n",
        "        if False:\n",
    ),
    one(
        "an old turn's reply is told after what its repeat has said",
        SESSION,
        "                ticket.void(self)  # What",
        "                # What",
    ),
)
