"""The four experiments on one way that runs, and what each has to tell."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.checker import check
from loadtest.compare.figures import Used, answers, costs, word
from loadtest.compare.measures import bytes_received, memory_bytes
from loadtest.compare.plan import Plan
from loadtest.compare.start import Running
from loadtest.compare.visitor import Sample, Visitor
from loadtest.history import History
from loadtest.processes import busy_s, used_s
from loadtest.wire import Address

READERS = 4
LENGTHS_AT_ONCE = 2


@dataclass(slots=True)
class Scene:
    """One experiment: its visitors, what they saw, and their history."""

    history: History
    to: Address
    name: str
    numbers: Iterator[int]
    samples: list[Sample] = field(default_factory=list)
    visitors: list[Visitor] = field(default_factory=list)

    def visitor(self) -> Visitor:
        """A new one with a session of its own."""
        number = next(self.numbers)
        self.visitors.append(Visitor(self.to, f"{self.name}-{number}", number, self.history, self.samples))
        return self.visitors[-1]


class Course:
    """All experiments on one way, one after the other."""

    def __init__(self, running: Running, plan: Plan, folder: Path) -> None:
        """``folder`` gets the histories."""
        self._running = running
        self._plan = plan
        self._folder = folder
        self._numbers = itertools.count()

    async def run(self) -> dict[str, Any]:
        """What all of them have to tell, by name."""
        await self._warm()
        begun, others_s = time.monotonic(), self._others_s()
        told: dict[str, Any] = {"ordinary": await self._ordinary(), "at_once": await self._at_once()}
        told["lengths"] = await self._lengths()
        told["others_cores"] = round((self._others_s() - others_s) / (time.monotonic() - begun), 2)
        told["memory_bytes"] = memory_bytes(self._running.processes())
        told["server_gone"] = await self._server_gone()
        return told

    # --- the four -------------------------------------------------------------------------------------------------

    async def _ordinary(self) -> dict[str, Any]:
        plan, scene = self._plan, self._scene("ordinary")
        with scene.history:
            for _ in range(plan.talks):
                scene.visitor()
            before = self._used()
            await at_rate(scene.visitors, plan.rate, plan.rated_s, 0.0)
            rated = list(scene.samples)
            spent = costs(before, self._used(), rated)
            begun = time.monotonic()
            await back_to_back(scene.visitors, plan.users, begun + plan.users_s)
            fast = scene.samples[len(rated) :]
            seconds = time.monotonic() - begun
            unread = await self._read(scene)
        per_s = sum(sample.ok for sample in fast) / seconds
        # Counts are of all messages, latency is of those that came at a rate.
        timed = {name: found for name, found in answers(rated).items() if name.endswith("_ms")}
        spent["turns_per_s"] = round(per_s, 1)
        return {**answers(scene.samples), **timed, **spent, **self._word(scene, unread)}

    async def _at_once(self) -> dict[str, Any]:
        plan, scene = self._plan, self._scene("at-once")

        async def pairs(visitor: Visitor) -> None:
            await visitor.say()
            for _ in range(plan.pairs):
                await asyncio.gather(visitor.say(plan.pair_over_s), visitor.say(plan.pair_over_s))

        with scene.history:
            before = self._used()
            await some_at_once((pairs(scene.visitor()) for _ in range(plan.pairs_sessions)), plan.pairs_at_once)
            spent = costs(before, self._used(), scene.samples)
            unread = await self._read(scene)
        return {**answers(scene.samples), **spent, **self._word(scene, unread)}

    async def _lengths(self) -> dict[str, Any]:
        plan, scene, told = self._plan, self._scene("lengths"), dict[str, Any]()

        async def talk(visitor: Visitor, turns: int, until: float) -> None:
            for _ in range(turns):
                if time.monotonic() > until or not (await visitor.say()).ok:
                    return

        with scene.history:
            for turns, talks in plan.lengths:
                before, known = self._used(), len(scene.samples)
                until = time.monotonic() + plan.length_s
                await some_at_once((talk(scene.visitor(), turns, until) for _ in range(talks)), LENGTHS_AT_ONCE)
                said = scene.samples[known:]
                told[str(turns)] = {
                    **answers(said), **costs(before, self._used(), said), "missing": turns * talks - len(said),
                }  # fmt: skip
            unread = await self._read(scene)
        return {"by_length": told, **self._word(scene, unread)}

    async def _server_gone(self) -> dict[str, Any]:
        plan, scene = self._plan, self._scene("server-gone")

        async def kill(server: int) -> float:
            await asyncio.sleep(plan.gone_after_s)
            os.kill(server, signal.SIGKILL)
            return time.monotonic()

        with scene.history:
            for _ in range(plan.gone_talks):
                await scene.visitor().say()
            # Looked for before: that takes a while, in which no answer would be heard.
            killing = asyncio.create_task(kill(await self._running.one_of_two()))
            await at_rate(scene.visitors, plan.gone_rate, plan.gone_s, plan.gone_over_s)
            killed = await killing
            unread = await self._read(scene)
        after = [sample for sample in scene.samples if sample.ended > killed]
        return {
            **answers(scene.samples),
            "max_ms": round(1000 * max((each.ended - each.due for each in after), default=0.0), 1),
            "running_when_killed": sum(each.sent < killed < each.ended for each in scene.samples),
            **self._word(scene, unread),
        }

    # --- what they share ------------------------------------------------------------------------------------------

    async def _warm(self) -> None:
        """What is done once, at the first requests, is no part of any figure."""
        scene = self._scene("warm")
        with scene.history:
            for _ in range(8):
                scene.visitor()
            turns = self._plan.warm_turns // len(scene.visitors)
            await some_at_once((_say(visitor, turns) for visitor in scene.visitors), len(scene.visitors))

    def _scene(self, name: str) -> Scene:
        history = History(self._folder / f"{name}.jsonl")
        history.start("chained")
        return Scene(history, Address.of(self._running.url), name, self._numbers)

    def _used(self) -> Used:
        stored = bytes_received(self._running.stores)
        return Used(used_s(self._running.pids()), stored, self._running.agent_calls())

    def _others_s(self) -> float:
        """Processor time that neither the way nor its clients had."""
        return busy_s() - used_s(self._running.pids()) - time.process_time()

    async def _read(self, scene: Scene) -> list[str]:
        unread = list[str]()

        async def read(visitor: Visitor) -> None:
            if why := await visitor.read():
                unread.append(why)

        await some_at_once(map(read, scene.visitors), READERS)
        return unread

    def _word(self, scene: Scene, unread: Sequence[str]) -> dict[str, Any]:
        return word(check([self._folder / f"{scene.name}.jsonl"]), unread)


async def at_rate(visitors: Sequence[Visitor], rate: float, for_s: float, over_s: float) -> None:
    """So many messages a second, in turn. A visitor's next one waits for the answer to its last one, and counts from
    when it was due."""
    begun = time.monotonic()
    busy = [asyncio.Lock() for _ in visitors]

    async def say(number: int) -> None:
        async with busy[number % len(visitors)]:
            await visitors[number % len(visitors)].say(over_s, begun + number / rate)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * for_s)):
            await asyncio.sleep(begun + number / rate - time.monotonic())
            group.create_task(say(number))


async def back_to_back(visitors: Sequence[Visitor], users: int, until: float) -> None:
    """So many users, each with some of the visitors to itself, send the next message when the last one is answered."""

    async def use(own: Sequence[Visitor]) -> None:
        for visitor in itertools.cycle(own):
            if time.monotonic() > until:
                return
            await visitor.say()

    await asyncio.gather(*(use(visitors[number::users]) for number in range(users)))


async def some_at_once(work: Iterable[Awaitable[None]], most: int) -> None:
    """All of it, so much at one time."""
    waiting = iter(work)

    async def do() -> None:
        for each in waiting:
            await each

    await asyncio.gather(*(do() for _ in range(most)))


async def _say(visitor: Visitor, turns: int) -> None:
    for _ in range(turns):
        await visitor.say()
