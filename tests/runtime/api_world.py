"""A small host behind the real HTTP surface, on real sockets: what the tests of ``api``, ``sse`` and ``peers`` share.

The host keeps what it promises (one task per turn which no requester can stop, turn ids answered once, If-Match) but
knows no store and no ring. ``Wire`` is HTTP/1.1 by hand, for what a proper client wouldn't send.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.agent import Agent, Conversation, speak
from actors.agents.echo import echo
from actors.api import Api
from actors.errors import (
    AgentFailed,
    KeyMismatch,
    PreconditionFailed,
    RehydraError,
    SessionDeleted,
    SessionUnknown,
)
from actors.listener import Listener
from actors.model import HostRef, Member, SessionKey, Table, Turn, TurnRequest
from actors.peers import HttpPeers
from actors.ports import Done, Passed, Requester, Residence
from actors.settings import Settings
from actors.stores.base import Turns
from actors.stores.guard import Guard


class Running:
    """A turn that runs: what it has said so far, and its end."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.end: Turn | RehydraError | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def say(self, piece: str) -> None:
        self.said.append(piece)
        self._notify()

    def finish(self, end: Turn | RehydraError) -> None:
        self.end = end
        self._notify()

    async def changed(self) -> None:
        self._waiters.append(asyncio.get_running_loop().create_future())
        await self._waiters[-1]

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = []


@dataclass
class SmallHost:
    """The host core of these tests."""

    ref: HostRef = field(default_factory=lambda: HostRef("inc-1", "slot-0", "127.0.0.1:1"))
    agent: Agent = echo
    peers: HttpPeers | None = None
    held_by: HostRef | None = None
    """Every session is held there: requests are passed on once, then served here."""
    fail_with: Exception | None = None
    log: dict[str, list[Turn]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    takes_batches: bool = True
    threads: None = None
    chats: list[tuple[TurnRequest, int]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    batches: list[tuple[SessionKey, list[TurnRequest], int]] = field(default_factory=list)
    waiting: int = 0
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether any request waits here now, or none does any more."""
    epoch: int = 7
    clock_ms: int = 1_700_000_000_000
    committed: asyncio.Condition = field(default_factory=asyncio.Condition)
    states: dict[str, bytes] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None:
        self.chats.append((request, hops))
        self.waiting += 1
        self.busy.set()
        self.quiet.clear()
        try:
            if self.fail_with is not None:
                raise self.fail_with
            if self.held_by is not None and self.peers is not None:
                self.passed.append(await self.peers.pass_on(self.held_by, request, requester, hops + 1))
                if self.passed[-1] is Passed.FINISHED:
                    return
            await self._serve(request, requester)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.busy.clear()
                self.quiet.set()

    async def _serve(self, request: TurnRequest, requester: Requester) -> None:
        turns = self.log.setdefault(request.key.session_id, [])
        for turn in turns:
            if turn.turn_id == request.turn_id:
                same = turn.fingerprint == request.fingerprint
                await requester.finish(Done(turn, True, Residence.RESIDENT) if same else KeyMismatch())
                return
        if request.if_match is not None and request.if_match != len(turns):
            await requester.finish(PreconditionFailed(turn_seq=len(turns)))
            return
        residence = Residence.RESIDENT if turns else Residence.NEW
        running = self.running.get(request.turn_id)
        if running is None:
            running = self.running[request.turn_id] = Running()
            task = asyncio.create_task(self._run(request, running))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        await self._follow(running, request, requester, residence)

    async def _follow(self, running: Running, request: TurnRequest, requester: Requester, residence: Residence) -> None:
        shown = 0
        await requester.turn(request.turn_id, self.epoch, residence)
        while shown < len(running.said) or running.end is None:
            if shown < len(running.said):
                shown += 1
                await requester.delta(running.said[shown - 1])
            else:
                await running.changed()
        end = running.end
        await requester.finish(end if isinstance(end, RehydraError) else Done(end, False, residence))

    async def _run(self, request: TurnRequest, running: Running) -> None:
        session_id = request.key.session_id
        turns = self.log[session_id]
        state = self.states.get(session_id, b"")
        conversation = Conversation(
            request.key, tuple(turns), state, request.message, request.metadata, request.turn_id, 1
        )
        try:
            await speak(self.agent, conversation, running.say)
        except Exception as error:
            running.finish(AgentFailed(str(error)))
            return
        turn = Turn(
            len(turns) + 1, request.turn_id, request.fingerprint, request.message, "".join(running.said),
            request.metadata, self.epoch, 1_700_000_000_000 + len(turns),
        )  # fmt: skip
        turns.append(turn)
        self.states[session_id] = conversation.packed_state() or state
        del self.running[request.turn_id]
        running.finish(turn)
        async with self.committed:
            self.committed.notify_all()

    async def turns_of(self, session_id: str, count: int) -> list[Turn]:
        """Wait until so many turns are committed."""
        async with self.committed:
            await self.committed.wait_for(lambda: len(self.log.get(session_id, [])) >= count)
        return self.log[session_id]

    async def accept_batch(self, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        if self.takes_batches:
            self.batches.append((key, list(batch), under))
        return self.takes_batches

    async def delete(self, key: SessionKey, turn_id: str) -> None:
        if key.session_id not in self.log and key.session_id not in self.gone:
            raise SessionUnknown
        self.deleted(key)

    def deleted(self, key: SessionKey) -> None:
        self.log.pop(key.session_id, None)
        self.gone.add(key.session_id)

    async def open(self, key: SessionKey) -> tuple[Turns, bool]:
        if key.session_id in self.gone:
            raise SessionDeleted
        new = key.session_id not in self.log
        turns = self.log.setdefault(key.session_id, [])
        return Turns(tuple(turns[:1]), len(turns)), new

    async def read(self, key: SessionKey, after: int, limit: int) -> Turns:
        if key.session_id in self.gone:
            raise SessionDeleted
        if key.session_id not in self.log:
            raise SessionUnknown
        turns = self.log[key.session_id]
        return Turns(tuple(turns[after : after + limit]), len(turns))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def now_ms(self) -> int:
        return self.clock_ms

    def stats(self) -> dict[str, Any]:
        return {"resident": len(self.log)}


@dataclass
class World:
    """One host and its listener."""

    host: SmallHost
    settings: Settings
    guard: Guard | None = None
    reasons: list[str] = field(default_factory=list)
    table: Table = field(default_factory=lambda: Table(0))
    address: str = ""

    async def not_ready(self) -> Sequence[str]:
        return self.reasons

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def member(self) -> Member:
        return Member(self.host.ref.slot, self.host.ref.incarnation, self.address, 1)


def settings_with(**groups: dict[str, Any]) -> Settings:
    return Settings.load(groups)


def pass_for(settings: Settings) -> tuple[str, str]:
    """The header by which hosts and the edge know each other."""
    secret = base64.b64decode(settings.edge.secret.get_secret_value())
    return "X-Rehydra-Pass", hmac.new(secret, b"rehydra internal", "sha256").hexdigest()[:32]


PASS = pass_for(settings_with())
"""For all worlds that don't set a secret of their own."""


@asynccontextmanager
async def serving(host: SmallHost | None = None, **groups: dict[str, Any]) -> AsyncIterator[World]:
    """A world that listens; ended with the block."""
    world = World(host or SmallHost(), settings_with(**groups))
    listener = Listener(Api(world), world.settings.http)
    world.address = await listener.start()
    world.host.ref = HostRef(world.host.ref.incarnation, world.host.ref.slot, world.address)
    try:
        yield world
    finally:
        await listener.aclose(1)
        for task in list(world.host.tasks):
            task.cancel()


# --- HTTP by hand ---------------------------------------------------------------------------------------------------


@dataclass
class Raw:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} came twice: {values}"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:] if line]
        return int(lines[0].split(" ")[1]), [(name.lower(), value) for name, value in pairs]

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self) -> Raw:
        status, headers = await self.head()
        named = dict(headers)
        body = b""
        if named.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                body += chunk
        elif "content-length" in named:
            body = await self.reader.readexactly(int(named["content-length"]))
        return Raw(status, headers, body)


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request_bytes(method: str, path: str, body: bytes | None = None, *headers: tuple[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: test", *(f"{name}: {value}" for name, value in headers)]
    if body is not None and not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


async def ask(world: World, method: str, path: str, body: bytes | None = None, *headers: tuple[str, str]) -> Raw:
    """One request on a connection of its own."""
    async with wire(world.port) as connection:
        await connection.send(request_bytes(method, path, body, *headers))
        return await connection.answer()


async def chat(world: World, document: Any, *headers: tuple[str, str]) -> Raw:
    return await ask(world, "POST", "/chat", json.dumps(document).encode(), *headers)


def events(body: bytes) -> list[tuple[str, str, Any]]:
    """(event, id, data) of a stream; comments left out."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found
