"""What the store must answer, by the contract alone: the checker's own, third reading of DESIGN §3.

Replays the calls in the order in which they were applied and compares each answer. It knows nothing of how the stores
are made. After a first complaint about a session it follows that session no longer: the rest would be echo.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

from actors.errors import RehydraError
from actors.model import Lease, SessionKey, Turn
from actors.stores.base import (
    Ahead,
    Buried,
    Deleted,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Missing,
    Ok,
    Regressed,
    Replayed,
    Turns,
)
from tests.simulation.history import StoreCall


@dataclass(slots=True)
class Life:
    """A session from its birth to its expiry."""

    born: int
    epoch: int
    token: str = ""
    holder: str = ""
    takeovers: int = 0
    running: str = ""
    suspects: tuple[str, ...] = ()
    deleted: bool = False
    turns: list[Turn] = field(default_factory=list)

    def seq_of(self, turn_id: str) -> int:
        """0 if it isn't in the log."""
        return next((turn.turn_seq for turn in self.turns if turn.turn_id == turn_id), 0)

    def begins_with(self, turn_seq: int, last_turn_id: str) -> bool:
        return turn_seq == 0 or (len(self.turns) >= turn_seq and self.turns[turn_seq - 1].turn_id == last_turn_id)

    def take_over(self) -> None:
        """Its holder is dead: what that had noted is suspect, save before the first takeover."""
        self.suspects = self.suspects if self.takeovers else ()
        if self.takeovers and self.running:
            self.suspects = (*self.suspects, self.running)
        self.running = ""
        self.takeovers += 1

    def refusal(self, lease: Lease, turn_seq: int, last_turn_id: str) -> object | None:
        """None if the lease is current."""
        if self.born == lease.born:
            if lease.epoch > self.epoch:
                return Regressed(len(self.turns))
            if lease.epoch == self.epoch and lease.token == self.token and self.holder:
                return None
            if not self.begins_with(turn_seq, last_turn_id):
                return Regressed(len(self.turns))
        return Fenced(None, self.epoch, len(self.turns))


