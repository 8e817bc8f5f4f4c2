"""Histories of a deployment that does everything right, from a seed: what the checker must never accuse.

Sessions go on side by side; in each, messages overlap, are refused, stay unanswered, are committed after their client
has gone, and are sent again under their key while the first attempt still runs, or long after; reads overlap them; and
the session moves from one host to another. Which of it happens next is drawn. The lines are those that ``history``
describes, one step of time apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest.chain import Chain
from loadtest.history import digest_of

Line = dict[str, Any]
STEP_S = 0.001


@dataclass(slots=True, eq=False)
class Attempt:
    """One sending of a message. ``turn``: what it will be answered with, once that is in the log."""

    op: int
    key: str
    message: str
    turn: list[Any] | None = None
    host: str = ""
    replayed: bool = False


@dataclass(slots=True, eq=False)
class Reading:
    """One read. ``seen``: the log at the moment when it was looked at."""

    op: int
    seen: list[list[Any]] | None = None


@dataclass(slots=True)
class Talk:
    """One session: what is true of it, and who waits for what."""

    name: str
    log: list[list[Any]] = field(default_factory=list)
    chain: Chain = field(default_factory=Chain)
    epoch: int = 1_000
    host: int = 0
    keyed: dict[str, str] = field(default_factory=dict)
    """Every key that was sent -> its message."""
    done: dict[str, Attempt] = field(default_factory=dict)
    """By key: the attempt that was committed."""
    open: list[Attempt] = field(default_factory=list)
    orphans: list[Attempt] = field(default_factory=list)
    """Their clients have gone; they may be committed yet."""
    reading: list[Reading] = field(default_factory=list)


class LegalHistory:
    """``steps``: how often something happens in each session. ``chained``: replies as the agent ``chained`` makes them,
    else empty ones. ``reads``: how often a session is read, against 10 messages."""

    def __init__(
        self, seed: int, *, sessions: int = 3, steps: int = 120, chained: bool = True, reads: float = 1.0
    ) -> None:
        self._random = random.Random(seed)
        self._talks = [Talk(f"s{number}") for number in range(sessions)]
        self._steps = steps
        self._chained = chained
        self._op = 0
        self._lines: list[Line] = []
        self._at = 0.0
        self._weights = {
            self._send: 10.0,
            self._send_again: 3.0,
            self._commit: 14.0,
            self._answer: 14.0,
            self._give_up: 3.0,
            self._begin_read: reads,
            self._look: 2.0 * reads,
            self._end_read: 2.0 * reads,
            self._move: 2.0,
        }

    def lines(self) -> Iterator[Line]:
        """All of it, once: the start, what happens, and a final read of every session."""
        self._line({"is": "start", "agent": "chained" if self._chained else "another"})
        acts: list[Callable[[Talk], None]] = list(self._weights)
        weights = list(self._weights.values())
        for _ in range(self._steps):
            for act, talk in zip(self._random.choices(acts, weights, k=len(self._talks)), self._talks, strict=True):
                act(talk)
            yield from self._taken()
        for talk in self._talks:
            self._end(talk)
            yield from self._taken()

    def _taken(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines

    def _line(self, line: Line) -> None:
        self._at += STEP_S
        line["at"] = round(self._at, 6)
        self._lines.append(line)

    def _invoke(self, talk: Talk, **more: Any) -> int:
        self._op += 1
        self._line({"is": "invoke", "op": self._op, "session": talk.name, **more})
        return self._op

    # --- messages ------------------------------------------------------------------------------------------------

    def _send(self, talk: Talk) -> None:
        number = self._op + 1
        # Some people say the same thing again, and mean it.
        message = f"{talk.name} says {number}" if self._random.random() < 0.9 else "yes"
        key = f"key-{number}" if self._random.random() < 0.6 else ""
        if key:
            talk.keyed[key] = message
        self._attempt(talk, key, message)

    def _send_again(self, talk: Talk) -> None:
        if talk.keyed:
            key = self._random.choice(list(talk.keyed)[-8:])
            self._attempt(talk, key, talk.keyed[key])

    def _attempt(self, talk: Talk, key: str, message: str) -> None:
        op = self._invoke(talk, do="turn", message=digest_of(message), **({"key": key} if key else {}))
        talk.open.append(Attempt(op, key, message))

    def _commit(self, talk: Talk) -> None:
        """Of one that runs, or whose client has gone: append it, or find it in the log."""
        candidates = [attempt for attempt in [*talk.open, *talk.orphans] if attempt.turn is None]
        if not candidates:
            return
        attempt = self._random.choice(candidates)
        if (done := talk.done.get(attempt.key)) is not None:
            # It was waited for beside the attempt that ran, or is told again from the log, by whoever holds it now.
            attempt.turn, attempt.replayed = done.turn, done not in talk.open or self._random.random() < 0.5
            attempt.host = self._host(talk) if attempt.replayed else done.host
            return
        reply = talk.chain.reply_to(attempt.message) if self._chained else ""
        talk.chain.replied(reply)
        turn_id = f"k:{attempt.key}" if attempt.key else f"r:{attempt.op}"
        attempt.turn = [len(talk.log) + 1, turn_id, attempt.message, reply, talk.epoch]
        attempt.host = self._host(talk)
        talk.log.append(attempt.turn)
        if attempt.key:
            talk.done[attempt.key] = attempt

    def _answer(self, talk: Talk) -> None:
        candidates = [attempt for attempt in talk.open if attempt.turn is not None]
        if candidates:
            self._acknowledge(talk, self._random.choice(candidates))

    def _acknowledge(self, talk: Talk, attempt: Attempt) -> None:
        talk.open.remove(attempt)
        turn_seq, turn_id, _, reply, epoch = attempt.turn or []
        line = {"is": "ok", "op": attempt.op, "turn_id": turn_id, "turn_seq": turn_seq, "reply": digest_of(reply)}
        line |= {"replayed": attempt.replayed, "host": attempt.host, "epoch": 0}
        if self._random.random() < 0.5:
            line |= {"epoch": epoch, "streamed": digest_of(reply)}
        self._line(line)

    def _give_up(self, talk: Talk) -> None:
        """A refusal, if it isn't done; or the answer is lost, whatever became of it."""
        if not talk.open:
            return
        attempt = self._random.choice(talk.open)
        talk.open.remove(attempt)
        if attempt.turn is None and self._random.random() < 0.5:
            self._line({"is": "fail", "op": attempt.op, "status": 429, "why": "full"})
            return
        self._line({"is": "info", "op": attempt.op, "status": 0, "why": "no answer"})
        if attempt.turn is None:
            talk.orphans.append(attempt)

    # --- reads, hosts, the end -----------------------------------------------------------------------------------

    def _begin_read(self, talk: Talk) -> None:
        talk.reading.append(Reading(self._invoke(talk, do="read")))

    def _look(self, talk: Talk) -> None:
        if unseen := [reading for reading in talk.reading if reading.seen is None]:
            self._random.choice(unseen).seen = [list(turn) for turn in talk.log]

    def _end_read(self, talk: Talk) -> None:
        if seen := [reading for reading in talk.reading if reading.seen is not None]:
            reading = self._random.choice(seen)
            talk.reading.remove(reading)
            self._line({"is": "ok", "op": reading.op, "turns": reading.seen})

    def _move(self, talk: Talk) -> None:
        """Another host takes the lease; or the same one claims it again."""
        talk.epoch += 1
        talk.host += self._random.random() < 0.8

    def _host(self, talk: Talk) -> str:
        return f"host-{talk.host}"

    def _end(self, talk: Talk) -> None:
        """Whoever can be answered is, as a rule; then everything is quiet, and the log is read."""
        for attempt in list(talk.open):
            if attempt.turn is not None and self._random.random() < 0.8:
                self._acknowledge(talk, attempt)
        talk.reading.clear()
        self._begin_read(talk)
        self._look(talk)
        self._end_read(talk)
