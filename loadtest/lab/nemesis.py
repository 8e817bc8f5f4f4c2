"""Carries out a scenario's faults on the experiment's own processes, each timed, logged, and its effect looked for.

Faults come one at a time. Those that a scenario lists wait until all hosts are ready again. Those by chance come at
their own pace, as soon as two hosts are ready: one to be struck, one to go on. Whether traffic ran on a victim is
judged afterwards, from the history (``analysis``). What a fault does is in the file of its family, in ``faults``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from loadtest.client import Unreadable
from loadtest.lab.deployment import Deployment, NotOurs, NotSo
from loadtest.lab.faults import KINDS, Done, Fault, Ground
from loadtest.lab.progress import Progress
from loadtest.lab.scenario import Scenario
from loadtest.lab.tail import NotCut

LAST_S = 2.0
"""No fault begins so shortly before the load ends."""


class Nemesis:
    """Does the faults of one scenario to one deployment."""

    def __init__(self, deployment: Deployment, scenario: Scenario, begun: float, progress: Progress) -> None:
        self.done: list[Done] = []
        self._deployment = deployment
        self._scenario = scenario
        self._begun = begun
        self._progress = progress
        self._ground = Ground(deployment, random.Random(scenario.seed))

    async def run(self) -> None:
        """All faults, in order; returns when all hosts are ready after the last. NotSo if they don't come back."""
        for fault in self._plan():
            await asyncio.sleep(max(0.0, self._begun + fault.at_s - time.monotonic()))
            if time.monotonic() > self._begun + self._scenario.for_s - LAST_S:
                break
            await self._carry_out(fault)
        await self._deployment.ready()
        self._note_ready()

    def _plan(self) -> Iterator[Fault]:
        yield from self._scenario.faults
        if (chance := self._scenario.chance) is None:
            return
        chosen, at_s = self._ground.random, 0.0
        deck: list[str] = []
        while True:
            # Dealt like cards: of a dozen kinds, ten minutes of independent draws would leave one or two out.
            deck = deck or chosen.sample(chance.among, len(chance.among))
            # From the last one's begin, or from now if that took longer: what was missed isn't made up for at once.
            passed = time.monotonic() - self._begun
            at_s = max(at_s + chosen.uniform(*chance.every_s), passed)
            do = deck.pop()
            hosts = chosen.choice(self._other_sizes(chance.hosts)) if KINDS[do].wants_hosts else None
            yield Fault(at_s=at_s, do=do, for_s=chance.for_s, hosts=hosts)

    def _other_sizes(self, among: tuple[int, int]) -> list[int]:
        return [size for size in range(among[0], among[1] + 1) if size != self._deployment.hosts]

    async def _carry_out(self, fault: Fault) -> None:
        kind = KINDS[fault.do]
        wait_for_all = kind.all_ready or self._scenario.chance is None
        ready = await self._deployment.ready(at_least=0 if wait_for_all else min(2, self._deployment.hosts))
        if len(ready) == self._deployment.hosts:
            self._note_ready()
        done = Done(fault.do, time.monotonic())
        self.done.append(done)
        try:
            await kind.carry_out(self._ground, fault, done)
        except (NotSo, NotOurs, NotCut, Unreadable, OSError, psutil.Error) as error:
            done.trouble = f"{type(error).__name__}: {error}"
        if self._scenario.chance is None:
            await self._deployment.ready()
            self._note_ready()
        self._progress.say(
            f"{done.do} {done.slot}: {done.seen or 'no effect seen'}"
            f"{f' ({done.trouble})' if done.trouble else ''}"
            f"{f'; all hosts ready after {done.again_s:.1f} s' if done.again_s else ''}"
        )

    def _note_ready(self) -> None:
        """All hosts are ready now: that is news for every fault before which they weren't yet."""
        now = time.monotonic()
        for done in self.done:
            done.again_s = done.again_s or round(now - done.at, 2)
