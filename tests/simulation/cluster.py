"""One run: a cluster, its clients and its troubles, from one seed to one history.

The order at the end: trouble ends and everything is healed; the clients finish; a fresh turn is asked of every session;
everybody idles long enough to passivate; the logs are read, from the store and through a host.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable
from typing import Any

from actors.model import SessionKey
from actors.settings import AgentSettings, RingSettings, SessionSettings, Settings, StoreSettings
from actors.stores.base import Turns
from tests.simulation.chained import Chained
from tests.simulation.edge import Edge
from tests.simulation.history import Fault, History, Log, Problem
from tests.simulation.loop import LANE, LoopStuck, NeverEnds, SimLoop
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.process import SimProcess
from tests.simulation.store_faults import Backend, MemoryBackend, StoreWorld, at_once
from tests.simulation.workload import Client

SETTLE_S = 5.0
FINISH_S = 700.0
STARTS_MAX = 100
"""Looks at whether all hosts have joined, 0.1 s apart. If they never do, the checker says why."""

SETTINGS = Settings(
    agent=AgentSettings(deadline_s=6.0),
    session=SessionSettings(
        ttl_s=0.0,
        idle_s=4.0,
        resident_max=3,
        mailbox_max=4,
        attachments_max=3,
        request_wait_s=300.0,
        commit_patience_s=6.0,
        claim_patience_s=6.0,
        handoff_wait_s=6.0,
        takeovers_max=3,
        suspect_pause_s=0.2,
        hops_max=6,
        releases_max=2,
        activations_max=2,
        drain_stream_s=8.0,
    ),
    store=StoreSettings(timeout_s=1.0),
    ring=RingSettings(slots_max=8, vnodes=8),
)  # type: ignore[call-arg]
"""Small limits, so that they are reached."""


class Cluster:
    """Made for one run, and run once."""

    def __init__(self, seed: int, backend: Callable[[Cluster], Backend] | None = None) -> None:
        self.seed = seed
        self.plan = Plan(seed)
        limits = SETTINGS.session.model_copy(
            update={"resident_max": self.plan.resident_max, "idle_s": self.plan.idle_s}
        )
        self.settings = SETTINGS.model_copy(update={"session": limits})
        self.loop = SimLoop(random.Random(f"{seed}/loop"))
        self.history = History(self.loop.time)
        self.backend: Backend = backend(self) if backend is not None else MemoryBackend(self.loop)
        self.store = StoreWorld(
            self.loop, random.Random(f"{seed}/store"), self.history, self.backend, self.settings.store.timeout_s
        )
        self.network = Network(self.loop, random.Random(f"{seed}/network"), self.history)
        self.sessions = [SessionKey(f"s{number}") for number in range(self.plan.sessions)]
        self.processes: list[SimProcess] = []
        self.edge = Edge(self, random.Random(f"{seed}/edge"))
        self._rng = random.Random(f"{seed}/cluster")
        self._started = 0
        self._nemesis = Nemesis(self, self.plan, random.Random(f"{seed}/nemesis"))

    # --- processes ----------------------------------------------------------------------------------------------

    def agent_of(self, process: SimProcess) -> Chained:
        return Chained(process, random.Random(f"{self.seed}/{process.name}"))

    def start(self, address: str | None = None) -> SimProcess:
        """A new incarnation; on its own address if none is named."""
        self._started += 1
        address = address or f"node{self._started}:80"
        if self.network.listener(address) is not None:
            address = f"node{self._started}:80"
        process = SimProcess(self, self._started, address)
        self.processes.append(process)
        self.network.at[address] = process
        return process

    def supervise(self) -> None:
        """Start what is missing."""
        standing = [
            process for process in self.processes if not (process.crashed or process.draining or process.buried)
        ]
        for _ in range(self.plan.hosts - len(standing)):
            gone = [process.address for process in self.processes if process.crashed]
            self.start(self._rng.choice(gone) if gone and self._rng.random() < 0.5 else None)

    async def _supervisor(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 2.0))
            self.supervise()

    async def _gauges(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            for process in self.processes:
                if not process.crashed and not process.frozen:
                    process.gauge()

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> History:
        """The history of this seed. Whatever breaks outside of the clients' sight is in it as a ``Problem``."""
        random.seed(self.seed)
        watch = LogWatch(self.history)
        root = logging.getLogger("rehydra")
        root.addHandler(watch)
        propagate, root.propagate = root.propagate, False
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.loop.run_until(self._main())
        except LoopStuck as stuck:
            self.history.add(Problem("loop", str(stuck)))
        except NeverEnds:
            self.history.add(Problem("loop", f"a step never ended, after {self.loop.steps} steps"))
        except Exception as error:
            self.history.add(Problem("simulation", repr(error)))
        finally:
            if leaked := self.backend.close():
                self.history.add(Problem("store", f"keys without an expiry: {leaked}"))
            root.removeHandler(watch)
            root.propagate = propagate
            for failure in self.loop.failures:
                self.history.add(Problem("asyncio", failure))
            self.history.closed = True
            self.loop.close()
            if collecting:
                gc.enable()
        return self.history

    async def _main(self) -> None:
        self.supervise()
        self.edge.start()
        for _ in range(STARTS_MAX):
            if len(self.backend.members.table().members) == self.plan.hosts:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.6)
        world = self.loop.world
        supervisor = world.spawn(self._supervisor(), "supervisor")
        gauges = world.spawn(self._gauges(), "gauges")
        clients = [
            Client(self, f"c{number}", random.Random(f"{self.seed}/c{number}"), self.sessions)
            for number in range(self.plan.clients)
        ]

        def over() -> bool:
            return self._nemesis.over

        running = [
            world.spawn(client.run(self.plan.actions, self.plan.pace_s, over), client.name) for client in clients
        ]
        nemesis = world.spawn(self._nemesis.run(), "nemesis")
        await nemesis
        done, late = await asyncio.wait(running, timeout=FINISH_S)
        for task in late:
            self.history.add(Problem("clients", f"{task.get_name()} never finished"))
        for task in done:
            task.result()
        supervisor.cancel()
        await self._aftermath(clients[0])
        gauges.cancel()

    async def _aftermath(self, client: Client) -> None:
        await asyncio.sleep(SETTLE_S)
        self.supervise()
        await asyncio.sleep(SETTLE_S)
        self.history.add(Fault("quiet"))
        for key in self.sessions:
            await client.probe(key)
        self.history.add(Fault("probed"))
        await asyncio.sleep(2.0 + self.settings.session.idle_s * 2.5)
        self.history.add(Fault("idle"))
        for process in self.processes:
            if not process.crashed and not process.frozen:
                process.gauge()
        for key in self.sessions:
            for source, answer in (
                ("store", at_once(self.backend.sessions.read(key, 0, 1_000_000))),
                ("host", await client.read(key)),
            ):
                self.history.add(Log(key, source, tuple(answer.turns) if isinstance(answer, Turns) else None))


class LogWatch(logging.Handler):
    """Internal errors that the code logs and survives are problems all the same."""

    QUIET = ("agent failed", "state regressed", "poison turn")

    def __init__(self, history: History) -> None:
        super().__init__(logging.ERROR)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        lane: Any = LANE.get(None)
        if record.levelno >= logging.ERROR and message not in self.QUIET:
            error = record.exc_info[1] if record.exc_info else None
            self._history.add(Problem(getattr(lane, "name", "?"), f"logged: {message} {error!r}"))