class Complaint(Exception):
    """The store's answer isn't what the contract demands. ``invariant`` is the one it breaks."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(text)
        self.invariant = invariant


class StoreModel:
    """The sessions as they must be."""

    def __init__(self) -> None:
        self.lives: dict[SessionKey, Life] = {}
        self._kept: dict[SessionKey, Life] = {}
        self._highest: dict[SessionKey, int] = {}
        self.given_up: set[SessionKey] = set()

    def snapshot(self) -> None:
        self._kept = deepcopy(self.lives)

    def restore(self) -> None:
        self.lives = deepcopy(self._kept)
        # A store that has forgotten may count low again.
        self._highest.clear()

    def expire(self, key: SessionKey) -> None:
        self.lives.pop(key, None)

    def apply(self, call: StoreCall) -> None:
        """Complaint if the answer is wrong."""
        if call.key in self.given_up or isinstance(call.answer, RehydraError):
            return
        try:
            getattr(self, f"_{call.call}")(call, self.lives.get(call.key))
        except Complaint:
            self.given_up.add(call.key)
            raise

    # --- one method per call ------------------------------------------------------------------------------------

    def _claim(self, call: StoreCall, life: Life | None) -> None:
        answer = call.answer
        if life is None:
            life = self._begin(call)
        elif life.deleted:
            self._expect(call, "I1", answer, Deleted)
            return
        elif not (life.holder and life.token == call.token):
            if life.holder and life.holder != call.process:
                if call.over != (life.holder, life.epoch):
                    self._expect(call, "I1", answer, Held)
                    if (answer.holder.incarnation, answer.epoch) != (life.holder, life.epoch):
                        raise Complaint("I1", f"{_told(call)} names another holder than {life.holder}")
                    return
                life.take_over()
            life.epoch += 1
        self._expect(call, "I1", answer, Granted)
        life.token, life.holder = call.token, call.process
        self._highest[call.key] = max(self._highest.get(call.key, 0), life.epoch)
        if answer.lease != Lease(life.epoch, call.token, life.born):
            raise Complaint("I1", f"{_told(call)}: expected epoch {life.epoch} and the token of the claim")
        if answer.takeovers != life.takeovers:
            raise Complaint(
                "I5", f"{_told(call)}: there were {life.takeovers} takeovers since the last commit or release"
            )
        if answer.suspects != (life.suspects if life.takeovers else ()):
            raise Complaint("I5", f"{_told(call)}: what dead holders had noted is {life.suspects}")
        wanted = life.turns if call.window is None else life.turns[-call.window :]
        if not _same(answer.checkpoint.turns, wanted):
            raise Complaint("I2", f"{_told(call)}: the checkpoint isn't the last {len(wanted)} turns of the log")

    def _begin(self, call: StoreCall) -> Life:
        """A claim where there was no session."""
        self._expect(call, "I1", call.answer, Granted)
        lease = call.answer.lease
        if lease.epoch <= self._highest.get(call.key, 0):
            raise Complaint("I1", f"{_told(call)} restarts at or below an epoch that was in use")
        if lease.epoch != lease.born or lease.born <= 0:
            raise Complaint("I1", f"{_told(call)}: a new session's epoch is its birth")
        life = self.lives[call.key] = Life(lease.born, lease.epoch)
        return life

    def _commit(self, call: StoreCall, life: Life | None) -> None:
        answer, lease, turn = call.answer, call.lease, call.turn
        assert lease is not None and turn is not None
        if life is None:
            self._expect(call, "I1", answer, Fenced)
            return
        if life.deleted:
            self._expect(call, "I1", answer, Deleted)
            return
        if (refusal := life.refusal(lease, call.turn_seq, call.last_turn_id)) is not None:
            self._expect(call, "I1", answer, type(refusal))
            return
        if known := life.seq_of(turn.turn_id):
            recorded = life.turns[known - 1]
            self._expect(call, "I3", answer, Replayed if recorded.fingerprint == turn.fingerprint else Mismatch)
            if isinstance(answer, Replayed) and not _same([answer.turn], [recorded]):
                raise Complaint("I3", f"{_told(call)}: the recorded turn is another")
            return
        if not life.begins_with(call.turn_seq, call.last_turn_id):
            self._expect(call, "I1", answer, Regressed)
        elif len(life.turns) > call.turn_seq:
            self._expect(call, "I1", answer, Ahead)
        else:
            self._expect(call, "I1", answer, Ok)
            life.turns.append(turn)
            life.takeovers = 0

    def _release(self, call: StoreCall, life: Life | None) -> None:
        lease = call.lease
        assert lease is not None
        if life is None:
            self._expect(call, "I1", call.answer, Ok)
            return
        if life.deleted:
            self._expect(call, "I1", call.answer, Deleted)
            return
        released = not life.holder and (lease.born, lease.epoch) == (life.born, life.epoch)
        if not released and (refusal := life.refusal(lease, call.turn_seq, call.last_turn_id)) is not None:
            self._expect(call, "I1", call.answer, type(refusal))
            return
        life.holder = ""
        life.takeovers = 0
        known = life.begins_with(call.turn_seq, call.last_turn_id)
        self._expect(call, "I2", call.answer, Ok if known else Regressed)

    def _check(self, call: StoreCall, life: Life | None) -> None:
        lease = call.lease
        assert lease is not None
        if life is None:
            self._expect(call, "I8", call.answer, Fenced)
        elif life.deleted:
            self._expect(call, "I8", call.answer, Deleted)
        elif (refusal := life.refusal(lease, call.turn_seq, call.last_turn_id)) is not None:
            self._expect(call, "I8", call.answer, type(refusal))
        else:
            known = life.begins_with(call.turn_seq, call.last_turn_id)
            done = known and life.seq_of(call.running or call.refused)
            if done:
                self._expect(call, "I10", call.answer, Replayed)
                if not _same([call.answer.turn], [life.turns[done - 1]]):
                    raise Complaint("I3", f"{_told(call)}: the recorded turn is another")
                return
            self._expect(call, "I2", call.answer, Ok if known else Regressed)
            if known and call.running:
                life.running = call.running

    def _delete(self, call: StoreCall, life: Life | None) -> None:
        if life is None:
            self._expect(call, "I1", call.answer, Missing)
            return
        self._expect(call, "I1", call.answer, Buried)
        if not life.deleted:
            self.lives[call.key] = replace(life, epoch=life.epoch + 1, deleted=True, turns=[], holder="", token="")

    def _read(self, call: StoreCall, life: Life | None) -> None:
        if life is None or life.deleted:
            self._expect(call, "I2", call.answer, Missing if life is None else Deleted)
            return
        self._expect(call, "I2", call.answer, Turns)
        if not _same(call.answer.turns, life.turns[: len(call.answer.turns)]) or call.answer.turn_seq != len(
            life.turns
        ):
            raise Complaint("I2", f"{_told(call)}: the page isn't from the log")

    def _expect(self, call: StoreCall, invariant: str, answer: object, kind: type) -> None:
        if not isinstance(answer, kind):
            raise Complaint(invariant, f"{_told(call)}; the contract demands {kind.__name__}")


def _same(some: tuple[Turn, ...] | list[Turn], others: list[Turn]) -> bool:
    return [_identity(turn) for turn in some] == [_identity(turn) for turn in others]


def _identity(turn: Turn) -> tuple[int, str, str, str, str]:
    return (turn.turn_seq, turn.turn_id, turn.fingerprint, turn.message, turn.reply)


def _told(call: StoreCall) -> str:
    turn = f" of {call.turn.turn_id}" if call.turn is not None else ""
    return f"{call.call}{turn} by {call.process} on {call.key} was answered {type(call.answer).__name__}"
