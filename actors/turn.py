"""One turn under a lease: from the head of the waiting line to the store's answer.

Nothing here changes what the session has in memory or who waits for it: a run ends in one of six ways, and the
activation acts on it without an await in between.

Where an agent has a window, a turn id that memory doesn't know may be that of an older turn. It isn't asked for before
the turn runs, which would cost every turn a second call: whatever ends the run asks anyway. The commit is refused with
the recorded turn (I3), and so is a refusal (I10); what the agent said then counts for nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from actors.agent import Conversation
from actors.attempt import run_attempt
from actors.errors import (
    KeyMismatch,
    Outcome,
    PoisonTurn,
    PreconditionFailed,
    RehydraError,
    SessionFull,
    StoreFull,
    StoreUnavailable,
)
from actors.home import Home
from actors.model import SessionKey, Turn, TurnRequest
from actors.patience import until_known
from actors.standing import Standing
from actors.stores.base import (
    Ahead,
    CheckAnswer,
    Deleted,
    Fenced,
    Mismatch,
    Ok,
    Regressed,
    Replayed,
)
from actors.ticket import Ticket
from actors.transcript import Transcript

log = logging.getLogger("rehydra.session")

SUSPECT_STRIKES: Final = 2
"""From this takeover on, a turn that ran when a host stopped waits ``suspect_pause_s`` before it runs again."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The turn is durable."""

    turn: Turn
    state: bytes | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The turn was in the log before this run, older than what is in memory: what is recorded is the answer."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was committed, and this host may say so: the store has confirmed the lease, or the outcome is unknown."""

    problem: RehydraError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The commit may be in the log, or get there yet. Only a new claim can tell."""

    problem: StoreUnavailable


@dataclass(frozen=True, slots=True)
class Contradicted:
    """The lease stands, but the log isn't what is in memory: start over from the log."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease, the log, or the session is gone."""

    answer: Fenced | Regressed | Deleted


CameTo = Committed | Recorded | Refused | Unknown | Contradicted | Lost


class TurnRunner:
    """Runs one turn of an activation; made for it, because sessions that idle in memory need none."""

    __slots__ = ("_home", "_key", "_standing", "_transcript")

    def __init__(self, home: Home, key: SessionKey, standing: Standing, transcript: Transcript) -> None:
        self._home = home
        self._key = key
        self._standing = standing
        self._transcript = transcript

    async def run(self, ticket: Ticket) -> CameTo:
        """Have the agent answer the ticket's message, and commit the turn."""
        request, turns = ticket.request, self._transcript
        if request.if_match is not None and request.if_match != turns.turn_seq:
            return await self._refuse(request, PreconditionFailed(turn_seq=turns.turn_seq))
        if (size_bytes := turns.log_bytes) >= self._home.settings.session.log_bytes_max:
            # It is loaded at once, whole or its window: what grew for ever could one day not be loaded any more.
            return await self._refuse(request, SessionFull(f"{len(turns)} turns have {size_bytes} bytes."))
        if self._standing.takeovers and (end := await self._look_out(request)) is not None:
            return end
        home = self._home
        ticket.begin(self._standing.lease.epoch)
        conversation = Conversation(
            self._key, turns.past(), turns.state, request.message, request.metadata, request.turn_id,
            self._standing.takeovers + ticket.restarts + 1,
        )  # fmt: skip
        try:
            reply, state = await run_attempt(home.agent, conversation, ticket.say, home.settings.agent, home.threads)
        except RehydraError as problem:
            return await self._refuse(request, problem)
        # The deadline ended with the agent: from here on the turn is on its way into the log, and nothing but the
        # store's answer decides about it.
        return await self._commit(request, reply, state)

    async def _look_out(self, request: TurnRequest) -> CameTo | None:
        """A host has stopped since the last commit: it may have been this turn that killed it.

        A turn that ran when so many hosts stopped is refused, one that ran when some of them did is delayed. Otherwise
        the store is told that it runs now, which costs a call only here: the first host's death is nobody's fault yet,
        and isn't counted. Nor is that of a host in which the turn only waited. None: run it.
        """
        limits, turn_id = self._home.settings.session, request.turn_id
        takeovers, strikes = self._standing.takeovers, self._standing.suspects.count(turn_id)
        if strikes >= max(1, limits.takeovers_max - 1) and takeovers >= limits.takeovers_max:
            log.error("poison turn", extra={"session": str(self._key), "turn_id": turn_id, "takeovers": takeovers})
            return await self._refuse(request, PoisonTurn(f"{takeovers} hosts stopped while they ran this session."))
        if strikes and takeovers >= SUSPECT_STRIKES:
            # The edge repeats at once: without a pause one turn could take every host before the first is back.
            await asyncio.sleep(limits.suspect_pause_s)
        try:
            answer = await self._confirm(running=turn_id)
        except StoreFull as full:
            return await self._refuse(request, full)
        except StoreUnavailable as error:
            return Refused(StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))
        return None if isinstance(answer, Ok) else self._instead(request, answer)

    async def _commit(self, request: TurnRequest, reply: str, state: bytes | None) -> CameTo:
        home, lease, transcript = self._home, self._standing.lease, self._transcript
        turn = Turn(
            transcript.turn_seq + 1, request.turn_id, request.fingerprint, request.message, reply, request.metadata,
            lease.epoch, home.now_ms(),
        )  # fmt: skip
        previous = transcript.last_turn_id
        try:
            answer = await until_known(
                lambda: home.store.commit(self._key, lease, previous, turn, state),
                home.settings.session.commit_patience_s,
            )
        except StoreFull as full:
            return await self._refuse(request, full)
        except StoreUnavailable as error:
            return Unknown(StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))
        match answer:
            case Ok():
                return self._committed(turn, state)
            case Replayed(recorded) if recorded.turn_seq == turn.turn_seq:
                # Our own commit, applied at an earlier try whose answer was lost.
                return self._committed(recorded, state)
            case Mismatch() if transcript.dropped:
                return Refused(KeyMismatch(outcome=Outcome.NOT_DONE))
            case Mismatch() | Ahead():
                return Contradicted()
            case _:
                return self._instead(request, answer)

    def _committed(self, turn: Turn, state: bytes | None) -> Committed:
        self._standing.takeovers = 0
        return Committed(turn, state)

    async def _refuse(self, request: TurnRequest, problem: RehydraError) -> CameTo:
        """Answer with a problem, once the store has confirmed that this host may still speak for the session, and that
        the turn is not in its log.

        Without that, a host which was frozen and thaws could call a turn "not done" that its successor has done.
        """
        try:
            answer = await self._confirm(refused=request.turn_id)
        except StoreUnavailable:
            problem.outcome = Outcome.UNKNOWN
            return Refused(problem)
        return Refused(problem) if isinstance(answer, Ok) else self._instead(request, answer)

    def _instead(self, request: TurnRequest, answer: Fenced | Regressed | Deleted | Replayed) -> CameTo:
        """What the store's answer makes of the turn, where that is another end than the run's own."""
        if not isinstance(answer, Replayed):
            return Lost(answer)
        if answer.turn.turn_seq > self._transcript.dropped:
            return Contradicted()
        if answer.turn.fingerprint != request.fingerprint:
            return Refused(KeyMismatch(outcome=Outcome.NOT_DONE))
        return Recorded(answer.turn)

    async def _confirm(self, running: str = "", refused: str = "") -> CheckAnswer:
        return await self._standing.confirm(self._transcript.turn_seq, self._transcript.last_turn_id, running, refused)
