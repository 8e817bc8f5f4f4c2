"""One turn of a sealed conversation: checked, run, sealed, and accepted by the replay guard where there is one.

The agent is the one of ``POST /chat``, run by the same code within the same limits; but there is no session, no lease
and no mailbox. Any host runs any turn, and several hosts may run turns from one state at the same time. Without a guard
each of them is answered: their client has as many conversations then. With one, the first to be accepted is the turn,
and the others come to nothing.

A turn runs in a task that the host keeps: a client that leaves doesn't stop it, as elsewhere, and with a guard its
repeat gets the answer. Only reading the guard comes before, so that what is refused costs no run of the agent.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from actors.agent import Conversation, window_of
from actors.attempt import run_attempt
from actors.errors import KeyMismatch, Outcome, PreconditionFailed, RehydraError
from actors.model import Sealed, SessionKey, Turn, TurnRequest
from actors.patience import until_known
from actors.ports import Done, Requester, Residence
from actors.ports import Final as FinalAnswer
from actors.sealed import Opened, Sealer, off_loop
from actors.sealed_errors import HostFull, StateSuperseded
from actors.service import Service
from actors.stores.base import Mismatch, Ok
from actors.stores.guard import GuardAnswer, Mark, Repeated, Superseded

log = logging.getLogger("rehydra.sealed")

FIRST_ATTEMPT: Final = 1
"""Nobody counts attempts at a sealed turn: there is nobody who could remember them."""


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A message and what its client brought; ``opened`` None: nothing, so a conversation begins."""

    request: TurnRequest
    opened: Opened | None

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self.opened.turns if self.opened is not None else ()

    @property
    def residence(self) -> Residence:
        return Residence.REHYDRATED if self.turns else Residence.NEW

    @property
    def mark(self) -> Mark:
        request = self.request
        state_id = self.opened.sealed.state_id if self.opened is not None else ""
        return Mark(request.key, len(self.turns), state_id, request.turn_id, request.fingerprint)


