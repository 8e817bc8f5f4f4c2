"""The session actor: one activation of one session on this host.

What runs at the same time: of one activation, at most one task (``_work``), which exists only while there is work; it
claims, runs turns one after the other, commits each, and ends. Requests call ``submit`` from their own tasks and wait
on tickets. Between "the mailbox is empty" and "the task is gone", or "the activation is gone from the host's map",
there is no await (I5). The task is never cancelled by a client (I4, I10): only the agent's attempt is, by its deadline.

What this module deliberately does not do: decide where a session should run (``placement``), who may write (the
store), or how an answer looks (``ports.Requester``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from pydantic_core import to_json

from actors.agent import Conversation
from actors.attempt import run_attempt
from actors.errors import (
    KeyMismatch,
    MailboxFull,
    Outcome,
    PoisonTurn,
    PreconditionFailed,
    RehydraError,
    SessionDeleted,
    StateRegressed,
    StoreFull,
    StoreUnavailable,
)
from actors.home import Home
from actors.lifecycle import Event, Phase, Reason, after
from actors.mailbox import Mailbox
from actors.model import HostRef, SessionKey, Turn, TurnRequest
from actors.patience import until_known
from actors.ports import Done, Residence
from actors.standing import Standing
from actors.stores.base import (
    Ahead,
    CommitAnswer,
    Deleted,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Ok,
    Regressed,
    Replayed,
)
from actors.ticket import Elsewhere, Ticket

log = logging.getLogger("rehydra.session")

TURN_OVERHEAD_BYTES = 400
"""What a turn in memory costs beside its text, roughly: the unit of ``resident_bytes_max`` is an estimate."""

BATCH_TRIES = 4
"""How often a batch is sent again because messages arrived while it was on its way."""


class Activation:
    """One session in memory, from claim to GONE."""

    __slots__ = (
        "_home", "_index", "_poisoned", "_standing", "_tombstone", "_unanswered_fresh", "batch_until", "key",
        "last_used", "mailbox", "phase", "reason", "running", "size_bytes", "state", "takeovers", "task", "turns",
    )  # fmt: skip

    def __init__(self, home: Home, key: SessionKey) -> None:
        self._home = home
        self.key = key
        self.phase = Phase.ACTIVATING
        self.reason: Reason | None = None
        self.mailbox: Mailbox[Ticket] = Mailbox(home.settings.session.mailbox_max)
        self.running: Ticket | None = None
        self.task: asyncio.Task[None] | None = None
        self.turns: list[Turn] = []
        self.state = b""
        self.takeovers = 0
        self.size_bytes = 0
        self.last_used = 0.0
        self.batch_until = 0.0
        """Until when a claim waits for the lease of the host that handed a batch over; 0 = it doesn't."""
        self._standing: Standing | None = None
        self._index: dict[str, int] = {}
        self._poisoned: str | None = None
        self._unanswered_fresh = True
        self._tombstone = False
        """The session was deleted through this host."""

    # --- arrivals: synchronous, called from any task ---------------------------------------------------------------

    def submit(self, request: TurnRequest) -> Ticket | Done | RehydraError:
        """Queue the request, attach it to its turn, or answer it at once: known turn id, mismatch, full."""
        assert self.phase in (Phase.ACTIVATING, Phase.READY), self.phase
        if self._tombstone:
            return SessionDeleted()
        if (known := self._known(request)) is not None:
            return known
        ticket = self._pending(request.turn_id)
        if ticket is not None:
            if ticket.request.fingerprint != request.fingerprint:
                return KeyMismatch(outcome=Outcome.NOT_DONE)
            if ticket.attached >= self._home.settings.session.attachments_max:
                return MailboxFull("Too many requests wait for this turn.", outcome=Outcome.UNKNOWN, retry_after_s=1)
            return ticket
        ticket = Ticket(request, self)
        if not self.mailbox.offer(request.turn_id, ticket):
            return MailboxFull(f"{len(self.mailbox)} messages of this session are waiting already.", retry_after_s=1)
        self.wake()
        return ticket

    def adopt(self, tickets: Iterable[Ticket]) -> None:
        """Tickets of an earlier activation of this host, before all others."""
        entries = [(ticket.request.turn_id, ticket) for ticket in tickets]
        for _, ticket in entries:
            ticket.void(self)
        self.mailbox.put_first(entries)
        self.wake()

    def accept_batch(self, batch: Iterable[TurnRequest], wait_until: float) -> None:
        """Turns that another host hands over, before this host's own arrivals. Its release is still to come."""
        fresh = [
            (request.turn_id, Ticket(request, self))
            for request in batch
            if request.turn_id not in self._index and not self._runs(request.turn_id)
        ]
        self.mailbox.put_first(fresh)
        if self.phase is Phase.ACTIVATING:
            self.batch_until = wait_until
        self.wake()

    def wake(self) -> None:
        """There may be work: make sure that the task exists. No await between here and the mailbox's change."""
        if self.task is None and self.phase in (Phase.ACTIVATING, Phase.READY):
            self.task = self._home.spawn(self._work())

    @property
    def idle(self) -> bool:
        return self.phase is Phase.READY and self.task is None and not len(self.mailbox)

    def passivate(self, reason: Reason) -> bool:
        """Leave the map if idle. The caller then awaits :meth:`release`. Never awaits: I5."""
        if not self.idle:
            return False
        self._move(Event.LEAVE)
        self.reason = reason
        self._home.forget(self, reason)
        return True

    def _known(self, request: TurnRequest) -> Done | RehydraError | None:
        turn_seq = self._index.get(request.turn_id)
        if turn_seq is None:
            return None
        turn = self.turns[turn_seq - 1]
        if turn.fingerprint != request.fingerprint:
            return KeyMismatch(f"It was used for turn {turn_seq} of this session.", turn_seq=turn_seq)
        return Done(turn, replayed=True, residence=self._residence())

    def _pending(self, turn_id: str) -> Ticket | None:
        return self.running if self._runs(turn_id) else self.mailbox.find(turn_id)

    def _runs(self, turn_id: str) -> bool:
        return self.running is not None and self.running.request.turn_id == turn_id

    def _residence(self) -> Residence:
        if not self._unanswered_fresh:
            return Residence.RESIDENT
        return Residence.REHYDRATED if self.turns else Residence.NEW

    # --- the task ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            if self.phase is Phase.ACTIVATING and not await self._activate():
                return
            while self.phase is Phase.READY:
                ticket = self.mailbox.take()
                if ticket is None:
                    break
                self.running = ticket
                await self._run(ticket)
                self.running = None
                if self.phase is Phase.READY and len(self.mailbox):
                    await self._hand_off_if_moved()
        except Exception:
            log.exception("activation failed", extra={"session": str(self.key), "phase": self.phase})
            self.running, failed = None, self.running
            self._drop(
                Reason.FAILED, RehydraError("This session's actor failed; its committed turns are safe."), failed
            )
        # No await from the mailbox's "empty" to here: an arrival either was taken or starts a new task (I5).
        self.task = None
        if self.phase is Phase.READY and (self._home.leaving() or self._home.must_move(self.key) is not None):
            self._home.let_go(self)

    async def _activate(self) -> bool:
        """Claim and load. False if the activation has ended instead; its tickets are then answered or passed on."""
        home = self._home
        patience_s = home.settings.session.claim_patience_s
        token, over = home.new_token(), None
        clock = asyncio.get_running_loop().time
        pause_s = 0.005
        while True:
            try:
                # Whoever holds a lease has beaten before it claimed: a host that nobody has heard of seems to be gone,
                # and is robbed of what it claims.
                await self._wait_trusted(patience_s)
                lapses = home.placement.lapses
                async with home.claims:
                    answer = await until_known(lambda: home.store.claim(self.key, token, home.ref, over), patience_s)  # noqa: B023
            except StoreUnavailable as error:
                # Nothing ran here, but another host may be running the same turn id: unknown (I10).
                self._drop(Reason.FAILED, StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))
                return False
            if isinstance(answer, Granted):
                self._load(answer, lapses)
                return True
            if isinstance(answer, Deleted):
                self._drop(Reason.DELETED, SessionDeleted())
                return False
            if home.placement.is_dead(answer.holder) and await home.placement.surely_dead(answer.holder):
                over = (answer.holder.incarnation, answer.epoch)
            elif clock() < self.batch_until:
                # The host that handed a batch over has not released yet: it does so as soon as it knows that we
                # have the batch. Its requests must not overtake the batch, so nothing is passed on to it.
                over = None
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.1)
            else:
                self._leave_to(answer)
                return False

    async def _wait_trusted(self, patience_s: float) -> None:
        """Until this host's own beats are accepted; StoreUnavailable if that takes too long."""
        if self._home.placement.trusted():
            return
        try:
            async with asyncio.timeout(patience_s):
                await self._home.placement.wait_trusted()
        except TimeoutError:
            raise StoreUnavailable("This host's beats are not accepted.") from None

    def _load(self, grant: Granted, lapses: int) -> None:
        self._move(Event.GRANTED)
        self._standing = Standing(self._home, self.key, grant.lease, lapses)
        self.turns = list(grant.checkpoint.turns)
        self.state = grant.checkpoint.state
        self.takeovers = grant.takeovers
        self._index = {turn.turn_id: turn.turn_seq for turn in self.turns}
        self._grow(len(self.state) + sum(_size_bytes(turn) for turn in self.turns))

    def _leave_to(self, held: Held) -> None:
        """A live host holds the lease and is never robbed: whoever waits here is passed on to it."""
        tickets = self.mailbox.take_all()
        self._move(Event.DROP)
        self._home.forget(self, Reason.DENIED)
        for ticket in tickets:
            ticket.finish(Elsewhere(held.holder))

    # --- one turn ----------------------------------------------------------------------------------------------

    async def _run(self, ticket: Ticket) -> None:
        request = ticket.request
        if (known := self._known(request)) is not None:
            # Queued before the claim told us the log: a repeat of a turn that an earlier holder committed.
            self._answer(ticket, known)
            return
        if request.if_match is not None and request.if_match != len(self.turns):
            await self._refuse(ticket, PreconditionFailed(turn_seq=len(self.turns)))
            return
        if self._poison(request.turn_id):
            await self._refuse(ticket, PoisonTurn(f"{self.takeovers} hosts stopped while they ran this session."))
            return
        home = self._home
        ticket.begin(self.standing.lease.epoch)
        conversation = Conversation(
            self.key, self.turns, self.state, request.message, request.metadata, request.turn_id, self.takeovers + 1
        )
        try:
            reply, state = await run_attempt(home.agent, conversation, ticket.say, home.settings.agent, home.threads)
        except RehydraError as problem:
            await self._refuse(ticket, problem)
            return
        # The deadline ended with the agent: from here on the turn is on its way into the log, and nothing but the
        # store's answer decides about it.
        await self._commit(ticket, reply, state)

    def _poison(self, turn_id: str) -> bool:
        """Too many hosts died since the last commit: the first turn that comes now is answered, not run. The lease
        doesn't say which turn it was; it is nearly always the one that the edge repeats first."""
        if self.takeovers >= self._home.settings.session.takeovers_max and self._poisoned is None:
            self._poisoned = turn_id
            log.error("poison turn", extra={"session": str(self.key), "turn_id": turn_id, "takeovers": self.takeovers})
        return self._poisoned == turn_id

    async def _commit(self, ticket: Ticket, reply: str, state: bytes | None) -> None:
        home, request, lease = self._home, ticket.request, self.standing.lease
        turn = Turn(
            len(self.turns) + 1, request.turn_id, request.fingerprint, request.message, reply, request.metadata,
            lease.epoch, home.now_ms(),
        )  # fmt: skip
        previous = self._last_turn_id()
        try:
            answer: CommitAnswer = await until_known(
                lambda: home.store.commit(self.key, lease, previous, turn, state),
                home.settings.session.commit_patience_s,
            )
        except StoreFull as full:
            await self._refuse(ticket, full)
            return
        except StoreUnavailable as error:
            # Unknown, not failed: the commit may be in the log, or get there yet. Only a new claim can tell.
            ticket.restarts += 1
            if ticket.restarts <= home.settings.session.restarts_max:
                self._start_over(Reason.FAILED, [ticket])
            else:
                self._start_over(Reason.FAILED, [])
                ticket.finish(StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))
            return
        match answer:
            case Ok():
                self._committed(ticket, turn, state)
            case Replayed(recorded) if recorded.turn_seq == turn.turn_seq:
                # Our own commit, applied at an earlier try whose answer was lost.
                self._committed(ticket, recorded, state)
            case Mismatch() | Replayed() | Ahead():
                self._start_over(Reason.FAILED, [ticket])
            case _:
                await self._lost(ticket, answer)

    def _committed(self, ticket: Ticket, turn: Turn, state: bytes | None) -> None:
        done = Done(turn, replayed=False, residence=self._residence())
        self.turns.append(turn)
        self._index[turn.turn_id] = turn.turn_seq
        if state is not None:
            self._grow(len(state) - len(self.state))
            self.state = state
        self._grow(_size_bytes(turn))
        self.takeovers = 0
        self._poisoned = None
        self._answer(ticket, done)

    def _answer(self, ticket: Ticket, end: Done | RehydraError) -> None:
        self._unanswered_fresh = False
        self.last_used = asyncio.get_running_loop().time()
        ticket.finish(end)

    async def _refuse(self, ticket: Ticket, problem: RehydraError) -> None:
        """Answer with a problem, once the store has confirmed that this host may still speak for the session.

        Without that, a host which was frozen and thaws could call a turn "not done" that its successor has done.
        """
        try:
            answer = await self.standing.confirm(len(self.turns), self._last_turn_id())
        except StoreUnavailable:
            problem.outcome = Outcome.UNKNOWN
            self._answer(ticket, problem)
            return
        if isinstance(answer, Ok):
            self._answer(ticket, problem)
        else:
            await self._lost(ticket, answer)

    # --- losing the lease --------------------------------------------------------------------------------------

    async def _lost(self, ticket: Ticket, answer: Fenced | Regressed | Deleted | object) -> None:
        if isinstance(answer, Fenced):
            await self._fenced(ticket, answer)
        elif isinstance(answer, Regressed):
            mine = len(self.turns)
            self._home.regressed(self.key, mine, answer.turn_seq, told=ticket.attached > 0)
            self._start_over(Reason.REGRESSED, [])
            ticket.finish(StateRegressed.of(mine, answer.turn_seq))
        else:
            # An earlier try of its commit may have been read by somebody before the session was deleted.
            ticket.finish(SessionDeleted(outcome=Outcome.UNKNOWN))
            self._drop(Reason.DELETED, SessionDeleted())

    async def _fenced(self, ticket: Ticket, fenced: Fenced) -> None:
        """Another activation holds the lease, or none does. Nothing that this one computed is said (I8)."""
        holder = fenced.holder
        if holder is None or holder.incarnation == self._home.ref.incarnation:
            # Expired, released, or taken by a delayed claim of this very host: claim again.
            self._start_over(Reason.FENCED, [ticket])
            return
        self._move(Event.FENCE)
        self.reason = Reason.FENCED
        self._home.forget(self, Reason.FENCED)
        # A host that thaws has news of disconnects in its sockets; let the loop read them before deciding who waits.
        for _ in range(3):
            await asyncio.sleep(0)
        waiting = [entry for entry in [ticket, *self.mailbox.take_all()] if entry.attached]
        # As one batch, so that they keep their order at the holder; if that fails they are passed on one by one.
        await self._give(holder, waiting)
        for entry in waiting:
            entry.finish(Elsewhere(holder))
        self._move(Event.END)

    def _start_over(self, reason: Reason, running: list[Ticket]) -> None:
        """Drop what is in memory and let a new activation claim, load, and take everybody over who waits."""
        self._move(Event.DROP)
        self.reason = reason
        waiting = [*running, *self.mailbox.take_all()]
        self._home.forget(self, reason)
        if waiting:
            self._home.again(self.key, waiting)

    def _drop(self, reason: Reason, problem: RehydraError, running: Ticket | None = None) -> None:
        """End the activation; everybody who waits gets ``problem``."""
        if self.phase in (Phase.ACTIVATING, Phase.READY):
            self._move(Event.DROP)
            self._home.forget(self, reason)
        self.reason = reason
        tickets = [running, *self.mailbox.take_all()]
        for ticket in tickets:
            if ticket is not None and ticket.end is None:
                ticket.finish(problem)

    def deleted(self) -> None:
        """The session was deleted through this host: nothing in memory may be answered from any more.

        While the task exists it finds out by itself, at the commit or the check that ends every turn; until then
        new arrivals get the news, not what memory still holds.
        """
        self._tombstone = True
        if self.idle:
            self._drop(Reason.DELETED, SessionDeleted())

    # --- leaving -----------------------------------------------------------------------------------------------

    async def _hand_off_if_moved(self) -> None:
        """Between two turns: if the ring names another owner, the waiting turns go there as one ordered batch."""
        owner = self._home.must_move(self.key)
        if owner is None:
            return
        for _ in range(BATCH_TRIES):
            batch = list(self.mailbox)
            if not await self._give(owner, batch):
                # It may have them or not. We still hold the lease, so we go on; if it has them, it will find
                # these turn ids in the log when it gets the lease (I3).
                return
            if len(self.mailbox) == len(batch):
                break
            # Others arrived meanwhile: the batch grows by them and is sent again, so that they keep their order.
        else:
            # They come faster than they can be handed over: run one more turn here, then try again.
            return
        self._move(Event.LEAVE)
        self.reason = Reason.HANDOFF
        self._home.forget(self, Reason.HANDOFF)
        # Until the lease is free, whoever is passed on to this host would claim it again, as this host may, and run
        # before the batch: such arrivals are sent after it.
        self._home.handing_off(self.key, owner)
        waiting = self.mailbox.take_all()
        # Whoever is passed on to the new owner from here on finds its turn in the batch there, which waits for the
        # lease that is released next.
        for ticket in waiting:
            ticket.finish(Elsewhere(owner))
        try:
            await self.release()
        finally:
            self._home.handed_off(self.key)

    async def _give(self, to: HostRef, tickets: Sequence[Ticket]) -> bool:
        if not tickets:
            return True
        for ticket in tickets:
            ticket.shared = True
        try:
            return await self._home.peers.hand_off(to, self.key, [ticket.request for ticket in tickets])
        except Exception:
            # The tickets must still get their end; a batch that may be lost costs order at worst, never a turn.
            log.exception("hand-off failed", extra={"session": str(self.key), "to": to.address})
            return False

    async def release(self) -> None:
        """Give the lease back. The activation is out of the map already; a new one of this host may exist by now,
        whose newer epoch makes this release a harmless ``Fenced``."""
        lease = self.standing.lease
        assert self.phase is Phase.PASSIVATING
        try:
            answer = await until_known(
                lambda: self._home.store.release(self.key, lease, len(self.turns), self._last_turn_id()),
                self._home.settings.session.commit_patience_s,
            )
        except StoreUnavailable:
            # Cleaning up is optional (I9): the lease stays ours; this host's next claim, or a takeover, ends it.
            log.warning("release unknown", extra={"session": str(self.key)})
        else:
            if isinstance(answer, Regressed):
                self._home.regressed(self.key, len(self.turns), answer.turn_seq, told=False)
        self._move(Event.END)

    # --- standing ---------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """The lease of this activation; it has one from READY on."""
        assert self._standing is not None, self.phase
        return self._standing

    @property
    def entitled(self) -> bool:
        """Whether this host may speak for the session without asking the store first."""
        return self._standing is not None and self._standing.entitled

    async def may_speak(self) -> bool:
        """Whether deltas of the running turn may go out; see :meth:`Standing.may_speak`."""
        return self.phase is Phase.READY and await self.standing.may_speak(len(self.turns), self._last_turn_id())

    # --- small things ------------------------------------------------------------------------------------------

    def _last_turn_id(self) -> str:
        return self.turns[-1].turn_id if self.turns else ""

    def _move(self, event: Event) -> None:
        self.phase = after(self.phase, event)

    def _grow(self, delta_bytes: int) -> None:
        self.size_bytes += delta_bytes
        self._home.resized(delta_bytes)


def _size_bytes(turn: Turn) -> int:
    metadata_bytes = len(to_json(turn.metadata)) if turn.metadata else 0
    return TURN_OVERHEAD_BYTES + len(turn.message) + len(turn.reply) + metadata_bytes
