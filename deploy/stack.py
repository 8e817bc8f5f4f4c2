"""``python -m deploy.stack``, which is ``deploy/up``: everything on this machine, from nothing to a first turn.

One process, the supervisor, with two children: Valkey (unless REDIS_URL names a Redis) and ``deploy.cluster``, below
which Ray has all the rest. A Valkey that dies is started again; a cluster that dies ends the stack. What the supervisor
deliberately does not do: restart hosts (Ray Serve does), or keep the edge true (the Edge deployment does).

The way down is the same for Ctrl-C, SIGTERM (``deploy/down``) and a failed start: hosts leave, Redis writes what is
unwritten, and then every process that still carries the stack's mark is ended. If the supervisor is killed, the kernel
ends the children, and ``deploy/down``, or the next ``deploy/up``, whatever is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable

from deploy import processes
from deploy.child import ClusterChild
from deploy.detach import follow
from deploy.environment import environment, shown_url
from deploy.folder import Folder, NotPossible
from deploy.options import Options, parse
from deploy.probe import first_turn, ring_size
from deploy.valkey import Valkey, free_port

START_MAX_S = 180.0
LEAVE_S = 10.0
"""How long hosts may take to leave before everything is ended: leaving is optional (I9)."""
END_S = 2.0
WAIT_LINE_S = 5.0
"""A waiting person gets a line this often."""
LOOK_S = 0.1
"""Time between two looks at the children."""
REDIS_RESTARTS_MAX = 20
"""Per start of the stack; a Redis that dies more often has a reason that another start doesn't cure."""


class Stopped(Exception):
    """Somebody asked for the end before the beginning was over."""


class Stack:
    """One stack's life, on one event loop. ``up``, then ``watch``, and ``down`` in any case."""

    def __init__(self, options: Options, folder: Folder) -> None:
        self._options = options
        self._folder = folder
        self._began = time.monotonic()
        self._valkey: Valkey | None = None
        self._cluster = ClusterChild(folder.path / "cluster.log")
        self._stop = asyncio.Event()
        self._impatient = asyncio.Event()
        self._restarts = 0

    def say(self, text: str) -> None:
        """A line for whoever waits, with the seconds since the start."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    def ask_to_stop(self) -> None:
        """Ctrl-C or SIGTERM. The second one no longer waits for hosts to leave."""
        if self._stop.is_set():
            self._impatient.set()
        self._stop.set()

    # --- up ---------------------------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Start all of it. NotPossible if it can't be, Stopped when asked to stop."""
        await self._clear_away()
        self._tell("starting")
        env = environment(self._options, self._folder)
        await self._start_redis(env)
        options = self._options
        self._cluster.start(
            [
                f"--hosts={options.hosts}",
                f"--temp-dir={self._folder.ray}",
                f"--dashboard-port={options.dashboard_port}",
            ],
            env,
        )
        await self._until("Ray and the hosts", self._cluster_ready)
        self.say("the hosts run; waiting for the edge and a first turn")
        await self._until("the edge and a first turn", self._turn_works)

    async def _clear_away(self) -> None:
        """End what a stack left behind that was killed: it can't be another one's, the lock is ours."""
        if left := processes.marked(self._folder.mark):
            ended = await asyncio.to_thread(processes.end, left, END_S)
            self.say(f"ended {ended} processes of a stack that was killed")
        self._folder.make_short()
        _require_free(self._options)

    async def _start_redis(self, env: dict[str, str]) -> None:
        if env.get("REDIS_URL"):
            self.say(f"Redis is {shown_url(env['REDIS_URL'])}, from REDIS_URL")
            return
        options = self._options
        valkey = self._valkey = Valkey(self._folder.path / "redis", free_port(options.port), options.fsync, env)
        env["REHYDRA_STORE__URL"] = valkey.url
        valkey.start()
        await self._until("Redis", lambda: asyncio.to_thread(valkey.answers))
        self.say(f"Redis answers (the bundled Valkey, appendfsync {options.fsync}, data in {valkey.folder})")

    def tell_ready(self) -> None:
        """Say what there is, to people and to scripts."""
        options = self._options
        url = f"http://{options.bind}:{options.port}"
        redis_url = shown_url(self._valkey.url if self._valkey else os.environ["REDIS_URL"])
        self.say(f"Rehydra is up: {url}")
        print(
            f"""
Say something; kill a host; say something else:

  curl -s {url}/chat -H 'content-type: application/json' \\
    -d '{{"session_id": "ann", "message": "My name is Ann."}}'

API {url}/docs   hosts {url}/ring   Redis {redis_url}   logs {self._folder.path}
Stop: {"" if options.detach else "Ctrl-C or "}{_down_command(options)}""",
            flush=True,
        )
        self._tell("ready", url=url, redis_url=redis_url)

    def _tell(self, phase: str, **more: object) -> None:
        me = processes.find(os.getpid())
        started = me.started if me else 0
        self._folder.tell(phase=phase, pid=os.getpid(), started=started, port=self._options.port, **more)

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _until(self, what: str, done: Callable[[], Awaitable[bool]]) -> None:
        """Ask ``done`` again and again; give up when told to stop, when a child dies, or after ``START_MAX_S``."""
        line_due = time.monotonic() + WAIT_LINE_S
        while not await done():
            if await self._stopped_within(LOOK_S):
                raise Stopped
            self._require_children()
            now = time.monotonic()
            if now - self._began > START_MAX_S:
                raise NotPossible(f"Gave up waiting for {what}; see {self._cluster.log}.")
            if now > line_due:
                line_due = now + WAIT_LINE_S
                self.say(f"still waiting for {what}")

    async def _stopped_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _require_children(self) -> None:
        if self._valkey is not None and self._valkey.ended:
            raise NotPossible(f"Redis ended: {self._valkey.last_words()}")
        if (code := self._cluster.ended()) is not None:
            raise NotPossible(f"The cluster ended (exit code {code}); see {self._cluster.log}.")

    async def _cluster_ready(self) -> bool:
        while not self._cluster.reports.empty():
            report = self._cluster.reports.get_nowait()
            if "failed" in report:
                raise NotPossible(report["failed"])
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
        """Return when asked to stop. NotPossible if the cluster dies, or Redis too often."""
        while not await self._stopped_within(LOOK_S):
            if self._valkey is not None and self._valkey.ended and self._restarts < REDIS_RESTARTS_MAX:
                self._restarts += 1
                self.say("Redis died; starting it again on the same data")
                self._valkey.start()
            self._require_children()

    async def down(self) -> None:
        """End all of it; returns when nothing is left."""
        everything = processes.marked(self._folder.mark)
        await self._cluster.leave(LEAVE_S, self._impatient)
        if self._valkey is not None:
            # The others first: whoever is left must not find its Redis gone.
            others = {found for found in everything if found.pid != self._valkey.pid}
            await asyncio.to_thread(processes.end, others, END_S)
            await asyncio.to_thread(self._valkey.stop, END_S)
        await asyncio.to_thread(processes.end, everything | processes.marked(self._folder.mark), END_S)
        self._folder.forget()