class _Running:
    """A turn that runs, and the one request that follows it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._news = asyncio.Event()
        self._end: FinalAnswer | None = None

    def say(self, piece: str) -> None:
        self._pieces.append(piece)
        self._news.set()

    def finish(self, end: FinalAnswer) -> None:
        self._end = end
        self._news.set()

    async def follow(self, requester: Requester) -> FinalAnswer:
        """How it ends; what it says on the way is told to a requester that wants it."""
        while True:
            await self._news.wait()
            self._news.clear()
            text, self._pieces = "".join(self._pieces), []
            if requester.stream and not isinstance(self._end, RehydraError):
                await requester.delta(text)
            if self._end is not None and not self._pieces:
                return self._end


class SealedTurns:
    """The sealed turns of one host."""

    def __init__(self, service: Service, sealer: Sealer) -> None:
        self._service = service
        self._sealer = sealer
        self._session = service.settings.session
        self._running_max = service.settings.sealed.running_max
        self._running = 0

    async def open(self, text: str) -> Opened:
        """What the client brought. The errors of :mod:`actors.sealed_errors`."""
        now_ms = self._service.host.now_ms()
        if off_loop(text):
            return await asyncio.to_thread(self._sealer.open, text, now_ms)
        return self._sealer.open(text, now_ms)

    async def answer(self, asked: SealedRequest, requester: Requester) -> FinalAnswer:
        """Run the turn; ``requester`` is told what it says. Raises, or ends with, an error of the tree."""
        if (known := self._recorded(asked)) is not None:
            return known
        request = asked.request
        if request.if_match is not None and request.if_match != len(asked.turns):
            raise PreconditionFailed(turn_seq=len(asked.turns))
        if (guard := self._service.guard) is not None:
            mark = asked.mark
            looked = await until_known(lambda: guard.look(mark), self._session.claim_patience_s)
            if (ended := await self._ended(looked, asked)) is not None:
                return ended
        # Here and not before the guard was asked: no await between the look at the limit and what it limits.
        if self._running >= self._running_max:
            raise HostFull(f"It runs {self._running} sealed turns.", retry_after_s=1)
        running = _Running()
        self._running += 1
        self._service.host.spawn(self._run(asked, running))
        if requester.stream:
            await requester.turn(request.turn_id, 0, asked.residence)
        return await running.follow(requester)

    def weakened(self, error: RehydraError) -> RehydraError:
        """With a guard, another attempt under this turn id may be recorded there, or about to be (I10)."""
        if self._service.guard is not None:
            error.outcome = Outcome.UNKNOWN
        return error

    def _recorded(self, asked: SealedRequest) -> Done | None:
        """The turn that the state has under this id: its client has the answer already, and is told it again."""
        if asked.opened is None or (turn := asked.opened.find(asked.request.turn_id)) is None:
            return None
        if turn.fingerprint != asked.request.fingerprint:
            raise KeyMismatch
        return Done(turn, True, asked.residence, asked.opened.sealed)

    async def _run(self, asked: SealedRequest, running: _Running) -> None:
        end: FinalAnswer = RehydraError("The host ended the turn without an answer; its log says why.")
        try:
            end = await self._attempt(asked, running)
        except RehydraError as problem:
            end = problem
        finally:
            self._running -= 1
            running.finish(end)
            if log.isEnabledFor(logging.DEBUG):
                told = "done" if isinstance(end, Done) else end.code
                where = {"session": str(asked.request.key), "turn_id": asked.request.turn_id}
                log.debug("sealed turn", extra=where | {"end": told})

    async def _attempt(self, asked: SealedRequest, running: _Running) -> Done:
        host, limits, request = self._service.host, self._service.settings.agent, asked.request
        before = asked.opened.state if asked.opened is not None else b""
        window = window_of(host.agent)
        past = asked.turns if window is None else asked.turns[-window:]
        conversation = Conversation(
            request.key, past, before, request.message, request.metadata, request.turn_id, FIRST_ATTEMPT
        )
        reply, state = await run_attempt(host.agent, conversation, running.say, limits, host.threads)
        turn = Turn(
            len(asked.turns) + 1, request.turn_id, request.fingerprint, request.message, reply, request.metadata,
            0, host.now_ms(),
        )  # fmt: skip
        made = await self._seal(request.key, (*asked.turns, turn), before if state is None else state, asked)
        done = Done(turn, False, asked.residence, made)
        if (guard := self._service.guard) is None:
            return done
        mark = asked.mark
        answer = await until_known(lambda: guard.accept(mark, made), self._session.commit_patience_s)
        if answer == Repeated(made.text):
            # Our own, applied at an earlier try whose answer was lost.
            return done
        return await self._ended(answer, asked) or done

    async def _seal(self, key: SessionKey, turns: tuple[Turn, ...], state: bytes, asked: SealedRequest) -> Sealed:
        now_ms = self._service.host.now_ms()
        large = len(turns[-1].reply) + len(turns[-1].message) + len(state)
        if off_loop(asked.opened.sealed.text if asked.opened is not None else "", large):
            return await asyncio.to_thread(self._sealer.seal, key.session_id, turns, state, now_ms)
        return self._sealer.seal(key.session_id, turns, state, now_ms)

    async def _ended(self, answer: GuardAnswer, asked: SealedRequest) -> Done | None:
        """What the guard's answer makes of the request; None: it may go on."""
        match answer:
            case Ok():
                return None
            case Mismatch():
                raise KeyMismatch
            case Superseded(turn_seq):
                another = "another" if turn_seq == len(asked.turns) else "the newest"
                detail = f"It has {len(asked.turns)} turns; {another} with {turn_seq} was accepted."
                raise StateSuperseded(detail, turn_seq=turn_seq)
            case Repeated(text):
                if text is None:
                    raise StateSuperseded("This very turn made it; its answer isn't kept (sealed.guard_answer_s).")
                opened = await self.open(text)
                residence = Residence.REHYDRATED if len(opened.turns) > 1 else Residence.NEW
                return Done(opened.turns[-1], True, residence, opened.sealed)
