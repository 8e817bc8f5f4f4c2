"""A stack's life: everything on this machine, from nothing to a first turn, and back to nothing.

One process, the supervisor, with a few children: the servers of the store (unless REDIS_URL or POSTGRES_URL names them)
and the keeper of ``deploy.cluster``, below which Ray has all the rest. A server that dies is started again; a cluster
that dies ends the stack. What the supervisor deliberately does not do: restart hosts (Ray Serve does), or keep the edge
true (the Edge deployment does).

The way down is the same for Ctrl-C, SIGTERM (``deploy/down``) and a failed start: hosts leave (unless the start wasn't
over), the store writes what is unwritten, and then everything that still lives of the stack is ended. If the supervisor
is killed, the kernel tells the store and the keeper, which end by themselves, with all that is below them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TextIO, TypeVar

from deploy import processes
from deploy.child import ClusterChild
from deploy.environment import environment, given, joined, shown_url, store_url
from deploy.folder import SERVE_LOGS, Folder, NotPossible
from deploy.options import STORES, Options
from deploy.postgres import Postgres
from deploy.probe import first_turn, ring_size
from deploy.remains import remains
from deploy.valkey import Valkey, free_port

START_MAX_S = 180.0
LEAVE_S = 10.0
"""How long hosts may take to leave before everything is ended: leaving is optional (I9)."""
END_S = 2.0
WAIT_LINE_S = 5.0
"""A waiting person gets a line this often."""
LOOK_S = 0.1
"""Time between two looks at the children."""
STORE_RESTARTS_MAX = 20
"""Per start of the stack; a store that dies more often has a reason that another start doesn't cure."""


Answer = TypeVar("Answer")


class Stopped(Exception):
    """Somebody asked for the end before the beginning was over."""


