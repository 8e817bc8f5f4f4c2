"""A few hosts, one memory store and one virtual clock: the smallest world in which a host can be watched.

Nothing here is random and nothing sleeps: tests wait for conditions with :meth:`World.until`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.agent import Agent, Conversation
from actors.errors import RehydraError
from actors.host import Host
from actors.model import HostRef, SessionKey, Turn, TurnRequest, fingerprint_of
from actors.ports import Done, Passed, Requester, Residence
from actors.settings import Settings
from actors.stores.base import SessionStore, Turns
from actors.stores.memory import MemoryStore
from tests.simulation.loop import SimLoop

KEY = SessionKey("s")
LEAVE_S = 30.0


@dataclass
class Client:
    """A requester that keeps what it is told."""

    stream: bool = False
    quiet_for_s: float = 0.0
    quiet_until: float = 0.0
    events: list[tuple[str, Any]] = field(default_factory=list)
    final: Done | RehydraError | None = None

    @property
    def begun(self) -> bool:
        return bool(self.events)

    async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None:
        self.events.append(("turn", epoch))

    async def delta(self, text: str) -> None:
        self.events.append(("delta", text))
        self.quiet_until = asyncio.get_running_loop().time() + self.quiet_for_s

    def quiet_s(self) -> float:
        return self.quiet_until - asyncio.get_running_loop().time()

    async def finish(self, final: Done | RehydraError) -> None:
        assert self.final is None, "answered twice"
        self.events.append(("finish", final))
        self.final = final

    @property
    def reply(self) -> str:
        assert isinstance(self.final, Done), self.final
        return self.final.turn.reply

    @property
    def turn_seq(self) -> int:
        assert isinstance(self.final, Done), self.final
        return self.final.turn.turn_seq

    @property
    def problem(self) -> RehydraError:
        assert isinstance(self.final, RehydraError), self.final
        return self.final


class View:
    """A placement whose ring, deaths and trust a test sets by hand. ``ring`` is shared unless a test parts it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ring_version = 1
        self.owner_now: Callable[[str], HostRef | None] = lambda _: world.owner
        self.heir_now: HostRef | None = None
        self.dead: set[str] = set()
        self.is_trusted = True
        self.lapses = 0
        self._changed = asyncio.Event()

    def owner(self, session_id: str) -> HostRef | None:
        return self.owner_now(session_id)

    def is_dead(self, host: HostRef) -> bool:
        return host.incarnation in self.dead

    async def surely_dead(self, host: HostRef) -> bool:
        return self.is_dead(host)

    def heard(self, ring_version: int) -> None: ...

    def heir(self, session_id: str) -> HostRef | None:
        owner = self.owner(session_id)
        return self.heir_now if owner is not None and self.is_dead(owner) else None

    def refused(self, host: HostRef, stranger: bool = False) -> None:
        self.kill(host)

    def kill(self, host: HostRef) -> None:
        self.dead.add(host.incarnation)
        self.notify()

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_dead(self, host: HostRef) -> None:
        while not self.is_dead(host):
            await self._changed.wait()

    def trusted(self) -> bool:
        return self.is_trusted

    async def wait_trusted(self) -> None:
        while not self.is_trusted:
            await self._changed.wait()


