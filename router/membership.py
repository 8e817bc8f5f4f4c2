"""Who is alive: the policy that a host applies to the beats it sees. Pure: no asyncio, and ``now`` is an argument.

Fed with the store's answers to its own beats (each with the local times at which the beat was sent and its answer
received) and with refused connections, an :class:`Observer` says who is dead, what to ask of the store (join, leave,
evictions) and whether this host may trust its own leases. Only its own clock counts: silence is measured from the
RECEIPT of the answer that showed a beat first to the SENDING of the one that still shows the same, so that a delayed
or frozen observer finds silences shorter than they were, never longer.

Nobody is judged on old news. When the observer's own beats were not accepted for half of ``beat_ttl_s`` (the store
was away, or the observer frozen), everybody's silence starts anew: the others may have had no chance to beat either.
A verdict of death costs work if wrong, never correctness (the store fences); nothing here is a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from actors.model import Beat, BeatReply, HostState, Table
from actors.settings import RingSettings

STRANGERS_MAX: Final = 1_024
"""Hosts outside of table and beats that are remembered while their fate is asked for; the oldest are forgotten."""

NO_TABLE: Final = Table(-1)
"""Before the first answer. Its version makes the first beat bring the table."""

_NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Orders:
    """What the beat thread is to ask of the store. All of it may be dropped or repeated without harm.

    Void after ``expires`` (the observer's clock): a host that froze with orders in hand must not evict whoever has
    come back in the meantime.
    """

    expires: float
    join: bool = False
    leave: bool = False
    evict: tuple[tuple[str, str], ...] = ()
    """(slot, incarnation) of dead members of the table."""
    forget: tuple[str, ...] = ()
    """Dead incarnations without a slot, whose beats still stand in the store."""

    def __bool__(self) -> bool:
        return self.join or self.leave or bool(self.evict) or bool(self.forget)


@dataclass(slots=True)
class _Seen:
    """One incarnation's last beat, and when this observer first saw it."""

    counter: int
    since: float


@dataclass(slots=True)
class _Evidence:
    """A refused connection. Void as soon as beats made after it arrive."""

    at: float
    stranger: bool
    counter: int | None = None
    """As the first answer to a beat sent after ``at`` showed it; a higher one means that the host lives."""
    until: float = _NEVER
    """When the last beat was sent whose answer still showed that counter."""
    gone: bool = False
    """Whether an answer to a beat sent after ``at`` showed neither a slot of it nor a beat."""


class Observer:
    """One host's view of all hosts. Single-threaded; times are seconds of one monotonic clock."""

    def __init__(self, incarnation: str, settings: RingSettings) -> None:
        self.incarnation = incarnation
        self.draining = False
        self.table = NO_TABLE
        self.beats: Mapping[str, Beat] = {}
        self.listed = False
        self.waits = False
        """Whether the store knows this host as a spare, which inherits the next slot that falls free."""
        self._ttl_s = settings.beat_ttl_s
        self._confirm_s = 2 * settings.beat_interval_s
        self._gap_max_s = settings.beat_ttl_s / 2
        self._slots_max = settings.slots_max
        self._sent = _NEVER
        self._received = _NEVER
        self._run_since = _NEVER
        self._breaks = 0
        self._lapses = 0
        self._seen: dict[str, _Seen] = {}
        self._dead: frozenset[str] = frozenset()
        self._evidence: dict[str, _Evidence] = {}
        self._asked: dict[str, float] = {}

    # --- what comes in ------------------------------------------------------------------------------------------

    def replied(self, reply: BeatReply, sent: float, received: float) -> Orders:
        """An own beat was accepted. Answers arrive in the order of their beats; returns what to do next."""
        self._note_own(reply, sent, received)
        if reply.table is not None:
            self.table = reply.table
        self.beats = reply.beats
        self._note_silences(received)
        self._weigh_evidence(sent)
        self._dead = frozenset(name for name, seen in self._seen.items() if sent - seen.since >= self._ttl_s)
        return self._orders(sent)

    def refused(self, incarnation: str, now: float, stranger: bool = False) -> None:
        """Its address refused a connection at ``now``, or another incarnation answered there."""
        self._ask(incarnation, now)
        evidence = self._evidence.setdefault(incarnation, _Evidence(now, stranger))
        evidence.stranger |= stranger
        _bound(self._evidence)

    # --- what it knows ------------------------------------------------------------------------------------------

    def trusted(self, now: float) -> bool:
        """Whether a beat sent within ``beat_ttl_s`` was accepted: nobody can have judged this host dead yet."""
        return now - self._sent <= self._ttl_s

    @property
    def lapses(self) -> int:
        """How often trust was lost so far: leases won before the last time may have been taken over meanwhile."""
        return self._lapses

    def is_dead(self, incarnation: str, now: float) -> bool:
        """DESIGN §3, "Dead means". Asking after an unknown incarnation makes later answers count for it."""
        if incarnation == self.incarnation or not self.trusted(now):
            return False
        if incarnation not in self._seen:
            return self._has_gone_refusing(incarnation) or self._is_gone(incarnation, now)
        return incarnation in self._dead or self.is_refused(incarnation)

    @property
    def crowded_out(self) -> bool:
        """Whether all slots are others', and this host is known to the store as a spare, which inherits one. Known to
        itself isn't enough: whom it replaces may leave at that moment, and its slot would fall free for a while."""
        return self.waits and not self.listed and not self._room()

    @property
    def sent(self) -> float:
        """When the last own beat was sent that was accepted."""
        return self._sent

    def dead_from(self, incarnation: str) -> float:
        """From when on a beat's answer would find that host dead, if it stays silent; infinity if it isn't seen."""
        seen = self._seen.get(incarnation)
        return seen.since + self._ttl_s if seen is not None else float("inf")

    # --- policy -------------------------------------------------------------------------------------------------

    def _note_own(self, reply: BeatReply, sent: float, received: float) -> None:
        evicted = self.listed and not reply.listed and not self.draining
        late = self._sent != _NEVER and received > self._sent + self._ttl_s
        if late or evicted:
            self._lapses += 1
        if received - self._received > self._gap_max_s:
            # All silences begin anew in _note_silences: what was seen before the gap says nothing.
            self._breaks += 1
            self._run_since = received
            self._seen.clear()
            self._evidence.clear()
        self.listed, self.waits = reply.listed, reply.waits
        self._sent, self._received = sent, received

    def _note_silences(self, received: float) -> None:
        counters = {member.incarnation: -1 for member in self.table.members.values()}
        counters.update((name, beat.counter) for name, beat in self.beats.items())
        counters.pop(self.incarnation, None)
        before, self._seen = self._seen, {}
        for name, counter in counters.items():
            self._asked.pop(name, None)
            seen = before.get(name)
            self._seen[name] = seen if seen and seen.counter == counter else _Seen(counter, received)

    def _weigh_evidence(self, sent: float) -> None:
        for name, evidence in list(self._evidence.items()):
            seen = self._seen.get(name)
            if sent <= evidence.at:
                continue
            if seen is None:
                evidence.gone = True
            elif evidence.gone or (evidence.counter is not None and seen.counter > evidence.counter):
                del self._evidence[name]
            else:
                evidence.counter = seen.counter
                evidence.until = sent

    def is_refused(self, incarnation: str) -> bool:
        """Whether its address refused, and nothing has come from it since."""
        evidence = self._evidence.get(incarnation)
        if evidence is None:
            return False
        beat = self.beats.get(incarnation)
        return evidence.stranger or beat is None or beat.state is not HostState.DRAINING

    def _has_gone_refusing(self, incarnation: str) -> bool:
        """Whether its address refused, it has vanished, and hasn't come since: so each of the thousands of sessions
        that a killed host leaves is taken over without a beat of its own."""
        evidence = self._evidence.get(incarnation)
        return evidence is not None and evidence.gone

    def _is_gone(self, incarnation: str, now: float) -> bool:
        # It may have come since the last answer. Only an answer to a beat sent after the question decides: whoever
        # holds a lease has beaten before it claimed.
        asked = self._ask(incarnation, now)
        settled = self._breaks <= 1 or self._sent - self._run_since >= self._ttl_s
        return settled and self._sent > asked

    def _ask(self, incarnation: str, now: float) -> float:
        if incarnation in self._seen or incarnation == self.incarnation:
            return now
        asked = self._asked.setdefault(incarnation, now)
        _bound(self._asked)
        return asked

    def _orders(self, sent: float) -> Orders:
        members = self.table.members.values()
        evict = tuple(sorted((m.slot, m.incarnation) for m in members if self._evictable(m.incarnation)))
        slots = {member.incarnation for member in members}
        forget = tuple(sorted(name for name in self._dead if name not in slots))
        return Orders(sent + self._ttl_s, self._shall_join(), self.listed and self.draining, evict, forget)

    def _shall_join(self) -> bool:
        # Without room, too: the store then knows of one who waits, until others take it for dead and have it forgotten.
        return not (self.listed or self.draining) and (self._room() or not self.waits)

    def _room(self) -> bool:
        return any(f"slot-{number}" not in self.table.members for number in range(self._slots_max))

    def _evictable(self, incarnation: str) -> bool:
        if incarnation in self._dead:
            return True
        evidence = self._evidence.get(incarnation)
        # A refusal alone frees its sessions; it costs the slot only if the beats have stopped as well.
        return evidence is not None and self.is_refused(incarnation) and evidence.until - evidence.at >= self._confirm_s


def _bound(notes: dict[str, float] | dict[str, _Evidence]) -> None:
    while len(notes) > STRANGERS_MAX:
        del notes[next(iter(notes))]
