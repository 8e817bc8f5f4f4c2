"""The history, sorted: what the checks look things up in. Nothing here judges, save for the store's own answers."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from actors.model import Lease, SessionKey, Turn
from actors.stores.base import Granted, Ok
from tests.simulation import history as h
from tests.simulation.store_model import Complaint, StoreModel


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that the checks need."""

    mailbox_max: int
    attachments_max: int
    resident_max: int
    takeovers_max: int
    beat_ttl_s: float
    store_timeout_s: float
    hops_max: int
    slots_max: int
    window: int | None
    """Turns that the agent is given at most."""
    probe_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Violation:
    """``invariant`` I1 to I10, ``live`` (a live holder was robbed), ``table`` (the membership's contract) or ``intact``
    (something broke unseen)."""

    invariant: str
    seq: int
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at event {self.seq}: {self.text}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A commit that the store took."""

    seq: int
    at: float
    key: SessionKey
    born: int
    epoch: int
    token: str
    process: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class LeaseAt:
    """The lease from this event on. ``takeovers`` as of then."""

    seq: int
    born: int
    epoch: int
    holder: str
    takeovers: int
    call: h.StoreCall | None


@dataclass(slots=True)
class Op:
    """A client's attempt: ``end`` is None while it hasn't got an answer."""

    start: h.Invoked
    end: h.Completed | None = None


@dataclass(slots=True)
class Run:
    """One run of the agent. ``end`` is the event that ended it: RunEnded, or its process's death. ``how`` as in
    RunEnded, or empty."""

    start: h.RunStarted
    end: int | None = None
    how: str = ""


Recorded = tuple[SessionKey, int, str, str]
"""(session, turn_seq, turn_id, reply)"""


class Facts:
    """Everything by what it is looked up with."""

    def __init__(self, events: Sequence[h.Event], limits: Limits) -> None:
        self.events = events
        self.limits = limits
        self.violations: list[Violation] = []
        self.model = StoreModel()
        self.accepted: list[Accepted] = []
        self.present: dict[Recorded, list[list[int]]] = defaultdict(list)
        """When a turn was in the log: [from, until), until 0 while it is."""
        self.losses: dict[SessionKey, list[int]] = defaultdict(list)
        """Deletion, expiry and loss."""
        self.leases: dict[SessionKey, list[LeaseAt]] = defaultdict(list)
        self.applied: dict[int, int] = {}
        """Number of a call -> the event of its first application."""
        self.takeovers: list[h.StoreCall] = []
        self.ops: dict[int, Op] = {}
        self.runs: dict[int, Run] = {}
        self.said: list[h.Said] = []
        self.arrived: list[h.Arrived] = []
        self.ghosts: set[tuple[SessionKey, str]] = set()
        self.passed_on: set[tuple[str, SessionKey, str]] = set()
        self.passings: list[h.PassedOn] = []
        self.handed_over: list[h.HandedOver] = []
        self.releases: list[h.StoreCall] = []
        self.told: dict[tuple[str, SessionKey], list[h.Told]] = defaultdict(list)
        self.processes: dict[str, list[h.Process]] = defaultdict(list)
        self.beats: dict[str, list[float]] = defaultdict(list)
        self.membership: list[h.Beaten | h.TableCall] = []
        self.evicted: list[h.Evicted] = []
        self.gauges: list[h.Gauge] = []
        self.logs: list[h.Log] = []
        self.marks: dict[str, h.Fault] = {}
        self.restores: list[int] = []
        self.notes: list[h.StoreCall] = []
        """Checks that noted a running turn."""
        self.problems: list[h.Problem] = []
        for event in events:
            getattr(self, f"_{type(event).__name__.lower()}")(event)
        self._until: dict[SessionKey, list[int]] = {
            key: [lease.seq for lease in leases] for key, leases in self.leases.items()
        }

    def report(self, invariant: str, seq: int, text: str) -> None:
        self.violations.append(Violation(invariant, seq, text))

    def lease_at(self, key: SessionKey, seq: int) -> LeaseAt | None:
        """The lease as it was after the event ``seq``."""
        leases = self.leases.get(key, [])
        index = bisect_right(self._until.get(key, []), seq)
        return leases[index - 1] if index else None

    def grant_before(self, key: SessionKey, process: str, seq: int) -> LeaseAt | None:
        """The last grant that ``process`` got before the event ``seq``."""
        index = bisect_right(self._until.get(key, []), seq)
        for lease in reversed(self.leases.get(key, [])[:index]):
            if lease.call is not None and lease.call.process == process and isinstance(lease.call.answer, Granted):
                return lease
        return None

    def granted(self, key: SessionKey, process: str, seq: int) -> Granted | None:
        """The last grant that ``process`` was told of before the event ``seq``."""
        for told in reversed(self.told.get((process, key), [])):
            if told.seq < seq and isinstance(told.answer, Granted):
                return told.answer
        return None

    def commits_under(self, lease: Lease, key: SessionKey, seq: int) -> int:
        """How many turns were committed under that lease before the event ``seq``."""
        return sum(
            each.seq < seq and each.key == key and (each.epoch, each.token) == (lease.epoch, lease.token)
            for each in self.accepted
        )

    def restored_between(self, first: int, second: int) -> bool:
        return any(first < seq < second for seq in self.restores)

    def haunted(self, key: SessionKey, turn_id: str) -> bool:
        """Whether the network has made a duplicate of that request: an attempt that nobody can answer for."""
        return (key, turn_id) in self.ghosts

    def died(self, process: str) -> int:
        """The event of its death; 0 if it lives."""
        return next((event.seq for event in self.processes[process] if event.what == "crashed"), 0)

    # --- one method per kind of event ---------------------------------------------------------------------------

    def _storecall(self, call: h.StoreCall) -> None:
        self.applied.setdefault(call.number, call.seq)
        if call.running:
            self.notes.append(call)
        try:
            self.model.apply(call)
        except Complaint as complaint:
            self.report(complaint.invariant, call.seq, str(complaint))
        if call.call == "commit" and isinstance(call.answer, Ok) and call.turn is not None and call.lease is not None:
            lease, turn = call.lease, call.turn
            self.accepted.append(
                Accepted(call.seq, call.at, call.key, lease.born, lease.epoch, lease.token, call.process, turn)
            )
        if call.call == "claim" and isinstance(call.answer, Granted) and call.over is not None:
            self.takeovers.append(call)
        if call.call == "release":
            self.releases.append(call)
        self._note(call.key, call.seq, call)

    def _note(self, key: SessionKey, seq: int, call: h.StoreCall | None) -> None:
        """What has changed in the store by this event."""
        life = self.model.lives.get(key)
        lease = LeaseAt(
            seq, life.born if life else 0, life.epoch if life else 0, life.holder if life else "",
            life.takeovers if life else 0, call,
        )  # fmt: skip
        last = self.leases[key][-1] if self.leases[key] else None
        if last is None or (last.born, last.epoch, last.holder, last.takeovers) != (
            lease.born, lease.epoch, lease.holder, lease.takeovers,
        ) or (call is not None and isinstance(call.answer, Granted)):  # fmt: skip
            self.leases[key].append(lease)
        if call is not None and call.call in ("claim", "release", "check", "read"):
            return
        now = {(key, turn.turn_seq, turn.turn_id, turn.reply) for turn in life.turns} if life else set()
        lost = False
        for record, spans in self.present.items():
            if record[0] == key and not spans[-1][1] and record not in now:
                spans[-1][1] = seq
                lost = True
        for record in sorted(now, key=lambda record: record[1]):
            if not self.present[record] or self.present[record][-1][1]:
                self.present[record].append([seq, 0])
        if lost or call is None:
            self.losses[key].append(seq)

    def _told(self, event: h.Told) -> None:
        self.told[event.process, event.key].append(event)

    def _expired(self, event: h.Expired) -> None:
        self.model.expire(event.key)
        self._note(event.key, event.seq, None)

    def _snapshot(self, event: h.Snapshot) -> None:
        self.model.snapshot()

    def _restored(self, event: h.Restored) -> None:
        before = set(self.model.lives)
        self.model.restore()
        self.restores.append(event.seq)
        for key in sorted(before | set(self.model.lives), key=str):
            self._note(key, event.seq, None)

    def _runstarted(self, event: h.RunStarted) -> None:
        self.runs[event.run] = Run(event)

    def _runended(self, event: h.RunEnded) -> None:
        run = self.runs[event.run]
        run.end, run.how = event.seq, event.how

    def _arrived(self, event: h.Arrived) -> None:
        self.arrived.append(event)
        if event.via == "ghost":
            self.ghosts.add((event.key, event.turn_id))

    def _passedon(self, event: h.PassedOn) -> None:
        self.passed_on.add((event.process, event.key, event.turn_id))
        self.passings.append(event)

    def _handedover(self, event: h.HandedOver) -> None:
        self.handed_over.append(event)

    def _said(self, event: h.Said) -> None:
        self.said.append(event)

    def _invoked(self, event: h.Invoked) -> None:
        self.ops[event.op] = Op(event)

    def _completed(self, event: h.Completed) -> None:
        self.ops[event.op].end = event

    def _process(self, event: h.Process) -> None:
        self.processes[event.process].append(event)
        if event.what == "crashed":
            for run in self.runs.values():
                if run.end is None and run.start.process == event.process:
                    run.end = event.seq

    def _beaten(self, event: h.Beaten) -> None:
        self.beats[event.process].append(event.at)
        self.membership.append(event)

    def _tablecall(self, event: h.TableCall) -> None:
        self.membership.append(event)

    def _evicted(self, event: h.Evicted) -> None:
        self.evicted.append(event)

    def _gauge(self, event: h.Gauge) -> None:
        self.gauges.append(event)

    def _fault(self, event: h.Fault) -> None:
        if event.what in ("healed", "quiet", "probed", "idle"):
            self.marks[event.what] = event

    def _log(self, event: h.Log) -> None:
        self.logs.append(event)

    def _problem(self, event: h.Problem) -> None:
        self.problems.append(event)