class Wire:
    """Peers that call each other directly. ``down`` hosts refuse; ``silent`` ones never answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.passed: list[tuple[str, str]] = []
        self.batches: list[tuple[str, list[str]]] = []

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        self.passed.append((to.incarnation, request.turn_id))
        if to.incarnation in self.world.down:
            return Passed.REFUSED
        if to.incarnation in self.world.silent:
            await asyncio.Event().wait()
        await self.world.hosts[to.incarnation].chat(request, requester, hops)
        return Passed.FINISHED

    async def hand_off(self, to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        if to.incarnation in self.world.down:
            return False
        self.batches.append((to.incarnation, [request.turn_id for request in batch]))
        return await self.world.hosts[to.incarnation].accept_batch(key, batch, under)

    async def tell_deleted(self, to: HostRef, key: SessionKey) -> bool:
        if to.incarnation in self.world.down:
            return False
        self.world.hosts[to.incarnation].deleted(key)
        return True


class World:
    """Hosts by incarnation, all on one store. ``owner`` is what the ring says, for every session."""

    def __init__(self, agent: Agent, settings: Settings, store: SessionStore | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.memory = MemoryStore(lambda: int(self.loop.time() * 1000), settings.session.ttl_s)
        self.store: SessionStore = store or self.memory
        self.agent = agent
        self.settings = settings
        self.hosts: dict[str, Host] = {}
        self.views: dict[str, View] = {}
        self.wires: dict[str, Wire] = {}
        self.down: set[str] = set()
        self.silent: set[str] = set()
        self.owner: HostRef | None = None
        self._tokens = 0

    def host(self, name: str, store: SessionStore | None = None) -> Host:
        """A new host; the first becomes the owner of everything."""
        ref = HostRef(name, f"slot-{len(self.hosts)}", f"{name}:1")
        self.views[name], self.wires[name] = View(self), Wire(self)
        self.hosts[name] = Host(
            ref,
            store or self.store,
            self.agent,
            self.views[name],
            self.wires[name],
            self.settings,
            self._token,
            lambda: 7,
        )
        self.owner = self.owner or ref
        return self.hosts[name]

    def _token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens}"

    def move_to(self, name: str) -> None:
        """The ring changes everywhere."""
        self.owner = self.hosts[name].ref
        for host in self.hosts.values():
            host.ring_changed()

    async def until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        """Let the world go on until ``condition`` holds; fails after ``within_s`` of virtual time."""
        give_up_at = self.loop.time() + within_s
        while not condition():
            assert self.loop.time() < give_up_at, "it never happened"
            await asyncio.sleep(0.001)

    async def log(self, key: SessionKey = KEY) -> tuple[Turn, ...]:
        """What the store has."""
        answer = await self.memory.read(key, 0, 1_000)
        return tuple(answer.turns) if isinstance(answer, Turns) else ()


def request(message: str, turn_id: str = "", if_match: int | None = None, key: SessionKey = KEY) -> TurnRequest:
    return TurnRequest(key, turn_id or f"k:{message}", fingerprint_of(message, None), message, None, if_match)


async def ask(host: Host, message: str, turn_id: str = "", **kwargs: Any) -> Client:
    """One message, waited for."""
    client = Client(stream=kwargs.pop("stream", False))
    hops = kwargs.pop("hops", 0)
    await host.chat(request(message, turn_id, **kwargs), client, hops)
    return client


class Gate:
    """An agent that says ``so far: <n>`` and waits until the test lets each turn go on."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.started: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    async def __call__(self, conversation: Conversation) -> str:
        self.started.append(conversation.message)
        self.running.append(conversation.message)
        try:
            await self._gate(conversation.message).wait()
        finally:
            self.running.remove(conversation.message)
        return f"{conversation.message} after {[turn.message for turn in conversation.turns]}"

    def open(self, *messages: str) -> None:
        for message in messages:
            self._gate(message).set()

    def _gate(self, message: str) -> asyncio.Event:
        return self._gates.setdefault(message, asyncio.Event())


async def parrot(conversation: Conversation) -> str:
    """Replies with the message and counts in its state."""
    conversation.state["turns"] = conversation.state.get("turns", 0) + 1
    return f"{conversation.message}!"


def in_virtual_time(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a loop whose time jumps; what nobody retrieved fails the test."""
    loop = SimLoop(random.Random(0))

    async def whole() -> None:
        try:
            await scenario()
        finally:
            # What the scenario left running (waiting requests, sweepers) ends here, inside the loop.
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest)

    try:
        loop.run_until(whole())
        assert loop.failures == []
    finally:
        loop.close()


def settings(**groups: dict[str, Any]) -> Settings:
    """Settings with short times, changed by group."""
    session = {"idle_s": 10.0, "commit_patience_s": 1.0, "claim_patience_s": 1.0, "handoff_wait_s": 2.0}
    merged: dict[str, Any] = {"session": session | groups.pop("session", {}), **groups}
    return Settings.load(merged)
