"""Trouble that waits for its moment: when this happens, do that. The nemesis of rare meetings.

Some bugs do harm only when three things meet within milliseconds: a grant, its loss, another grant. Dice never throw
that, so an ambush watches the history as it grows and acts on what it sees. It only does what may happen to a real
cluster: a store forgets, a way is cut, a packet comes late, two hosts believe in different rings. Each names the
shortest history that it is after.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.model import SessionKey
from actors.stores.base import Granted, Ok
from tests.simulation.history import Beaten, Event, Fault, Process, RunStarted, StoreCall, TableCall
from tests.simulation.plan import Plan
from tests.simulation.workload import Client

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.process import SimProcess


class Ambush:
    """All that a plan has laid. ``seen`` is told of every event until ``lift``."""

    def __init__(self, cluster: Cluster, plan: Plan, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        laid: dict[str, Callable[[Event], None]] = {
            "forgotten grant": self._forgotten_grant, "forgotten turn": self._forgotten_turn,
            "late twin": self._late_twin, "cut runner": self._cut_runner, "disowned": self._disowned,
            "straggler": self._straggler, "lost answer": self._lost_answer, "frozen runner": self._frozen_runner,
            "deleted runner": self._deleted_runner, "lost receipt": self._lost_receipt, "slow batch": self._slow_batch,
            "table twin": self._table_twin, "slow release": self._slow_release, "helpless heir": self._helpless_heir,
        }  # fmt: skip
        self._laid = [(name, laid[name]) for name in plan.ambushes]
        self._strays = plan.strays
        self._rests_until: dict[str, float] = {}
        self._free: SessionKey | None = None
        self._kept: tuple[SessionKey, int] | None = None
        self._robbed: dict[SessionKey, tuple[str, int]] = {}
        self._runners: dict[SessionKey, SimProcess] = {}

    def lay(self) -> None:
        if self._laid:
            self._cluster.history.watcher = self.seen

    def lift(self) -> None:
        self._cluster.history.watcher = None
        self._deliver_receipts()
        self._hurry_releases()

    def seen(self, event: Event) -> None:
        if isinstance(event, StoreCall | RunStarted | Beaten | TableCall):
            for _, watch in self._laid:
                watch(event)

    # --- what they do -------------------------------------------------------------------------------------------

    def _forgotten_grant(self, event: Event) -> None:
        """H is granted a free lease and runs a turn; the store forgets the grant; another host is granted the same
        epoch under another token; H commits. Only the token tells the two apart."""
        if isinstance(event, StoreCall):
            if event.call == "release" and isinstance(event.answer, Ok) and not event.again:
                self._cluster.store.snapshot()
                self._free = event.key
        elif isinstance(event, RunStarted) and event.key == self._free:
            self._free = None
            if self._springs("forgotten grant", 0.8, rest_s=2.0):
                self._later(self._rng.uniform(0.0, 0.05), self._forget)
                self._scatter(self._rng.uniform(1.0, 4.0))

    def _forgotten_turn(self, event: Event) -> None:
        """Turn n is in the log, turn n + 1 is confirmed and then forgotten; nobody waits when its host learns of it.
        Who then asks that host again for turn n is told of the loss, and must not conclude that turn n isn't done."""
        if not (isinstance(event, StoreCall) and event.call == "commit" and isinstance(event.answer, Ok)):
            return
        assert event.turn is not None
        turn_seq = event.turn.turn_seq
        if self._kept == (event.key, turn_seq - 1):
            if self._springs("forgotten turn", 0.7, rest_s=1.0):
                self._kept = None
                self._later(self._rng.uniform(0.0, 0.3), self._forget)
        else:
            self._cluster.store.snapshot()
            self._kept = (event.key, turn_seq)

    def _late_twin(self, event: Event) -> None:
        """R takes a session over from H, which is frozen. H thaws, and when R has released it claims the session
        again. Then a twin of R's takeover arrives: it names H, but an epoch that is gone."""
        if not (isinstance(event, StoreCall) and event.call == "claim" and isinstance(event.answer, Granted)):
            return
        holder, number = self._robbed.get(event.key, ("", 0))
        if event.over is not None and not event.again:
            self._robbed[event.key] = (event.over[0], event.number)
            process = self._named(event.over[0])
            if process is not None and not process.buried:
                self._later(self._rng.uniform(0.05, 0.5), process.thaw)
        elif event.process == holder:
            del self._robbed[event.key]
            self._fault("late twin")
            self._later(self._rng.uniform(0.001, 0.3), lambda: self._cluster.store.repeat_takeover(number))

    def _cut_runner(self, event: Event) -> None:
        """H runs a turn and loses its way to the store, not to its clients. Another host takes over, and has done the
        same turn, when H's attempt goes on speaking, or fails; H's beats are accepted again by then, or are not."""
        if isinstance(event, RunStarted) and self._springs("cut runner", 0.5, rest_s=7.0):
            self._cut(event.process, self._rng.choice((2.4, 2.8, 3.2, 7.0)))

    def _lost_answer(self, event: Event) -> None:
        """H's commit is applied, and H doesn't learn of it: until its patience ends, or until a store that is full by
        then refuses the repeat. Or the commit never gets there, for as long."""
        store = self._cluster.store
        if isinstance(event, RunStarted):
            if self._springs("lost answer", 0.1, rest_s=9.0):
                self._cut(event.process, 9.0)
        elif isinstance(event, StoreCall) and event.call == "commit" and isinstance(event.answer, Ok):
            if not self._springs("lost answer", 0.3, rest_s=9.0):
                return
            if self._rng.random() < 0.5:
                self._cut(event.process, self._rng.uniform(7.0, 9.0))
            else:
                self._cut(event.process, 0.3)
                store.dice.full = 1.0
                self._later(self._rng.uniform(2.0, 5.0), lambda: setattr(store.dice, "full", 0.0))

    def _frozen_runner(self, event: Event) -> None:
        """H is frozen with a turn; the edge repeats it at P, which fails, says so, and gives the lease back. H thaws at
        that moment: its commit finds nobody who holds the lease, and nobody waits for the turn any more."""
        if isinstance(event, RunStarted):
            runner = self._named(event.process)
            if runner is not None and event.key not in self._runners:
                if self._springs("frozen runner", 0.4, rest_s=6.0):
                    self._runners[event.key] = runner
                    self._later(0.001, runner.freeze)
                    self._later(9.0, runner.thaw)
        elif isinstance(event, StoreCall) and event.call == "release" and isinstance(event.answer, Ok):
            frozen = self._runners.get(event.key)
            if frozen is not None and event.process != frozen.name:
                del self._runners[event.key]
                self._later(self._rng.uniform(0.0, 0.02), frozen.thaw)

    def _deleted_runner(self, event: Event) -> None:
        """H speaks and is cut off from the store, for longer than its word holds; the session is deleted through P. H's
        turn ends with that news while it has something left to say, and may not say it."""
        if isinstance(event, RunStarted) and self._springs("deleted runner", 0.3, rest_s=6.0):
            self._cut(event.process, 5.5)
            client = Client(self._cluster, "ambush", self._rng, [event.key])
            self._later(
                self._rng.uniform(0.5, 4.0), lambda: self._cluster.loop.world.spawn(client.delete(event.key), "ambush")
            )

    def _disowned(self, event: Event) -> None:
        """H runs a turn and others wait. H and P learn that P is the owner; the edge doesn't yet, so that some messages
        still come to H, and some to P, where they wait for the claim when H's batch arrives."""
        if not isinstance(event, RunStarted):
            return
        runner = self._named(event.process)
        others = [
            p for p in self._cluster.processes if p.live and not p.draining and p is not runner and p.view.ref.slot
        ]
        if runner is None or runner.draining or not others or not self._springs("disowned", 0.6, rest_s=1.0):
            return
        owner = self._rng.choice(others)
        for process in (owner, runner):
            process.insist(owner)
            self._later(self._rng.uniform(0.8, 3.0), process.agree)

    def _lost_receipt(self, event: Event) -> None:
        """H hands its batch to P, which gets it; H never learns of it, and runs the turns itself. One of them fails at
        H. P has it too, and will run it as soon as it gets the lease."""
        if isinstance(event, RunStarted) and self._springs("lost receipt", 0.5, rest_s=3.0):
            self._cluster.network.receipts_lost = True
            self._later(self._rng.uniform(0.5, 2.0), self._deliver_receipts)

    def _slow_batch(self, event: Event) -> None:
        """H's batch is on its way to P, and so are more messages to H: they join the line at H before P answers."""
        if isinstance(event, RunStarted) and self._springs("slow batch", 0.5, rest_s=3.0):
            dice = self._cluster.network.dice
            dice.slow = 0.8
            self._later(self._rng.uniform(1.0, 2.5), lambda: setattr(dice, "slow", 0.0))

    def _slow_release(self, event: Event) -> None:
        """P has H's batch, and H's release is long on its way. Meanwhile messages come to H, and the way to P breaks. H
        could have the lease again for the asking, and P's batch would be overtaken."""
        store = self._cluster.store
        if isinstance(event, RunStarted) and self._springs("slow release", 0.7, rest_s=2.0):
            store.release_late_s = self._rng.uniform(0.1, 0.7)
            self._cluster.network.dice.lost_pass = 0.5
            self._later(2.0, self._hurry_releases)

    def _helpless_heir(self, event: Event) -> None:
        """H is frozen with a turn; the edge repeats it at P, which believes to be the owner and can't reach the store
        until its patience ends. It has done nothing; H thaws, and does the turn."""
        if not (isinstance(event, RunStarted) and self._springs("helpless heir", 0.4, rest_s=12.0)):
            return
        for process in self._cluster.processes:
            if process.name == event.process:
                self._later(0.001, process.freeze)
                self._later(self._rng.uniform(8.0, 9.0), process.thaw)
            elif process.live:
                process.insist()
                self._later(10.0, process.agree)
                self._cut(process.name, 10.0)

    def _table_twin(self, event: Event) -> None:
        """A host has just joined; a twin of its join arrives. Or the slot was a dead host's, and a twin of the call
        arrives that took it from that one."""
        if not (isinstance(event, TableCall) and event.call == "join" and self._springs("table twin", 0.8, rest_s=0.1)):
            return
        slot, delay_s = event.table.slot_of(event.incarnation), self._rng.uniform(0.001, 0.05)
        store = self._cluster.store
        self._later(
            delay_s,
            lambda: store.repeat_table_call(f"evict {slot}") or store.repeat_table_call(f"join {event.incarnation}"),
        )

    def _straggler(self, event: Event) -> None:
        """G has just seen everybody's last beat when the store goes away, for all alike. It comes back for G first,
        which has a claim under way for what H holds: H's silence was nobody's fault; G must not take it for death."""
        if not isinstance(event, Beaten) or not self._springs("straggler", 0.1, rest_s=8.0):
            return
        rng, store = self._rng, self._cluster.store
        away_s = rng.uniform(2.2, 4.0)
        late = {process.name for process in self._cluster.processes if process.name != event.process}
        if (first := self._named(event.process)) is not None and not first.draining:
            first.insist()
            self._later(away_s + 2.0, first.agree)
        self._cluster.edge.strays = 0.7
        self._later(0.005, lambda: setattr(store, "down", True))
        self._later(away_s, lambda: store.cut.update(late))
        self._later(away_s, lambda: setattr(store, "down", False))
        self._later(away_s + rng.uniform(0.8, 1.7), lambda: store.cut.difference_update(late))

    # --- how ----------------------------------------------------------------------------------------------------

    def _springs(self, name: str, probability: float, rest_s: float) -> bool:
        now = self._cluster.loop.time()
        if now < self._rests_until.get(name, 0.0) or self._rng.random() >= probability:
            return False
        self._rests_until[name] = now + rest_s
        self._fault(name)
        return True

    def _fault(self, name: str) -> None:
        self._cluster.history.add(Fault(name))

    def _later(self, delay_s: float, act: Callable[[], object]) -> None:
        self._cluster.loop.world.call(delay_s, self._unless_lifted, act)

    def _unless_lifted(self, act: Callable[[], object]) -> None:
        if self._cluster.history.watcher is not None:
            act()

    def _cut(self, name: str, duration_s: float) -> None:
        """Its way to the store is gone for so long; that to its clients isn't."""
        store = self._cluster.store
        store.cut.add(name)
        self._cluster.history.add(Process(name, "cut"))
        self._later(duration_s, lambda: store.cut.discard(name))

    def _deliver_receipts(self) -> None:
        self._cluster.network.receipts_lost = False

    def _hurry_releases(self) -> None:
        self._cluster.store.release_late_s = 0.0
        self._cluster.network.dice.lost_pass = 0.0

    def _forget(self) -> None:
        self._cluster.store.restore()

    def _scatter(self, duration_s: float) -> None:
        """For a while everybody believes to be alone, and messages go to anybody."""
        for process in self._cluster.processes:
            if process.live and not process.draining:
                process.insist()
                self._later(duration_s, process.agree)
        self._cluster.edge.strays = 1.0
        self._later(duration_s, self._gather)

    def _gather(self) -> None:
        self._cluster.edge.strays = self._strays

    def _named(self, name: str) -> SimProcess | None:
        return next((process for process in self._cluster.processes if process.name == name), None)
