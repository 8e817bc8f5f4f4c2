"""What goes wrong, and when: the one who carries a seed's plan out.

Seeds that forget (``plan.forgets``) are declared as such: there, and only there, may confirmed turns be lost, and must
then be reported. At the end everything is healed, and the cluster has to recover by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.ambush import Ambush
from tests.simulation.history import Fault, Process
from tests.simulation.plan import Plan

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.process import SimProcess


class Nemesis:
    """Lives in the world's lane."""

    def __init__(self, cluster: Cluster, plan: Plan, rng: random.Random) -> None:
        self._cluster = cluster
        self._plan = plan
        self._rng = rng
        self._acts: dict[str, Callable[[], None]] = {
            "crash": self._crash, "replace": self._replace, "freeze": self._freeze, "stall": self._stall,
            "outage": self._outage, "cut": self._cut, "network": self._network, "store": self._store,
            "stale": self._stale, "stale edge": self._stale_edge, "drain": self._drain, "expire": self._expire,
            "strays": self._strays, "scale up": self._scale_up, "forget": self._forget, "bury": self._bury,
            "split": self._split, "lag": self._lag, "ghost": self._ghost,
            "slow claims": self._slow_claims, "stuck": self._stuck,
        }  # fmt: skip
        self._ambush = Ambush(cluster, plan, rng)
        self.over = False

    async def run(self) -> None:
        cluster, rng = self._cluster, self._rng
        end = cluster.loop.time() + self._plan.trouble_s
        kinds = self._plan.kinds
        if self._plan.forgets:
            cluster.store.snapshot()
        cluster.edge.strays = self._plan.strays
        self._ambush.lay()
        if self._plan.ambushes and not kinds:
            await asyncio.sleep(self._plan.trouble_s)
        while kinds:
            await asyncio.sleep(rng.expovariate(1 / self._plan.pause_s))
            if cluster.loop.time() >= end:
                break
            if self._plan.forgets and rng.random() < 0.2:
                cluster.store.snapshot()
            kind = rng.choice(kinds)
            cluster.history.add(Fault(kind))
            self._acts[kind]()
        self.heal()

    def heal(self) -> None:
        """Whatever was broken works again; the hosts that are gone have successors."""
        cluster = self._cluster
        self.over = True
        self._ambush.lift()
        cluster.store.down = False
        cluster.store.cut.clear()
        cluster.store.full_until.clear()
        for dice in (cluster.network.dice, cluster.store.dice):
            for name in vars(dice):
                setattr(dice, name, 0.0)
        cluster.edge.stale = False
        cluster.edge.strays = 0.0
        for process in cluster.processes:
            process.agree()
            if not process.buried:
                process.thaw()
        cluster.supervise()
        cluster.history.add(Fault("healed"))

    def _later(self, delay_s: float, act: Callable[[], object]) -> None:
        self._cluster.loop.world.call(delay_s, act)

    def _victim(self) -> SimProcess | None:
        processes = [process for process in self._cluster.processes if not process.crashed]
        return self._rng.choice(processes) if processes else None

    # --- the kinds ----------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        if (process := self._victim()) is not None:
            process.crash()

    def _replace(self) -> None:
        """The address is taken at once by a new incarnation."""
        if (process := self._victim()) is not None:
            process.crash()
            self._later(self._rng.choice((0.0, 0.01, 0.3)), lambda: self._cluster.start(process.address))

    def _freeze(self) -> None:
        if (process := self._victim()) is not None:
            process.freeze()
            duration_s = self._rng.choice((0.05, 0.8, 1.5, 2.2, 3.0, 4.0, 7.0))
            self._later(duration_s * self._rng.uniform(0.8, 1.2), lambda: process.buried or process.thaw())

    def _bury(self) -> None:
        """Frozen, and never to thaw: it accepts connections for ever."""
        if (process := self._victim()) is not None and len([p for p in self._cluster.processes if p.buried]) < 2:
            process.buried = True
            process.freeze()

    def _stall(self) -> None:
        if (process := self._victim()) is not None:
            process.stall(self._rng.choice((0.2, 1.5, 3.0, 6.0)))

    def _outage(self) -> None:
        store = self._cluster.store
        store.down = True
        self._later(self._rng.choice((0.2, 1.0, 3.0, 8.0)), lambda: setattr(store, "down", False))

    def _cut(self) -> None:
        if (process := self._victim()) is not None:
            store, history = self._cluster.store, self._cluster.history
            store.cut.add(process.name)
            history.add(Process(process.name, "cut"))
            self._later(self._rng.choice((0.5, 2.0, 3.5, 6.0)), lambda: store.cut.discard(process.name))

    def _network(self) -> None:
        dice, rng = self._cluster.network.dice, self._rng
        for name in vars(dice):
            setattr(dice, name, rng.choice((0.0, 0.02, 0.1, 0.3)))

    def _store(self) -> None:
        dice, rng = self._cluster.store.dice, self._rng
        for name in vars(dice):
            setattr(dice, name, rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)))
        dice.stuck = 0.0
        dice.lost_beat = min(dice.lost_beat, 0.1)

    def _stuck(self) -> None:
        """Whoever sends a commit again finds a full store, and mustn't say of the first that it isn't done."""
        self._cluster.store.dice.stuck = 0.3

    def _lag(self) -> None:
        """The store is slow, and now and then very slow."""
        self._cluster.store.dice.slow = self._rng.choice((0.0, 0.1, 0.5))

    def _slow_claims(self) -> None:
        """Loading a session takes its time."""
        self._cluster.store.dice.slow_claim = self._rng.choice((0.3, 1.0))

    def _ghost(self) -> None:
        """H is frozen until G has found it dead; then H comes back and G is frozen at that moment, with requests on
        their way to it. When G thaws, it knows of H's death, not of its return."""
        cluster, rng = self._cluster, self._rng
        living = [p for p in cluster.processes if p.live and not p.draining and p.view.ref.slot]
        if len(living) < 2 or any(process.frozen for process in cluster.processes):
            return
        silent, ghost = rng.sample(living, 2)
        silent.freeze()
        cluster.edge.strays = 1.0

        def swap() -> None:
            if not self.over:
                silent.thaw()
                ghost.freeze()
                self._later(rng.uniform(7.0, 10.0), ghost.thaw)

        def look(tries: int) -> None:
            if ghost.live and not self.over and ghost.view.is_dead(silent.view.ref):
                self._later(rng.uniform(0.0, 0.3), swap)
            elif tries:
                self._later(0.1, lambda: look(tries - 1))
            else:
                silent.thaw()

        look(40)

    def _stale(self) -> None:
        if (process := self._victim()) is not None:
            process.stale = not process.stale

    def _split(self) -> None:
        """A host whose ring names nobody but itself: the most that two rings can differ."""
        if (process := self._victim()) is not None:
            process.insist()
            self._later(self._rng.choice((0.5, 2.0, 6.0)), process.agree)

    def _stale_edge(self) -> None:
        self._cluster.edge.stale = not self._cluster.edge.stale

    def _strays(self) -> None:
        self._cluster.edge.strays = self._rng.choice((0.0, 0.3, 1.0))

    def _drain(self) -> None:
        serving = [process for process in self._cluster.processes if process.live and not process.draining]
        if serving:
            self._rng.choice(serving).drain()

    def _scale_up(self) -> None:
        if len([process for process in self._cluster.processes if not process.crashed]) < 5:
            self._cluster.start()

    def _expire(self) -> None:
        self._cluster.store.expire(self._rng.choice(self._cluster.sessions))

    def _forget(self) -> None:
        self._cluster.store.restore()
