"""A small deployment for tests, on real parts and without Ray: a Redis, session hosts as processes, and the edge.

The hosts are ``python -m deploy.host``; the edge is the one that ``deploy`` runs, with its control loop in the test's
event loop and HAProxy beside it. Whatever was started is ended by pid when the ``async with`` ends; hosts and Redis
also die with the process of the tests. Nobody restarts a host that was killed: ``start_host`` does, when the test says.
:class:`Talkers` are the load, and judge what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.settings import Settings
from actors.stores import open_membership
from deploy.processes import leashed
from loadtest.checker import check
from loadtest.client import Answer, Client, Kind, Unreadable, lines_of
from loadtest.history import History
from router.edge import Edge
from tests.postgres_server import PostgresServer
from tests.servers import NOT_DURABLE, Durability, Server, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 30.0
SETTLE_S = 15.0
LOOK_S = 0.02
PATIENCE_S = 30.0
"""How long anything that a test waits for may take on a busy machine."""
COME_BACK_S = 0.1


class NotStarted(Exception):
    """A host ended before it served; its standard error says why."""


@dataclass(slots=True)
class HostProcess:
    """A session host. ``slot`` is the one it started in."""

    process: asyncio.subprocess.Process
    pid: int
    address: str
    incarnation: str
    slot: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def freeze(self) -> None:
        """SIGSTOP: its listeners accept connections and say nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def end(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class Deployment:
    """Use it as an ``async with``. ``url`` is the edge's. ``server``: one that runs already, and ends with the rest.
    ``store_url``: of a store that runs already, and stays when this ends."""

    def __init__(
        self,
        agent: str,
        hosts: int = 2,
        *,
        durability: Durability = NOT_DURABLE,
        server: PostgresServer | None = None,
        store_url: str | None = None,
        **groups: Any,
    ) -> None:
        self.server = server or Server(durability=durability)
        self.hosts: list[HostProcess] = []
        self._count = hosts
        self._store_url = store_url
        self._run_dir = tempfile.mkdtemp(prefix="rehydra-test-edge-")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url)
        self._args = {
            "store": {"url": self.server.url},
            "agent": {"path": agent},
            "http": {"bind": "127.0.0.1"},
            "edge": {"port": port, "run_dir": self._run_dir},
            **groups,
        }
        self._edge: Edge | None = None

    async def __aenter__(self) -> Self:
        try:
            if isinstance(self.server, Server) and self._store_url is None:
                self.server.start()
            self._args["store"] = {"url": self._store_url or self.server.url}
            await asyncio.gather(*(self.start_host() for _ in range(self._count)))
            settings = Settings.load(self._args)
            self._edge = Edge(settings, open_membership)
            await self._edge.start()
            await self.settled(self._count)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            if self._edge is not None:
                await self._edge.aclose(last=True)
        finally:
            await asyncio.gather(*(host.end() for host in self.hosts))
            self.server.stop()
            shutil.rmtree(self._run_dir, ignore_errors=True)

    async def start_host(self, **environment: str) -> HostProcess:
        """One more host, with that in its environment; returns when it serves. NotStarted if it ends instead."""
        command = [sys.executable, "-m", "deploy.host", json.dumps(self._args)]
        process = await asyncio.create_subprocess_exec(
            *leashed(command, signal.SIGKILL),
            cwd=ROOT,
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(START_S):
                assert process.stdout is not None
                line = await process.stdout.readline()
                if not line:
                    raise NotStarted(f"the host ended with exit code {await process.wait()}")
                shown = json.loads(line)
        except BaseException:
            # It may be gone already, and asyncio may know it or not.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        host = HostProcess(process, shown["pid"], shown["address"], shown["incarnation"], shown["slot"])
        self.hosts.append(host)
        return host

    @contextlib.asynccontextmanager
    async def replacing_the_dead(self) -> AsyncIterator[None]:
        """Meanwhile a host is started for each that ends, as Ray Serve would. If that fails, so does the block."""
        async with asyncio.TaskGroup() as group:
            replacing = group.create_task(self._replace_the_dead())
            yield
            replacing.cancel()

    async def _replace_the_dead(self) -> None:
        while True:
            ends = [asyncio.ensure_future(host.process.wait()) for host in self.hosts[-self._count :]]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            alive = [host for host in self.hosts if host.process.returncode is None]
            self.hosts = [host for host in self.hosts if host.process.returncode is not None] + alive
            for _ in range(self._count - len(alive)):
                # One that is started while the store is away refuses to, and says so; the next look tries again.
                with contextlib.suppress(NotStarted):
                    await self.start_host()

    async def settled(self, hosts: int) -> None:
        """Return once the edge reaches ``hosts`` hosts, and all of them say the same of the ring."""
        async with asyncio.timeout(SETTLE_S):
            while not await self._agreed(hosts):  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(LOOK_S)

    async def _agreed(self, hosts: int) -> bool:
        try:
            _, ring = await self.client.get("/ring")
            assert self._edge is not None
            edge = await self._edge.shown()
            views = [await Client(slot["address"], 2.0).get("/ring") for slot in ring.get("slots", {}).values()]
        except Unreadable:
            return False
        versions = {edge["ring_version"], *(view["ring_version"] for _, view in views)}
        return len(views) == hosts and len(versions) == 1

    async def edge_pid(self) -> int:
        """HAProxy's."""
        assert self._edge is not None
        pid = await asyncio.to_thread(self._edge.haproxy.pid)
        assert pid is not None
        return pid

    def host_in(self, slot: str) -> HostProcess:
        """The living host that started in this slot."""
        return next(host for host in reversed(self.hosts) if host.slot == slot and host.process.returncode is None)

    async def stats(self, host: HostProcess) -> dict[str, Any]:
        """What the host counts."""
        _, health = await Client(host.address, 5.0).get("/healthz")
        return dict(health["stats"])

    async def sessions_in(self, slot: str, count: int, prefix: str) -> list[str]:
        """Names of ``count`` sessions that the ring gives to this slot; each gets one turn."""
        found: list[str] = []
        for number in range(1000):
            if len(found) == count:
                return found
            answer = await self.client.chat(f"{prefix}-{number}", "hello")
            if answer.slot == slot:
                found.append(f"{prefix}-{number}")
        raise AssertionError(f"{slot} gets hardly any sessions: {found}")


class Talkers:
    """Clients that talk all the time, one session each, until the ``async with`` ends.

    Every message has a key of its own and is sent again until it is acknowledged; every second one is streamed.
    ``refusals`` has every answer that wasn't 200, so it stays empty where nobody is to notice anything.
    """

    def __init__(self, client: Client, folder: Path, count: int = 12, *, prefix: str = "talker", over_s: float = 0.05):
        self.sessions = [f"{prefix}-{number}" for number in range(count)]
        self.acknowledged: Counter[str] = Counter()
        self.refusals: list[Answer] = []
        self._client = client
        self._over_s = over_s
        self._path = folder / f"{prefix}.jsonl"
        self._history = History(self._path)
        self._sent: dict[str, list[str]] = {session: [] for session in self.sessions}
        self._news = asyncio.Event()
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._history.start("paced")
        self._tasks = [asyncio.create_task(self._talk(session)) for session in self.sessions]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._history.close()

    async def until(self, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        """Return once it holds; it is looked at after every answer."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def go_on(self, by: int = 2, without: Collection[str] = ()) -> None:
        """Return once every session, but for those in ``without``, has that many more acknowledged turns."""
        wanted = {name: self.acknowledged[name] + by for name in self.sessions if name not in without}
        await self.until(lambda: all(self.acknowledged[name] >= count for name, count in wanted.items()))

    async def found_wrong(self) -> list[str]:
        """End the talks, read all of them back, and say what isn't as it was acknowledged: nothing, if all is well."""
        self._ending = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)
        wrong = []
        for session, sent in self._sent.items():
            op = self._history.invoke_read(session)
            turns = await self._client.turns(session)
            self._history.ok_read(op, lines_of(turns))
            if [turn["message"] for turn in turns] != sent:
                wrong.append(f"{session} has {[turn['message'] for turn in turns]}, not {sent}")
        self._history.close()
        verdict = check([self._path])
        return wrong + [f"{rule}: {what}" for rule, examples in verdict.examples.items() for what in examples]

    async def _talk(self, session: str) -> None:
        while not self._ending:
            number = len(self._sent[session]) + 1
            message = f"{session} says {number}"
            self._sent[session].append(message)
            while (answer := await self._say(session, message, number)).kind is not Kind.OK:
                self.refusals.append(answer)
                self._news.set()
                await asyncio.sleep(COME_BACK_S)
            self.acknowledged[session] += 1
            self._news.set()

    async def _say(self, session: str, message: str, number: int) -> Answer:
        key = f"{session}/{number}"
        op = self._history.invoke_turn(session, message, key)
        answer = await self._client.chat(
            session, message, key=key, streams=number % 2 == 0, metadata={"over_s": self._over_s}
        )
        if answer.kind is Kind.OK:
            self._history.ok_turn(
                op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, epoch=answer.epoch
            )
        elif answer.kind is Kind.FAIL:
            self._history.fail(op, answer.status, answer.why)
        else:
            self._history.info(op, answer.status, answer.why)
        return answer