def _down_command(options: Options) -> str:
    """What a person types to end this very stack."""
    port = "" if options.port == 8000 else f" --port {options.port}"
    return f"deploy/down{port}" + (f" --data-dir {options.data_dir}" if options.data_dir else "")


def _require_free(options: Options) -> None:
    """NotPossible if somebody listens where the edge should."""
    with socket.socket(socket.AF_INET6 if ":" in options.bind else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.bind, options.port))
        except OSError as error:
            raise NotPossible(
                f"Port {options.port} of {options.bind} can't be had ({error.strerror}); choose another with --port."
            ) from error


async def live(options: Options, folder: Folder) -> int:
    """The whole life of one stack; returns the exit code."""
    stack = Stack(options, folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stack.ask_to_stop)
    try:
        await stack.up()
        stack.tell_ready()
        await stack.watch()
        stack.say("stopping")
    except NotPossible as problem:
        print(f"deploy/up: {problem}", file=sys.stderr, flush=True)
        return 2
    except Stopped:
        code = 1
    else:
        code = 0
    finally:
        await stack.down()
    stack.say("stopped")
    return code


def main() -> int:
    options = parse(sys.argv[1:])
    folder = Folder(options.port, options.data_dir)
    try:
        folder.open()
        if not folder.lock():
            state = folder.state()
            raise NotPossible(
                f"Already running on port {options.port} (pid {state.get('pid')}, {state.get('phase')}):"
                f" talk to {state.get('url', 'it soon')}, or end it with {_down_command(options)}."
            )
    except NotPossible as problem:
        print(f"deploy/up: {problem}", file=sys.stderr)
        return 2
    if options.detach and os.environ.get(processes.MARK) != folder.mark:
        folder.unlock()
        return follow(folder, sys.argv[1:])
    return asyncio.run(live(options, folder))


if __name__ == "__main__":
    sys.exit(main())
