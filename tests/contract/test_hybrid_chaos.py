"""Four hosts at one hybrid session, each with its own wires that break and mend, in seeded disorder.

They take it over from each other whether the holder is dead or not, die at any moment, repeat what stayed unknown, and
in some runs Redis forgets the session. Each host's view of what was confirmed is what its clients were told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from actors.errors import StoreUnavailable
from actors.model import HostRef, SessionKey
from actors.stores.base import Granted, Held, Ok, Regressed, Replayed, Turns
from actors.stores.hybrid import HybridStore
from tests.contract.hybrid_lab import Host, HybridLab
from tests.contract.lab import Talk, fresh_key

SEEDS = range(4)
HOSTS = 4
STEPS = (10, 25)


@pytest_asyncio.fixture(params=["hot", "durable"])
async def lab(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> AsyncIterator[HybridLab]:
    lab = HybridLab(request.param, server_url("valkey"), server_url("postgres"))
    try:
        yield lab
    finally:
        await lab.aclose()


@dataclass
class Session:
    """One session, and what the world was told of it."""

    lab: HybridLab
    key: SessionKey
    rng: random.Random
    forgetful: bool
    confirmed: list[str] = field(default_factory=list)
    reported: int = 0
    count: int = 0

    def fresh(self, what: str) -> str:
        self.count += 1
        return f"{what}-{self.count}"

    def sees(self, log: list[str], before: list[str]) -> None:
        """I2: whoever asks after a turn was confirmed finds it."""
        assert self.forgetful or [turn_id for turn_id in before if turn_id not in log] == []


class Life:
    """One host: a claim now and then, a turn most of the time, and every accident."""

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.ref = HostRef(f"inc-{session.key.session_id}-{number}", "", f"host:{number}")
        self.wires = Host()
        self.store: HybridStore = session.lab.store(host=self.wires, lag_max_s=0.05)
        self.talk: Talk | None = None
        self.attempt = ""

    async def run(self) -> None:
        rng = self.session.rng
        for _ in range(rng.randint(*STEPS)):
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.003)))
            if self.wires.dead:
                return
            try:
                await self._step(rng.random())
            except StoreUnavailable:
                if rng.random() < 0.2:
                    self.talk = None

    async def _step(self, chance: float) -> None:
        talk = self.talk
        if talk is None or chance < 0.08:
            await self._claim()
        elif chance < 0.75:
            await self._commit(talk)
        elif chance < 0.8:
            await self._hears(await talk.check())
        elif chance < 0.85:
            self.talk = None
            await self._hears(await talk.release())
        elif chance < 0.9:
            self.wires.cut ^= {self.session.rng.choice(("redis", "postgres"))}
        elif chance < 0.94:
            self.wires.cut.clear()
        elif chance < 0.97:
            before = list(self.session.confirmed)
            answer = await self.store.read(self.session.key, 0, 1000)
            if isinstance(answer, Turns):
                self.session.sees([turn.turn_id for turn in answer.turns], before)
        elif chance < 0.98 and self.session.forgetful:
            await self.session.lab.redis.expire(self.session.key)
        elif chance > 0.99:
            self.wires.die()

    async def _claim(self) -> None:
        session, self.talk, before = self.session, None, list(self.session.confirmed)
        talk = Talk(self.store, session.key, self.ref, session.fresh("token"))
        answer = await self.store.claim(session.key, talk.token, self.ref)
        if isinstance(answer, Held) and session.rng.random() < 0.5:
            over = (answer.holder.incarnation, answer.epoch)
            answer = await self.store.claim(session.key, talk.token, self.ref, over)
        if isinstance(answer, Granted):
            talk.granted, talk.log = answer, [turn.turn_id for turn in answer.checkpoint.turns]
            session.sees(talk.log, before)
            self.talk, self.attempt = talk, ""

    async def _commit(self, talk: Talk) -> None:
        self.attempt = self.attempt or self.session.fresh("turn")
        answer = await talk.commit(self.attempt)
        if isinstance(answer, Ok | Replayed):
            if self.attempt not in self.session.confirmed:
                self.session.confirmed.append(self.attempt)
            if isinstance(answer, Replayed):
                talk.log.append(self.attempt)
            self.attempt = ""
        else:
            await self._hears(answer)

    async def _hears(self, answer: object) -> None:
        self.session.reported += isinstance(answer, Regressed)
        if answer != Ok():
            self.talk = None


@pytest.mark.parametrize("forgetful", [False, True], ids=["Redis keeps", "Redis forgets"])
async def test_what_was_confirmed_is_there_or_its_loss_was_reported(lab: HybridLab, forgetful: bool) -> None:
    """I1, I2, I3: and while Redis forgets nothing, nobody speaks of a loss."""
    for seed in SEEDS:
        session = Session(lab, fresh_key(), random.Random(f"{seed} {lab.ack} {forgetful}"), forgetful)
        hosts = [Life(session, number) for number in range(HOSTS)]
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(host.run())
        for host in hosts:
            host.wires.die()
        last = Talk(lab.store(), session.key, HostRef("inc-last", "", "host:9"))
        answer = await last.store.claim(last.key, "looks", last.host)
        await last.claim((answer.holder.incarnation, answer.epoch) if isinstance(answer, Held) else None)
        lost = [turn_id for turn_id in session.confirmed if turn_id not in last.log]
        reported = session.reported + sum(host.store.stats()["lost_turns"] for host in hosts)
        assert len(set(last.log)) == len(last.log)
        if lost and not reported:
            reported += isinstance(await last.commit("final"), Regressed)
        assert bool(lost) <= bool(reported), f"seed {seed}: lost in silence {lost}"
        assert forgetful or not reported, f"seed {seed}: a loss is reported, and nothing was lost"
