"""Carries out a scenario's faults on the experiment's own processes, each timed, logged, and its effect looked for.

One fault at a time: the next one waits until as many hosts as there should be are ready again, so in a row of faults
there is always one to go on. Whether traffic ran on a victim is judged afterwards, from the history (``analysis``);
here is said what was done, to whom, and whether its effect was seen.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from loadtest.client import Unreadable
from loadtest.lab import faults_ray
from loadtest.lab.deployment import LOOK_S, Deployment, NotOurs, NotSo
from loadtest.lab.scenario import Do, Fault, Scenario
from loadtest.processes import alive

EFFECT_S = 30.0
"""How long the effect of a fault may take to show."""

CARRIED_OUT = frozenset(
    {
        Do.SCALE,
        Do.KILL_HOST,
        Do.FREEZE_HOST,
        Do.KILL_REDIS,
        Do.FREEZE_REDIS,
        Do.KILL_EDGE_REPLICA,
        Do.KILL_CONTROLLER,
        Do.KILL_HAPROXY,
        Do.KILL_NODE,
        Do.DRAIN_NODE,
        Do.ROLLING_UPDATE,
    }
)
"""What this nemesis can do; a scenario that wants another fault is refused before anything is started."""


@dataclass(slots=True)
class Done:
    """One fault as it happened. ``slot``: the victims, ``*`` for everybody, empty for nobody's traffic."""

    do: Do
    at: float
    slot: str = ""
    pid: int = 0
    seen: str = ""
    """What was seen of its effect; empty: nothing."""
    again_s: float = 0.0
    """Until all hosts were ready again."""
    traffic: int = 0
    """Operations that were under way on the victim; from the history."""
    trouble: str = ""

    @property
    def effective(self) -> bool:
        return bool(self.seen) and self.traffic > 0


