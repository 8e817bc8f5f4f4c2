"""The session actor: one activation of one session on this host.

What runs at the same time: of one activation, at most one task (``_work``), which exists only while there is work; it
claims, runs turns one after the other, commits each, and ends. Requests call ``submit`` from their own tasks and wait
on tickets. Between "the mailbox is empty" and "the task is gone", or "the activation is gone from the host's map",
there is no await (I5). The task is never cancelled by a client (I4, I10): only the agent's attempt is, by its deadline.

What this module deliberately does not do: decide where a session should run (``placement``), who may write (the
store), how an answer looks (``ports.Requester``), or talk to the store: ``claiming``, ``turn`` and ``leaving`` do, and
their awaits are the only ones during which anything here may change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from actors.claiming import claim
from actors.errors import (
    KeyMismatch,
    MailboxFull,
    Outcome,
    RehydraError,
    SessionDeleted,
    StateRegressed,
    StoreUnavailable,
)
from actors.home import Home
from actors.leaving import give, release
from actors.lifecycle import Event, Phase, Reason, after
from actors.mailbox import Mailbox
from actors.model import SessionKey, TurnRequest
from actors.ports import Done, Residence
from actors.standing import Standing, read_disconnects
from actors.stores.base import Deleted, Fenced, Granted, Held, Regressed
from actors.ticket import Elsewhere, Ticket
from actors.transcript import Transcript
from actors.turn import Committed, Contradicted, Lost, Recorded, Refused, TurnRunner, Unknown

log = logging.getLogger("rehydra.session")

BATCH_TRIES = 4
"""How often a batch is sent again because messages arrived while it was on its way."""


class Activation:
    """One session in memory, from claim to GONE."""

    __slots__ = (
        "_home", "_standing", "_tombstone", "_unanswered_fresh", "batch_until", "key", "last_used",
        "mailbox", "named_by", "phase", "reason", "running", "step_since", "task", "transcript",
    )  # fmt: skip

    def __init__(self, home: Home, key: SessionKey) -> None:
        self._home = home
        self.key = key
        self.phase = Phase.ACTIVATING
        self.reason: Reason | None = None
        self.mailbox: Mailbox[Ticket] = Mailbox(home.settings.session.mailbox_max)
        self.running: Ticket | None = None
        self.task: asyncio.Task[None] | None = None
        self.transcript = Transcript(home.resized, home.window)
        self.last_used = 0.0
        self.step_since = 0.0
        """When its task began to do what it does now (the loop's time): claim the lease, or run a turn."""
        self.named_by = -1
        """The newest ring_version by which another host has named this one as the owner."""
        self.batch_until = 0.0
        """Until when a claim waits for the lease of the host that handed a batch over; 0 = it doesn't."""
        self._standing: Standing | None = None
        self._unanswered_fresh = True
        self._tombstone = False

    # --- arrivals: synchronous, called from any task ---------------------------------------------------------------

    def submit(self, request: TurnRequest) -> Ticket | Done | RehydraError:
        """Queue the request, attach it to its turn, or answer it at once: known turn id, mismatch, full."""
        assert self.phase in (Phase.ACTIVATING, Phase.READY), self.phase
        self.named_by = max(self.named_by, request.named_by)
        if self._tombstone:
            return SessionDeleted()
        if (known := self._known(request)) is not None:
            return known
        if (ticket := self._pending(request.turn_id)) is not None:
            if ticket.request.fingerprint != request.fingerprint:
                return KeyMismatch(outcome=self.transcript.absent)
            if ticket.attached >= self._home.settings.session.attachments_max:
                return MailboxFull("Too many requests wait for this turn.", outcome=Outcome.UNKNOWN, retry_after_s=1)
            return ticket
        ticket = Ticket(request, self)
        if not self.mailbox.offer(request.turn_id, ticket):
            told = f"{len(self.mailbox)} messages are waiting already."
            return MailboxFull(told, outcome=self.transcript.absent, retry_after_s=1)
        self.wake()
        return ticket

    def adopt(self, tickets: Iterable[Ticket]) -> None:
        """Tickets of an earlier activation of this host, before all others."""
        entries = [(ticket.request.turn_id, ticket) for ticket in tickets]
        for _, ticket in entries:
            ticket.void(self)
            self.named_by = max(self.named_by, ticket.request.named_by)
        self.mailbox.put_first(entries)
        self.wake()

    def accept_batch(self, batch: Sequence[TurnRequest], under: int, wait_until: float) -> bool:
        """Turns that another host hands over, before this host's own arrivals. Its release is still to come. False,
        and nothing is taken, of a batch for another epoch than this activation's: one of the two leases is old."""
        if self._standing is not None and self._standing.lease.epoch != under:
            return False
        self.named_by = max([self.named_by, *(request.named_by for request in batch)])
        fresh = [
            (request.turn_id, Ticket(request, self))
            for request in batch
            if self.transcript.find(request.turn_id) is None and not self._runs(request.turn_id)
        ]
        self.mailbox.put_first(fresh)
        for turn_id, ticket in fresh:
            (self.mailbox.find(turn_id) or ticket).handed_over = under
        if self.phase is Phase.ACTIVATING:
            self.batch_until = wait_until
        self.wake()
        return True

    def wake(self) -> None:
        """There may be work: make sure that the task exists. No await between here and the mailbox's change."""
        if self.task is None and self.phase in (Phase.ACTIVATING, Phase.READY):
            self.step_since = asyncio.get_running_loop().time()
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
        turn = self.transcript.find(request.turn_id)
        if turn is None:
            return None
        if turn.fingerprint != request.fingerprint:
            return KeyMismatch(f"It was used for turn {turn.turn_seq} of this session.", turn_seq=turn.turn_seq)
        return Done(turn, replayed=True, residence=self.residence)

    def _pending(self, turn_id: str) -> Ticket | None:
        return self.running if self._runs(turn_id) else self.mailbox.find(turn_id)

    def _runs(self, turn_id: str) -> bool:
        return self.running is not None and self.running.request.turn_id == turn_id

    @property
    def residence(self) -> Residence:
        """How the next turn finds the session."""
        if not self._unanswered_fresh:
            return Residence.RESIDENT
        return Residence.REHYDRATED if len(self.transcript) else Residence.NEW

    # --- the task ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            if self.phase is Phase.ACTIVATING and not await self._activate():
                return
            while self.phase is Phase.READY:
                self.step_since = asyncio.get_running_loop().time()
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
        if self.phase is Phase.READY:
            self._home.let_go(self)

    async def _activate(self) -> bool:
        """Claim and load. False if the activation has ended instead; its tickets are then answered or passed on."""
        try:
            answer = await claim(self._home, self.key, lambda: self.batch_until)
        except StoreUnavailable as error:
            # Nothing ran here, but another host may be running the same turn id: unknown (I10).
            self._drop(Reason.FAILED, type(error)(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))
            return False
        if isinstance(answer, Deleted):
            self._drop(Reason.DELETED, SessionDeleted())
            return False
        if isinstance(answer, Held):
            self._leave_to(answer)
            return False
        grant, lapses = answer
        placement = self._home.placement
        if not (placement.trusted() and placement.lapses == lapses):
            # This host was frozen, or cut off, while it claimed. Whoever waited here and has gone may have been told by
            # a holder of that time that its turn is not done (I10).
            await read_disconnects()
            self.mailbox.keep(lambda ticket: ticket.wanted)
        self._load(grant, lapses)
        return True

    def _load(self, grant: Granted, lapses: int) -> None:
        self._move(Event.GRANTED)
        self._standing = Standing(self._home, self.key, grant, lapses)
        self.transcript.load(grant.checkpoint)
        epoch = grant.lease.epoch
        self.mailbox.keep(lambda ticket: ticket.handed_over in (0, epoch) or ticket.attached > 0)

    def _leave_to(self, held: Held) -> None:
        """A live host holds the lease and is never robbed: whoever waits here is passed on to it."""
        tickets = self.mailbox.take_all()
        self._move(Event.DROP)
        self._home.forget(self, Reason.DENIED)
        for ticket in tickets:
            ticket.finish(Elsewhere(held.holder))

    # --- one turn ----------------------------------------------------------------------------------------------

    async def _run(self, ticket: Ticket) -> None:
        if (known := self._known(ticket.request)) is not None:
            # Queued before the claim told us the log: a repeat of a turn that an earlier holder committed.
            self._answer(ticket, known)
            return
        assert self._standing is not None, self.phase
        came_to = await TurnRunner(self._home, self.key, self._standing, self.transcript).run(ticket)
        match came_to:
            case Committed(turn, state):
                done = Done(turn, replayed=False, residence=self.residence)
                self.transcript.append(turn, state)
                self._answer(ticket, done)
            case Recorded(turn):
                ticket.void(self)  # What this attempt has streamed isn't the reply.
                self._answer(ticket, Done(turn, replayed=True, residence=self.residence))
            case Refused(problem):
                self._answer(ticket, problem)
            case Unknown(problem):
                self._retry(ticket, problem)
            case Contradicted():
                self._retry(ticket, RehydraError("The log isn't what this host has read of it, again and again."))
            case Lost(answer):
                await self._lost(ticket, answer)

    def _retry(self, ticket: Ticket, problem: RehydraError) -> None:
        """Only the log can tell what became of it: claim again, and run it again unless it turns out to be there."""
        ticket.restarts += 1
        if ticket.restarts <= self._home.settings.session.restarts_max:
            self._start_over(Reason.FAILED, [ticket])
        else:
            self._start_over(Reason.FAILED, [])
            ticket.finish(problem)

    def _answer(self, ticket: Ticket, end: Done | RehydraError) -> None:
        self._unanswered_fresh = False
        self.last_used = asyncio.get_running_loop().time()
        ticket.finish(end)

    # --- losing the lease --------------------------------------------------------------------------------------

    async def _lost(self, ticket: Ticket, answer: Fenced | Regressed | Deleted) -> None:
        if isinstance(answer, Fenced):
            await self._fenced(ticket, answer)
        elif isinstance(answer, Regressed):
            mine = self.transcript.turn_seq
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
            await read_disconnects()
            self._start_over(Reason.FENCED, [ticket])
            return
        self._move(Event.FENCE)
        self.reason = Reason.FENCED
        self._home.forget(self, Reason.FENCED)
        await read_disconnects()
        waiting = [entry for entry in [ticket, *self.mailbox.take_all()] if entry.attached]
        # As one batch, so that they keep their order at the holder; if that fails they are passed on one by one.
        await give(self._home, self.key, holder, waiting, fenced.epoch)
        for entry in waiting:
            entry.finish(Elsewhere(holder))
        self._move(Event.END)

    def _start_over(self, reason: Reason, running: list[Ticket]) -> None:
        """Drop what is in memory and let a new activation claim, load, and take everybody over who waits.

        A turn that nobody here waits for isn't run again: its client may have been told by another host that it is not
        done, while this one was frozen or could not reach the store (I10).
        """
        self._move(Event.DROP)
        self.reason = reason
        waiting = [ticket for ticket in [*running, *self.mailbox.take_all()] if ticket.wanted]
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
        """The session was deleted: nothing in memory may be answered from any more.

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
        assert self._standing is not None, self.phase
        under = self._standing.lease.epoch + 1
        for _ in range(BATCH_TRIES):
            batch = list(self.mailbox)
            if not await give(self._home, self.key, owner, batch, under, self._home.placement.ring_version):
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

    async def release(self) -> None:
        """Give the lease back. The activation is out of the map already; a new one of this host may exist by now,
        whose newer epoch makes this release a harmless ``Fenced``."""
        assert self.phase is Phase.PASSIVATING and self._standing is not None
        await release(self._home, self.key, self._standing.lease, self.transcript)
        self._move(Event.END)

    # --- standing ---------------------------------------------------------------------------------------------

    @property
    def entitled(self) -> bool:
        """Whether this host may speak for the session without asking the store first."""
        return self._standing is not None and self._standing.entitled

    async def may_speak(self) -> bool:
        """Whether deltas of the running turn may go out; see :meth:`Standing.may_speak`."""
        if self.phase is not Phase.READY or self._standing is None:
            return False
        return await self._standing.may_speak(self.transcript.turn_seq, self.transcript.last_turn_id)

    def _move(self, event: Event) -> None:
        self.phase = after(self.phase, event)
