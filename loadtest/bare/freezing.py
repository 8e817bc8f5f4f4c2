"""One freeze: SIGSTOP of a host with turns and streams running on it, SIGCONT, and what became of those.

What is going on meanwhile: requests straight to the victim and by the edge, which run when it stops; soon after, the
former's messages again by the edge, and one more message in each of their sessions, so that the others overtake the
victim. It is stopped from outside at any moment of a turn, or by its own agent exactly in the middle of a reply, or
between the reply's last word and the commit.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loadtest.bare.deployment import Bare, Host, NotSo, until
from loadtest.bare.store import Watch
from loadtest.bare.traffic import Traffic
from loadtest.client import Answer, Client, Kind

STRUCK = 6
"""Sessions whose turns are to run on the victim when it stops."""
WORDS = 20
BEGIN_S = 15.0
STRAIGHT_S = 40.0
"""How long the clients wait that speak to the victim itself."""
NOTICED_S = 0.4
"""When they lose patience, and send the same by the edge as well."""
GONE_S = 20.0
SPARE_S = 10.0


class Lasts(StrEnum):
    """How long, compared with the time after which a silent host counts as dead (2 s)."""

    SHORTER = "shorter"
    AROUND = "around"
    LONGER = "longer"
    REPLACED = "replaced"
    """Until another host has taken its slot."""


class Phase(StrEnum):
    """Where in a turn."""

    ANY = "any moment"
    STREAM = "mid-reply"
    COMMIT = "before the commit"


SECONDS = {
    Lasts.SHORTER: (0.3, 1.6),
    Lasts.AROUND: (1.8, 2.6),
    Lasts.LONGER: (2.8, 5.0),
    Lasts.REPLACED: (0.2, 1.5),  # after the other one has the slot
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What freeze ``number`` of a seed shall be."""

    number: int
    lasts: Lasts
    phase: Phase
    for_s: float

    @classmethod
    def of(cls, seed: int, number: int) -> Plan:
        """A third is shorter, a third around, and of the rest every fifth ``REPLACED``; chance says how long."""
        dice = random.Random(f"{seed}-{number}")
        third = (Lasts.SHORTER, Lasts.AROUND, Lasts.REPLACED if number % 15 == 14 else Lasts.LONGER)
        lasts = third[number % 3]
        phase = tuple(Phase)[number // 3 % 3]
        return cls(number, lasts, phase, round(dice.uniform(*SECONDS[lasts]), 3))


@dataclass(slots=True)
class Frozen:
    """One freeze as it was. ``running``: requests that the victim had not answered when it stopped."""

    plan: Plan
    slot: str
    incarnation: str
    running: int = 0
    stopped_s: float = 0.0
    """How long it really was."""
    evicted: bool = False
    moved: int = 0
    """Struck sessions of which another host had begun an epoch when it thawed."""
    fenced: int = 0
    """Activations that it lost afterwards, by its own count."""
    straight: dict[str, int] = field(default_factory=dict)
    """What those heard who had asked it itself, by kind of answer."""
    successor: str = ""
    """Who had its slot when it thawed."""
    trouble: str = ""

    @property
    def effective(self) -> bool:
        """Whether it counts: it hit something, and where it was long enough its sessions went on elsewhere."""
        felt = self.moved > 0 or self.plan.lasts in (Lasts.SHORTER, Lasts.AROUND)
        replaced = bool(self.successor) or self.plan.lasts is not Lasts.REPLACED
        return self.running > 0 and self.stopped_s > 0 and felt and replaced and not self.trouble


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that was to be running on the victim, and the answer to its first sending."""

    key: str
    metadata: dict[str, Any]
    streams: bool
    straight: bool
    answer: asyncio.Task[Answer]


class Freezer:
    """Freezes hosts of one deployment, one at a time. ``pool``: sessions that nobody else talks in."""

    def __init__(self, bare: Bare, traffic: Traffic, watch: Watch, pool: list[str], seed: int) -> None:
        self._bare = bare
        self._traffic = traffic
        self._watch = watch
        self._pool = pool
        self._random = random.Random(seed)

    async def freeze(self, plan: Plan) -> Frozen:
        """Freeze a host and see it through: back on the ring, or gone and replaced. NotSo if it isn't."""
        hosts = await self._bare.settled()
        slot = self._random.choice(sorted(hosts))
        victim = hosts[slot]
        frozen = Frozen(plan, slot, victim.incarnation)
        sessions = await self._held_by(victim)
        fenced = int((await victim.stats())["passivated"]["fenced"])
        asked = self._strike(plan, victim, sessions)
        overtakers: list[asyncio.Task[None]] = []
        try:
            await self._until_stopped(plan, victim, asked)
            stopped_at = time.monotonic()
            epochs = {name: self._watch.epoch_at(name, stopped_at) for name in sessions}
            frozen.running = sum(not each.answer.done() for each in asked.values())
            overtakers += [asyncio.create_task(self._overtake(name, each)) for name, each in asked.items()]
            await self._while_stopped(frozen, stopped_at)
            await self._watch.look()
            frozen.stopped_s = round(time.monotonic() - stopped_at, 3)
            frozen.moved = sum(self._watch.epoch_at(name, time.monotonic()) > epochs[name] for name in sessions)
        finally:
            victim.signal(signal.SIGCONT)
            await asyncio.wait([*overtakers, *(each.answer for each in asked.values())])
        frozen.straight = dict(Counter(each.answer.result().kind.value for each in asked.values() if each.straight))
        frozen.fenced = int((await victim.stats())["passivated"]["fenced"]) - fenced
        if frozen.successor:
            await self._spare_leaves(victim, frozen)
        return frozen

    async def _held_by(self, victim: Host) -> list[str]:
        """Sessions of the pool whose lease the victim holds; the others get turns until there are enough."""
        for _ in range(10):
            await self._watch.look()
            held = [name for name in self._pool if self._watch.holder(name) == victim.incarnation]
            if len(held) >= STRUCK:
                return self._random.sample(held, STRUCK)
            others = self._random.sample(sorted(set(self._pool) - set(held)), 12)
            await asyncio.gather(*(self._traffic.deliver(name, self._traffic.key(name), {}) for name in others))
        raise NotSo(f"{victim.slot} gets hardly any sessions")

    def _strike(self, plan: Plan, victim: Host, sessions: list[str]) -> dict[str, Asked]:
        """A message in each session: two in three straight to the victim, half of them streamed."""
        straight = Client(victim.address, STRAIGHT_S)
        asked = {}
        for position, name in enumerate(sessions):
            metadata: dict[str, Any] = {"words": WORDS, "over_s": round(self._random.uniform(1.2, 2.5), 3)}
            if position == 0 and plan.phase is not Phase.ANY:
                after = WORDS // 2 if plan.phase is Phase.STREAM else WORDS
                metadata |= {"over_s": 0.8, "stop": {"pid": victim.pid, "after": after}}
            key, streams, to = self._traffic.key(name), position % 2 == 0, straight if position % 3 < 2 else None
            asking = self._traffic.once(name, key, metadata, streams=streams, straight_to=to)
            asked[name] = Asked(key, metadata, streams, to is not None, asyncio.create_task(asking))
        return asked

    async def _until_stopped(self, plan: Plan, victim: Host, asked: dict[str, Asked]) -> None:
        streamed = {name for name, each in asked.items() if each.streams}
        begun = time.monotonic()

        async def stream() -> bool:
            heard = {delta.session for delta in self._traffic.heard if delta.computed_at > begun}
            return heard >= streamed or victim.stopped

        async def stopped() -> bool:
            return victim.stopped

        await until(stream, "streams on the victim", BEGIN_S)
        if plan.phase is Phase.ANY:
            await asyncio.sleep(self._random.uniform(0.0, 0.6))
            victim.signal(signal.SIGSTOP)
        await until(stopped, "a stopped victim", BEGIN_S)

    async def _overtake(self, session: str, asked: Asked) -> None:
        """The same message by the edge, if there is no answer yet, and then the next one of the session."""
        done, _ = await asyncio.wait((asked.answer,), timeout=NOTICED_S)
        if not done or asked.answer.result().kind is not Kind.OK:
            await self._traffic.deliver(session, asked.key, asked.metadata, streams=not asked.streams)
        await self._traffic.deliver(session, self._traffic.key(session), {"words": 2})

    async def _while_stopped(self, frozen: Frozen, stopped_at: float) -> None:
        if frozen.plan.lasts is Lasts.REPLACED:
            await self._replace(frozen)
            await asyncio.sleep(frozen.plan.for_s)
        else:
            await asyncio.sleep(max(0.0, stopped_at + frozen.plan.for_s - time.monotonic()))
        await self._watch.look()
        frozen.evicted = frozen.incarnation not in self._watch.tables[-1][1]

    async def _replace(self, frozen: Frozen) -> None:
        """Another host in the victim's slot, as Serve would start one."""

        async def evicted() -> bool:
            return frozen.incarnation not in (await self._bare.table()).values()

        await until(evicted, f"{frozen.incarnation} evicted", GONE_S)
        successor = await self._bare.start_host()

        async def took_over() -> bool:
            return (await self._bare.table()).get(frozen.slot) == successor.incarnation

        await until(took_over, f"another host in {frozen.slot}", GONE_S)
        frozen.successor = successor.incarnation

    async def _spare_leaves(self, victim: Host, frozen: Frozen) -> None:
        """It thawed and found its slot taken: it must wait as a spare. Then it goes, in good order."""

        async def spare() -> bool:
            view = await victim.ring()
            return view["slot"] is None and not await victim.ready()

        await until(spare, f"{victim.incarnation} without a slot", SPARE_S)
        if code := await self._bare.leave(victim):
            frozen.trouble = f"the spare left with exit code {code}"