class Nemesis:
    """Does the faults of one scenario to one deployment."""

    def __init__(self, deployment: Deployment, scenario: Scenario, begun: float) -> None:
        self.done: list[Done] = []
        self._deployment = deployment
        self._scenario = scenario
        self._begun = begun
        self._random = random.Random(scenario.seed)

    async def run(self) -> None:
        """All faults, in order. NotSo if the deployment doesn't come back from one."""
        for fault in self._plan():
            await asyncio.sleep(max(0.0, self._begun + fault.at_s - time.monotonic()))
            if time.monotonic() > self._begun + self._scenario.for_s - 2:
                return
            await self._carry_out(fault)

    def _plan(self) -> Iterator[Fault]:
        yield from self._scenario.faults
        if (chance := self._scenario.chance) is None:
            return
        while True:
            passed = time.monotonic() - self._begun
            at_s = passed + self._random.uniform(*chance.every_s)
            yield Fault(at_s=at_s, do=self._random.choice(chance.among), for_s=chance.for_s)

    async def _carry_out(self, fault: Fault) -> None:
        await self._deployment.ready()
        done = Done(fault.do, time.monotonic())
        self.done.append(done)
        try:
            await getattr(self, f"_{fault.do}")(fault, done)
        except (NotSo, NotOurs, Unreadable, psutil.Error, ProcessLookupError) as error:
            done.trouble = f"{type(error).__name__}: {error}"
        await self._deployment.ready()
        done.again_s = round(time.monotonic() - done.at, 2)
        print(
            f"{done.at - self._begun:6.1f} s  {done.do} {done.slot} (pid {done.pid}):"
            f" {done.seen or 'no effect seen'} {done.trouble}; all ready after {done.again_s} s",
            flush=True,
        )

    def _strike(self, done: Done, pid: int, number: int, slot: str) -> None:
        done.pid, done.slot, done.at = pid, slot, time.monotonic()
        self._deployment.signal(pid, number)

    async def _until_gone(self, done: Done) -> None:
        deadline = time.monotonic() + EFFECT_S
        while alive(done.pid):
            if time.monotonic() > deadline:
                raise NotSo(f"process {done.pid} lives")
            await asyncio.sleep(LOOK_S)
        done.seen = f"pid {done.pid} is gone"

    async def _one_host(self) -> tuple[str, int]:
        ring = await self._deployment.ring()
        slot = self._random.choice(sorted(ring))
        return slot, int(ring[slot]["pid"])

    async def _scale(self, fault: Fault, done: Done) -> None:
        before = await self._deployment.ring()
        done.at = time.monotonic()
        await self._deployment.scale(fault.hosts or len(before))
        after = await self._deployment.ready()
        done.slot = ",".join(sorted(before.keys() ^ after.keys()))
        done.seen = f"{len(before)} -> {len(after)} hosts" if done.slot else ""

    async def _kill_host(self, fault: Fault, done: Done) -> None:
        slot, pid = await self._one_host()
        self._strike(done, pid, signal.SIGKILL, slot)
        await self._until_gone(done)

    async def _freeze_host(self, fault: Fault, done: Done) -> None:
        slot, pid = await self._one_host()
        host = (await self._deployment.ring())[slot]["host"]
        self._strike(done, pid, signal.SIGSTOP, slot)
        try:
            await self._until_off_the_ring(host, fault.for_s)
            done.seen = f"{host} left the ring after {time.monotonic() - done.at:.2f} s, stopped"
            await asyncio.sleep(max(0.0, done.at + fault.for_s - time.monotonic()))
        finally:
            self._deployment.signal(pid, signal.SIGCONT)

    async def _until_off_the_ring(self, host: str, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            try:
                if host not in {member["host"] for member in (await self._deployment.ring()).values()}:
                    return
            except Unreadable:
                pass
            await asyncio.sleep(LOOK_S)
        raise NotSo(f"{host} is still on the ring after {wait_s:g} s")

    async def _kill_redis(self, fault: Fault, done: Done) -> None:
        self._strike(done, self._deployment.redis_pid(), signal.SIGKILL, "*")
        await self._until_gone(done)

    async def _freeze_redis(self, fault: Fault, done: Done) -> None:
        self._strike(done, self._deployment.redis_pid(), signal.SIGSTOP, "*")
        try:
            await asyncio.sleep(fault.for_s)
            if psutil.Process(done.pid).status() == psutil.STATUS_STOPPED:
                done.seen = f"pid {done.pid} stood still for {fault.for_s:g} s"
        finally:
            self._deployment.signal(done.pid, signal.SIGCONT)

    async def _kill_edge_replica(self, fault: Fault, done: Done) -> None:
        self._strike(done, self._deployment.actor_pid("ServeReplica:rehydra:Edge"), signal.SIGKILL, "*")
        await self._until_gone(done)

    async def _kill_controller(self, fault: Fault, done: Done) -> None:
        self._strike(done, self._deployment.actor_pid("ServeController"), signal.SIGKILL, "*")
        await self._until_gone(done)

    async def _kill_haproxy(self, fault: Fault, done: Done) -> None:
        self._strike(done, self._deployment.edge_pid(), signal.SIGKILL, "*")
        await self._until_gone(done)

    async def _kill_node(self, _: Fault, done: Done) -> None:
        self._struck(done, *await faults_ray.kill_node(self._deployment, self._random))

    async def _drain_node(self, fault: Fault, done: Done) -> None:
        self._struck(done, *await faults_ray.drain_node(self._deployment, self._random, fault.for_s))

    async def _rolling_update(self, fault: Fault, done: Done) -> None:
        # Any setting that means nothing here: what counts is that it differs from the last.
        args = {"session": {"idle_s": 1000 + len(self.done)}}
        options = {"max_surge_percent": fault.surge_percent}
        self._struck(done, *await faults_ray.rolling_update(self._deployment, args, options))

    def _struck(self, done: Done, at: float, pid: int, slots: list[str], seen: str) -> None:
        done.at, done.pid, done.slot, done.seen = at, pid, ",".join(slots), seen
