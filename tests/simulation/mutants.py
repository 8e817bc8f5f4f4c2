"""Planted bugs: each a change to the shipped code that the simulation must notice.

Deliberately absent: "a ghost may call others dead" (``Observer.is_dead`` without a look at ``trusted``). It does no
harm: a host claims only once its own beats are accepted again, and takes over only by the answer to a beat that it sent
after it had heard of the holder, so that its verdict is fresh whenever it acts on it; evictions come from answers alone.

Absent too is what the simulation doesn't notice and ``tests/runtime/test_doubts.py`` does: a host that thaws and doesn't
read who has gone (a lane gives its news in the order in which they came; sockets don't), one that claims before its
first beat, and one that forgets that a request which it passed on was broken off.
"""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import (
    CHECK,
    CLAIM,
    CLAIMING,
    COMMIT,
    DELETE,
    FENCE,
    FOLLOWING,
    HOST,
    MEMORY,
    RELEASE,
    RESIDENTS,
    SESSION,
    STANDING,
    TICKET,
    TURN,
    Mutant,
)
from tests.simulation.mutant import one as _one
from tests.simulation.mutants_members import MEMBERSHIP
from tests.simulation.mutants_moves import MOVES
from tests.simulation.mutants_windows import WINDOWS

MUTANTS: Final = (
    # --- the store: who may write ---------------------------------------------------------------------------------
    _one(
        "memory: no fence at all",
        MEMORY,
        "        if refusal := session.fence(lease, before, previous_turn_id):\n            return refusal\n        if known",
        "        if known",
    ),
    _one(
        "lua: no fence at all",
        COMMIT,
        "if refusal then\n  return refusal\nend\n\nlocal known",
        "\nlocal known",
    ),
    _one(
        "memory: no epoch check",
        MEMORY,
        "if self.holder and (lease.epoch, lease.token) == (self.epoch, self.token):",
        "if self.holder and lease.token:",
    ),
    _one(
        "lua: no epoch check",
        FENCE,
        "if epoch == lease.epoch and token == lease.token and lease.incarnation ~= '' then",
        "if lease.incarnation ~= '' then",
    ),
    _one(
        "memory: token not compared",
        MEMORY,
        "if self.holder and (lease.epoch, lease.token) == (self.epoch, self.token):",
        "if self.holder and lease.epoch == self.epoch:",
    ),
    _one(
        "lua: token not compared",
        FENCE,
        "if epoch == lease.epoch and token == lease.token and lease.incarnation ~= '' then",
        "if lease.incarnation ~= '' and epoch == lease.epoch then",
    ),
    _one(
        "memory: an epoch above the store's is fenced, not regressed",
        MEMORY,
        "            if lease.epoch > self.epoch:\n                return Regressed(len(self.log))\n",
        "",
    ),
    _one(
        "lua: an epoch above the store's is fenced, not regressed",
        FENCE,
        "    if epoch > lease.epoch then\n      return {'regressed', lease.turn_seq}\n    end\n",
        "",
    ),
    _one(
        "memory: dedupe before fence",
        MEMORY,
        "        if refusal := session.fence(lease, before, previous_turn_id):\n            return refusal\n        if known",
        "        refusal = session.fence(lease, before, previous_turn_id)\n"
        "        if refusal and turn.turn_id not in session.ids:\n            return refusal\n        if known",
    ),
    _one(
        "lua: dedupe before fence",
        COMMIT,
        "if refusal then\n  return refusal\nend\n\nlocal known",
        "if refusal and redis.call('HEXISTS', KEYS[3], turn_id) == 0 then\n  return refusal\nend\n\nlocal known",
    ),
    _one(
        "memory: a commit doesn't note its turn id",
        MEMORY,
        "        session.ids[turn.turn_id] = (turn.turn_seq, turn.fingerprint)\n",
        "",
    ),
    _one(
        "lua: a commit doesn't note its turn id",
        COMMIT,
        "redis.call('HSET', KEYS[3], turn_id, turn_seq .. ':' .. fingerprint)\n",
        "",
    ),
    _one(
        "memory: takeovers are not reset by a commit",
        MEMORY,
        "turn.turn_id\n        session.takeovers = 0\n",
        "turn.turn_id\n",
    ),
    _one(
        "lua: takeovers are not reset by a commit",
        COMMIT,
        "'last_turn_id', turn_id, 'takeovers', 0)",
        "'last_turn_id', turn_id)",
    ),
    _one("lua: the state is not stored", COMMIT, "  redis.call('HSET', KEYS[1], 'state', ARGV[5])\n", ""),
    _one(
        "memory: a live holder is robbed by any claim",
        MEMORY,
        "                if over != (holder.incarnation, session.epoch):",
        "                if False:",
    ),
    _one(
        "lua: a live holder is robbed by any claim",
        CLAIM,
        "      if not (lease.incarnation == ARGV[5] and lease.epoch == tonumber(ARGV[6])) then",
        "      if false then",
    ),
    _one(
        "lua: a takeover doesn't look at the epoch",
        CLAIM,
        "      if not (lease.incarnation == ARGV[5] and lease.epoch == tonumber(ARGV[6])) then",
        "      if lease.incarnation ~= ARGV[5] then",
    ),
    _one("memory: takeovers are not counted", MEMORY, "                session.takeovers += 1\n", ""),
    _one(
        "memory: the epoch restarts low after an expiry",
        MEMORY,
        "_Session(born=now_ms, epoch=now_ms - 1)",
        "_Session(born=1, epoch=0)",
    ),
    _one("lua: the epoch restarts low after an expiry", CLAIM, "  born = now_ms()\n", "  born = 1\n"),
    _one(
        "memory: a repeated claim gets another grant",
        MEMORY,
        "        if holder is None or session.token != token:",
        "        if True:",
    ),
    _one(
        "memory: release without turn_seq",
        MEMORY,
        '        session.holder = None\n        session.token = ""\n        session.takeovers = 0\n        return Ok() if session.begins_with(turn_seq, last_turn_id) else Regressed(len(session.log))',
        '        session.holder = None\n        session.token = ""\n        return Ok()',
    ),
    _one(
        "lua: release without turn_seq",
        RELEASE,
        "if not begins_with(lease, turn_seq, last_turn_id) then",
        "if false then",
    ),
    _one("lua: whoever asks may release", RELEASE, "  if refusal then\n    return refusal\n  end\n", ""),
    _one(
        "lua: a delete leaves no tombstone",
        DELETE,
        "  redis.call('PEXPIREAT', KEYS[1],",
        "  redis.call('DEL', KEYS[1])\n  redis.call('PEXPIREAT', KEYS[1],",
    ),
    _one(
        "memory: DELETE is undone by a passed-on turn",
        MEMORY,
        "        elif session.deleted:\n            return Deleted()\n        holder",
        "        elif session.deleted:\n            session = self._sessions[key] = _Session(born=session.born, epoch=session.epoch)\n        holder",
    ),
    _one(
        "lua: DELETE is undone by a passed-on turn",
        CLAIM,
        "  if lease.deleted then\n    return {'deleted'}\n  end\n",
        "  if lease.deleted then\n    redis.call('HDEL', KEYS[1], 'deleted')\n  end\n",
    ),
    _one(
        "lua: a lease is checked without its log",
        CHECK,
        "if not begins_with(lease, turn_seq, last_turn_id) then",
        "if false then",
    ),
    # --- one turn -------------------------------------------------------------------------------------------------
    Mutant(
        "acknowledged before the commit",
        (
            (
                SESSION,
                "self.transcript).run(ticket)\n",
                "self.transcript).run(ticket, lambda turn: self._answer(ticket, Done(turn, False, self.residence)))\n",
            ),
            (
                TURN,
                "    async def run(self, ticket: Ticket) -> CameTo:",
                "    async def run(self, ticket: Ticket, early: object) -> CameTo:\n        self._home.early = early",
            ),
            (
                TURN,
                "        previous = transcript.last_turn_id\n",
                "        previous = transcript.last_turn_id\n        home.early(turn)\n",
            ),
            (
                "actors/ticket.py",
                '        assert self.end is None, f"turn {self.request.turn_id} ended twice"\n        self.end = end\n',
                "        self.end = self.end or end\n",
            ),
        ),
    ),
    _one(
        "an unknown commit is taken for done",
        TURN,
        "            return Unknown(StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))\n",
        "            return self._committed(turn, state)\n",
    ),
    _one(
        "an unknown commit is taken for failed",
        TURN,
        "            return Unknown(StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))\n",
        "            return Refused(StoreFull())\n",
    ),
    Mutant(
        "the deadline covers the commit",
        (
            (
                TURN,
                "        return await self._commit(request, reply, state)\n",
                "        try:\n            async with asyncio.timeout(0.05):\n                return await self._commit(request, reply, state)\n"
                "        except TimeoutError:\n            return Refused(PoisonTurn(outcome=Outcome.NOT_DONE))\n",
            ),
        ),
    ),
    _one(
        "not_done without asking the store",
        TURN,
        "            answer = await self._confirm(refused=request.turn_id)\n",
        "            answer: object = Ok()\n",
    ),
    _one(
        "a full store says not done, whatever came before",
        "actors/patience.py",
        "            if not doubtful:\n                raise\n",
        "            raise\n",
    ),
    _one(
        "If-Match before dedupe",
        SESSION,
        "        if self._tombstone:\n            return SessionDeleted()\n",
        "        if self._tombstone:\n            return SessionDeleted()\n"
        "        if request.if_match is not None and self.phase is Phase.READY and request.if_match != self.transcript.turn_seq:\n"
        "            from actors.errors import PreconditionFailed\n            return PreconditionFailed(turn_seq=self.transcript.turn_seq)\n",
    ),
    _one(
        "If-Match is ignored",
        TURN,
        "        if request.if_match is not None and request.if_match != turns.turn_seq:",
        "        if False:",
    ),
    _one(
        "attached to another message",
        SESSION,
        "            if ticket.request.fingerprint != request.fingerprint:",
        "            if False:",
    ),
    _one(
        "replayed to another message",
        SESSION,
        "        if turn.fingerprint != request.fingerprint:",
        "        if False:",
    ),
    _one(
        "no dedupe in the waiting line",
        SESSION,
        "        if (known := self._known(ticket.request)) is not None:\n            # Queued",
        "        if False:\n            # Queued",
    ),
    _one(
        "a poison turn is run for ever",
        TURN,
        "        if strikes >= max(1, limits.takeovers_max - 1) and takeovers >= limits.takeovers_max:\n",
        "        if False:\n",
    ),
    _one(
        "poison is whoever comes first",
        TURN,
        "        if strikes >= max(1, limits.takeovers_max - 1) and takeovers >= limits.takeovers_max:\n",
        "        if takeovers >= limits.takeovers_max:\n",
    ),
    _one(
        "poison is who was there once",
        TURN,
        "self._standing.suspects.count(turn_id)\n",
        "9 * self._standing.suspects.count(turn_id)\n",
    ),
    _one("takeovers in memory are not reset", TURN, "        self._standing.takeovers = 0\n", ""),
    _one(
        "the running turn is not noted",
        TURN,
        "            answer = await self._confirm(running=turn_id)\n",
        "            answer = await self._confirm()\n",
    ),
    _one("lua: a takeover forgets who ran", CLAIM, "      redis.call('HSET', KEYS[1], 'suspects', suspects)\n", ""),
    _one(
        "the state is kept though the turn was refused",
        TURN,
        "        return await self._commit(request, reply, state)\n",
        "        self._transcript.state = state or self._transcript.state\n        return await self._commit(request, reply, state)\n",
    ),
    _one(
        "any answer but Fenced counts as committed",
        TURN,
        "            case Mismatch() | Ahead():\n                return Contradicted()\n            case _:\n                return self._instead(request, answer)\n",
        "            case Fenced():\n                return Lost(answer)\n            case _:\n                return self._committed(turn, state)\n",
    ),
    _one(
        "a fenced host answers all the same",
        TURN,
        "            case _:\n                return self._instead(request, answer)\n",
        "            case _:\n                return self._committed(turn, state)\n",
    ),
    _one(
        "a replay from memory after the store regressed",
        SESSION,
        "            self._start_over(Reason.REGRESSED, [])\n            ticket.finish(StateRegressed.of(mine, answer.turn_seq))\n",
        "            self._answer(ticket, StateRegressed.of(mine, answer.turn_seq))\n",
    ),
    _one(
        "a regression is told to nobody",
        HOST,
        "        if not told:\n            self._untold.note(key, mine, stored)\n",
        "",
    ),
    _one(
        "a regression is called not done",
        "actors/errors.py",
        "        return cls(detail, outcome=Outcome.UNKNOWN, turn_seq=stored, turn_seq_lost=mine)",
        "        return cls(detail, turn_seq=stored, turn_seq_lost=mine)",
    ),
    _one(
        "a deleted session is answered from memory",
        SESSION,
        "        if self._tombstone:\n            return SessionDeleted()\n",
        "",
    ),
    # --- who runs it ----------------------------------------------------------------------------------------------
    _one(
        "whoever holds the lease is robbed",
        CLAIMING,
        "        if home.placement.is_dead(answer.holder) and await _surely_dead(home, answer.holder, patience_s):",
        "        if True:",
    ),
    _one(
        "a dead holder is never taken over",
        CLAIMING,
        "        if home.placement.is_dead(answer.holder) and await _surely_dead(home, answer.holder, patience_s):",
        "        if False:",
    ),
    _one(
        "a frozen holder is waited for, for ever",
        HOST,
        "        death = asyncio.create_task(self.placement.wait_dead(to))",
        "        death = asyncio.create_task(asyncio.sleep(1e6))",
    ),
    _one(
        "the ring is asked at every hop",
        HOST,
        "hops_max if hops == 0 or self._may_ask_again(request, hops) else 0",
        "hops_max",
    ),
    _one(
        "the commit is cancelled with its client",
        FOLLOWING,
        "    finally:\n        ticket.detach()\n",
        "    except BaseException:\n        if ticket.attached == 1 and ticket.activation.task is not None:\n            ticket.activation.task.cancel()\n        raise\n    finally:\n        ticket.detach()\n",
    ),
    # --- leaving, and coming back ---------------------------------------------------------------------------------
    _one(
        "an await between the empty check and the task's end",
        SESSION,
        '        # No await from the mailbox\'s "empty" to here: an arrival either was taken or starts a new task (I5).\n',
        "        await asyncio.sleep(0.005)\n",
    ),
    _one(
        "an await between the idle check and the removal",
        RESIDENTS,
        "                if activation is not None and self._still(reason, activation) and activation.passivate(reason):\n"
        "                    await activation.release()\n",
        "                if activation is not None and activation.idle:\n                    await asyncio.sleep(0.001)\n                    activation.phase = type(activation.phase)('passivating')\n"
        "                    self.remove(activation, reason)\n                    await activation.release()\n",
    ),
    _one(
        "a look, an await, then the wait",
        TICKET,
        "            self._enders.append(waiter)\n",
        "            await asyncio.sleep(0.001)\n            self._enders.append(waiter)\n",
    ),
    _one(
        "a batch wakes nobody",
        SESSION,
        "            self.batch_until = wait_until\n        self.wake()\n",
        "            self.batch_until = wait_until\n",
    ),
    _one(
        "who starts over forgets to wake",
        SESSION,
        "ticket.request.named_by)\n        self.mailbox.put_first(entries)\n        self.wake()\n",
        "ticket.request.named_by)\n        self.mailbox.put_first(entries)\n",
    ),
    _one(
        "the hand-off batch goes after new arrivals",
        "actors/mailbox.py",
        "        self._waiting = {turn_id: rest.pop(turn_id, entry) for turn_id, entry in batch}\n        self._waiting.update(rest)\n",
        "        for turn_id, entry in batch:\n            rest.setdefault(turn_id, entry)\n",
    ),
    _one(
        "the batch is dropped when the mailbox is full",
        "actors/mailbox.py",
        "        rest = self._waiting\n",
        "        rest = self._waiting\n        batch = [] if len(rest) >= self._limit else batch\n",
    ),
    _one(
        "a batch doesn't wait for its lease",
        CLAIMING,
        "        elif asked < wait_until():",
        "        elif False:",
    ),
    _one(
        "who starts over goes to the end of the line",
        SESSION,
        "        waiting = [ticket for ticket in [*running, *self.mailbox.take_all()] if ticket.wanted]\n",
        "        waiting = [ticket for ticket in [*self.mailbox.take_all(), *running] if ticket.wanted]\n",
    ),
    _one(
        "a turn that nobody waits for is run again",
        SESSION,
        "        waiting = [ticket for ticket in [*running, *self.mailbox.take_all()] if ticket.wanted]\n",
        "        waiting = [*running, *self.mailbox.take_all()]\n",
    ),
    _one(
        "newest first",
        "actors/mailbox.py",
        "        entry = self._waiting.pop(next(iter(self._waiting)))",
        "        entry = self._waiting.pop(next(reversed(self._waiting)))",
    ),
    _one(
        "a turn that was handed over is called not done",
        FOLLOWING,
        "    if doubtful and isinstance(end, RehydraError):",
        "    if False and isinstance(end, RehydraError):",
    ),
    # --- speaking -------------------------------------------------------------------------------------------------
    _one(
        "a stream goes on after a thaw without a check",
        FOLLOWING,
        "        if news and not (ticket.activation.entitled or isinstance(ticket.end, Done)):",
        "        if False:",
    ),
    _one(
        "a lapse is forgotten with the next beat",
        STANDING,
        "        return placement.trusted() and placement.lapses == self._lapses",
        "        return placement.trusted()",
    ),
    Mutant(
        "a stream that may not speak spins",
        (
            (
                FOLLOWING,
                "    while not isinstance(ticket.end, Elsewhere | RehydraError):",
                "    while not isinstance(ticket.end, Elsewhere):",
            ),
            (
                FOLLOWING,
                "            if not announced:\n",
                "            if not announced and isinstance(ticket.end, Done):\n",
            ),
        ),
    ),
    _one(
        "a voided attempt goes on in the stream",
        FOLLOWING,
        "        if ticket.generation != generation:\n            generation, announced, shown = ticket.generation, False, 0\n",
        "",
    ),
    _one("a refusal from memory by a ghost", HOST, "doubtful or not activation.entitled)", "False)"),
    # --- limits ---------------------------------------------------------------------------------------------------
    _one(
        "no limit on attachments",
        SESSION,
        "            if ticket.attached >= self._home.settings.session.attachments_max:",
        "            if False:",
    ),
    _one(
        "no limit on the mailbox",
        "actors/mailbox.py",
        "        if len(self._waiting) >= self._limit:\n            return False\n",
        "",
    ),
    _one(
        "no limit on resident sessions",
        RESIDENTS,
        "        if surplus <= 0 and surplus_bytes <= 0:\n            return\n        for",
        "        return\n        for",
    ),
    _one(
        "idle sessions stay for ever",
        RESIDENTS,
        "            if activation.idle:\n                self._passivate(key, Reason.IDLE)\n",
        "            pass\n",
    ),
    # --- who is alive ---------------------------------------------------------------------------------------------
    _one(
        "others are judged though one's own beats were lost",
        "router/membership.py",
        "            self._seen.clear()\n            self._evidence.clear()\n",
        "            pass\n",
    ),
    *MEMBERSHIP,
    *MOVES,
    *WINDOWS,
)