class Stack:
    """One stack's life, on one event loop. ``up``, then ``watch``, and ``down`` in any case."""

    def __init__(self, options: Options, folder: Folder) -> None:
        self._options = options
        self._folder = folder
        self._began = time.monotonic()
        self._stores: list[Valkey | Postgres] = []
        self._store_url = store_url(options)
        self._cluster = ClusterChild(folder.path / "cluster.log")
        self._stop = asyncio.Event()
        self._impatient = asyncio.Event()
        self._restarts = 0
        # Of a predecessor that was killed, until it is cleared away: what is left of it is found by its session.
        self._state = {key: value for key, value in folder.state().items() if key in ("session", "boot")}
        self._tell("starting")

    def say(self, text: str) -> None:
        """A line for whoever waits, with the seconds since the start."""
        tell(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def ask_to_stop(self) -> None:
        """Ctrl-C or SIGTERM. The second one no longer waits for hosts to leave."""
        self.say("stopping at once" if self._stop.is_set() else "stopping")
        if self._stop.is_set():
            self._impatient.set()
        self._stop.set()

    # --- up ---------------------------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Start all of it. NotPossible if it can't be, Stopped when asked to stop."""
        await self._clear_away()
        env = environment(self._options, self._folder)
        await self._start_store(env)
        options = self._options
        self._cluster.start(
            [
                f"--hosts={options.hosts}",
                f"--temp-dir={self._folder.ray}",
                f"--dashboard-port={options.dashboard_port}",
                f"--nodes={options.nodes}",
                f"--logs={self._folder.path}",
            ],
            env,
        )
        self._tell("starting")
        await self._until("Ray and the hosts", self._cluster_ready)
        self.say("the hosts run; waiting for the edge and a first turn")
        await self._until("the edge and a first turn", self._turn_works)

    async def _clear_away(self) -> None:
        """End what a stack left behind that was killed: it can't be another one's, the lock is ours."""
        if left := remains(self._folder):
            ended = await asyncio.to_thread(processes.end, left, END_S)
            self.say(f"ended {ended} processes of a stack that was killed")
        self._folder.make_short()

    async def _start_store(self, env: dict[str, str]) -> None:
        options, folder = self._options, self._folder
        urls = given(options)
        for at, variable in enumerate(STORES[options.store]):
            if urls[at]:
                self.say(f"the store is {shown_url(urls[at])}, from {variable}")
                continue
            port = free_port(options.port)
            if variable == "POSTGRES_URL":
                password = folder.secret("postgres-password")
                store: Valkey | Postgres = Postgres(
                    folder.path / "postgres", folder.programs, port, options.fsync, password, options.hosts, env
                )
            else:
                # Where PostgreSQL confirms, Redis' log needn't wait for the disk: PostgreSQL's would wait for that.
                confirms = len(urls) == 1 or env.get("REHYDRA_STORE__ACK") == "hot"
                store = Valkey(folder.path / "redis", port, options.fsync if confirms else "everysec", env)
            urls[at] = store.url
            await self._start_server(store)
        self._store_url = env["REHYDRA_STORE__URL"] = joined(urls)

    async def _start_server(self, store: Valkey | Postgres) -> None:
        await self._unless_stopped(asyncio.to_thread(store.make))
        self._stores.append(store)
        # Here and not in a thread: the kernel ends it with the thread that started it.
        store.start()
        await self._until(store.name, lambda: asyncio.to_thread(store.answers))
        self.say(f"{store.name} answers ({store.about})")

    def tell_ready(self) -> None:
        """Say what there is, to people and to scripts."""
        options = self._options
        url = f"http://{options.bind}:{options.port}"
        store = shown_url(self._store_url)
        self.say(f"Rehydra is up: {url}")
        tell(
            f"""
Say something; kill a host; say something else:

  curl -s {url}/chat -H 'content-type: application/json' \\
    -d '{{"session_id": "ann", "message": "My name is Ann."}}'

API {url}/docs   hosts {url}/ring   store {store}   logs {self._folder.path}
Stop: {"" if options.detach else "Ctrl-C or "}{down_command(options)}"""
        )
        self._tell("ready", url=url, store_url=store, **({"redis_url": store} if options.store == "redis" else {}))

    def _tell(self, phase: str, **more: object) -> None:
        me, session = processes.find(os.getpid()), self._cluster.session
        self._state |= {"phase": phase, "pid": os.getpid(), "started": me.started if me else 0, **more}
        self._state["port"] = self._options.port
        if session is not None:
            self._state |= {"boot": processes.boot(), "session": {"pid": session.pid, "started": session.started}}
        self._folder.tell(**self._state)

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _until(self, what: str, done: Callable[[], Coroutine[object, object, bool]]) -> None:
        """Ask ``done`` again and again; give up when told to stop, when a child dies, or after ``START_MAX_S``."""
        line_due = time.monotonic() + WAIT_LINE_S
        while not await self._unless_stopped(done()):
            if await self._stopped_within(LOOK_S):
                raise Stopped
            self._require_children()
            now = time.monotonic()
            if now - self._began > START_MAX_S:
                raise NotPossible(f"Gave up waiting for {what}; see {self._cluster.log}.")
            if now > line_due:
                line_due = now + WAIT_LINE_S
                self.say(f"still waiting for {what}")

    async def _unless_stopped(self, question: Coroutine[object, object, Answer]) -> Answer:
        """The answer; Stopped as soon as somebody asks for the end, however long the answer may still take."""
        asked = asyncio.create_task(question)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((asked, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not asked.done():
            # What it runs in a thread ends by itself when the processes that it asks are gone.
            asked.cancel()
            raise Stopped
        return asked.result()

    async def _stopped_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _require_children(self) -> None:
        for store in self._stores:
            if store.ended:
                raise _gave_up(store)
        self._require_cluster()

    def _require_cluster(self) -> None:
        if (code := self._cluster.ended()) is not None:
            raise NotPossible(f"The cluster ended (exit code {code}); see {self._cluster.log}.")

    async def _cluster_ready(self) -> bool:
        while not self._cluster.reports.empty():
            report = self._cluster.reports.get_nowait()
            if "failed" in report:
                logs = f"{self._cluster.log} and {self._folder.path / SERVE_LOGS}"
                raise NotPossible(report["failed"] + (f" See {logs}." if "unforeseen" in report else ""))
            if "ready" in report:
                return True
            self.say(report["step"])
        return False

    async def _turn_works(self) -> bool:
        options = self._options
        if await asyncio.to_thread(ring_size, options.bind, options.port) < options.hosts:
            return False
        failed = await asyncio.to_thread(first_turn, options.bind, options.port)
        if failed:
            self.say(f"the stack works, but the agent failed its first turn: {failed}")
        return failed is not None

    # --- life and end -----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Return when asked to stop. NotPossible if the cluster dies, or the store too often."""
        while not await self._stopped_within(LOOK_S):
            for store in self._stores:
                # One look decides: a store that dies right after it is started again at the next.
                if store.ended:
                    if self._restarts >= STORE_RESTARTS_MAX:
                        raise _gave_up(store)
                    self._restarts += 1
                    self.say(f"{store.name} died; starting it again on the same data")
                    store.start()
            self._require_cluster()

    async def down(self, in_order: bool = True) -> None:
        """End all of it; returns when nothing is left. Without ``in_order`` no host is waited for (I9)."""
        self._tell("stopping")
        everything = remains(self._folder)
        await self._cluster.leave(LEAVE_S if in_order else 0.0, self._impatient)
        if self._stores:
            # The others first: whoever is left must not find its store gone. PostgreSQL is several processes.
            pids = {store.pid for store in self._stores if store.pid}
            their_own = pids | {found.pid for pid in pids for found in processes.below(pid)}
            others = {found for found in everything if found.pid not in their_own}
            await asyncio.to_thread(processes.end, others, END_S)
            for store in self._stores:
                await asyncio.to_thread(store.stop, END_S)
        await asyncio.to_thread(processes.end, everything | remains(self._folder), END_S)
        self._folder.forget()


def _gave_up(store: Valkey | Postgres) -> NotPossible:
    return NotPossible(f"{store.name} ended: {store.last_words()}")


def tell(text: str, stream: TextIO | None = None) -> None:
    """A line for a person, who may have gone: a closed terminal or pipe is no reason to end a stack."""
    try:
        print(text, file=stream or sys.stdout, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (stream or sys.stdout).fileno())
        os.close(nowhere)


def down_command(options: Options) -> str:
    """What a person types to end this very stack."""
    port = "" if options.port == 8000 else f" --port {options.port}"
    return f"deploy/down{port}" + (f" --data-dir {options.data_dir}" if options.data_dir else "")
