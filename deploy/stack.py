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
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from deploy import processes
from deploy.detach import follow
from deploy.environment import environment, shown_url
from deploy.folder import ROOT, Folder, NotPossible
from deploy.options import Options, parse
from deploy.probe import first_turn, ring_size
from deploy.valkey import Valkey, free_port

START_MAX_S = 180.0
LEAVE_S = 10.0
"""How long hosts may take to leave before everything is ended: leaving is optional (I9)."""
WAIT_LINE_S = 5.0
"""A waiting person gets a line this often."""
LOOK_S = 0.2
"""Time between two looks at the children."""
REDIS_RESTARTS_MAX = 20
"""Per start of the stack; a Redis that dies more often has a reason that another start doesn't cure."""


class Stack:
    """One stack's life, on one event loop. ``up``, then ``watch``, and ``down`` in any case."""

    def __init__(self, options: Options, folder: Folder) -> None:
        self._options = options
        self._folder = folder
        self._began = time.monotonic()
        self._valkey: Valkey | None = None
        self._cluster: subprocess.Popen[bytes] | None = None
        self._reports: asyncio.Queue[dict[str, object]] = asyncio.Queue()
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
        """Start all of it. NotPossible if it can't be, CancelledError never: a stop is noticed between the steps."""
        self._clear_away()
        self._folder.tell(phase="starting", **self._identity())
        env = environment(self._options, self._folder)
        if "REDIS_URL" not in os.environ:
            self._valkey = Valkey(self._folder.path / "redis", free_port(self._options.port), self._options.fsync, env)
            env["REHYDRA_STORE__URL"] = self._valkey.url
            self._valkey.start()
            await self._until("Redis", self._redis_answers)
            self.say(f"Redis answers (Valkey, {self._options.fsync}, {self._valkey.folder})")
        else:
            self.say(f"Redis is {shown_url(env['REHYDRA_STORE__URL'])}, from REDIS_URL")
        self._start_cluster(env)
        await self._until("Ray and the hosts", self._cluster_ready)
        self.say(f"{self._options.hosts} hosts run; waiting for the edge and the ring")
        await self._until("a first turn", self._turn_works)

    def tell_ready(self) -> None:
        """Say what there is, to people and to scripts."""
        options, folder = self._options, self._folder
        url = f"http://{options.bind}:{options.port}"
        redis_url = self._valkey.url if self._valkey else os.environ["REDIS_URL"]
        folder.tell(phase="ready", url=url, redis_url=shown_url(redis_url), **self._identity())
        self.say(f"Rehydra is up: {url}\n")
        print(
            f"""Say something, and say it again after killing a host:

  curl -s {url}/chat -H 'content-type: application/json' \\
    -d '{{"session_id": "ann", "message": "My name is Ann."}}'

API {url}/docs   hosts {url}/ring   logs {folder.path}
Redis {shown_url(redis_url)}   stop: {"" if options.detach else "Ctrl-C or "}{self._down_command()}""",
            flush=True,
        )

    def _down_command(self) -> str:
        """What a person types to end this very stack."""
        port = "" if self._options.port == 8000 else f" --port {self._options.port}"
        data_dir = f" --data-dir {self._options.data_dir}" if self._options.data_dir else ""
        return f"deploy/down{port}{data_dir}"

    def _identity(self) -> dict[str, object]:
        me = processes.find(os.getpid())
        return {"pid": os.getpid(), "started": me.started if me else 0, "port": self._options.port}

    def _clear_away(self) -> None:
        """End what a stack left behind that was killed: it can't be another one's, the lock is ours."""
        if left := processes.marked(self._folder.mark):
            ended = processes.end(left, 2.0)
            self.say(f"ended {ended} processes of a stack that was killed")
        self._folder.make_short()
        _require_free(self._options)

    def _start_cluster(self, env: dict[str, str]) -> None:
        command = [sys.executable, "-m", "deploy.cluster", "--hosts", str(self._options.hosts)]
        command += [
            "--temp-dir",
            str(self._folder.short / "ray"),
            "--dashboard-port",
            str(self._options.dashboard_port),
        ]
        reading, writing = os.pipe()
        with open(self._folder.path / "cluster.log", "wb") as log:
            self._cluster = subprocess.Popen(
                processes.leashed([*command, "--report-to", str(writing)], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=ROOT,
                pass_fds=(writing,),
                # Ctrl-C is for the supervisor alone, which then ends all of it in order.
                start_new_session=True,
            )
        os.close(writing)
        os.set_blocking(reading, False)
        asyncio.get_running_loop().add_reader(reading, self._read_reports, reading, bytearray())

    def _read_reports(self, reading: int, rest: bytearray) -> None:
        received = os.read(reading, 65_536)
        if not received:
            asyncio.get_running_loop().remove_reader(reading)
            os.close(reading)
        rest += received
        for report in _lines(rest):
            self._reports.put_nowait(json.loads(report))

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _until(self, what: str, done: object) -> None:
        """Ask ``done`` again and again; give up when told to stop, when a child dies, or after ``START_MAX_S``."""
        assert callable(done)
        line_due = time.monotonic() + WAIT_LINE_S
        while not await done():
            if await self._stopped_within(LOOK_S):
                raise NotPossible("Stopped.")
            self._require_children()
            now = time.monotonic()
            if now - self._began > START_MAX_S:
                raise NotPossible(f"Gave up waiting for {what}; see {self._folder.path}/cluster.log.")
            if now > line_due:
                line_due = now + WAIT_LINE_S
                self.say(f"waiting for {what}")

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
        if self._cluster is not None and (code := self._cluster.poll()) is not None and self._reports.empty():
            raise NotPossible(f"The cluster ended (exit code {code}); see {self._folder.path}/cluster.log.")

    async def _redis_answers(self) -> bool:
        assert self._valkey is not None
        return await asyncio.to_thread(self._valkey.answers)

    async def _cluster_ready(self) -> bool:
        while not self._reports.empty():
            report = self._reports.get_nowait()
            if "failed" in report:
                raise NotPossible(str(report["failed"]))
            if report.get("ready"):
                return True
            self.say(str(report.get("step")))
        return False

    async def _turn_works(self) -> bool:
        options = self._options
        if await asyncio.to_thread(ring_size, options.bind, options.port) < options.hosts:
            return False
        return await asyncio.to_thread(first_turn, options.bind, options.port)

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
        if self._cluster is not None and self._cluster.poll() is None:
            await self._let_leave(self._cluster)
        if self._valkey is not None:
            # Its own children first: whoever is left must not write into a Redis that is leaving.
            mine = {found for found in everything if self._valkey.process and found.pid == self._valkey.process.pid}
            await asyncio.to_thread(processes.end, everything - mine, 1.0)
            await asyncio.to_thread(self._valkey.stop, 5.0)
        await asyncio.to_thread(processes.end, everything | processes.marked(self._folder.mark), 1.0)
        if self._cluster is not None:
            self._cluster.wait()
        self._folder.forget()

    async def _let_leave(self, cluster: subprocess.Popen[bytes]) -> None:
        """Have Serve end the hosts in good order; a limit ends the waiting, and so does an impatient person."""
        cluster.terminate()
        waiting = {
            asyncio.create_task(asyncio.to_thread(_gone_within, cluster, LEAVE_S)),
            asyncio.create_task(self._impatient.wait()),
        }
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if cluster.poll() is None:
            cluster.kill()
        self._impatient.set()
        await asyncio.wait(waiting)


def _gone_within(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _lines(rest: bytearray) -> Iterator[bytes]:
    """Whole lines, taken out of ``rest``."""
    while (end := rest.find(b"\n")) >= 0:
        line = bytes(rest[:end])
        del rest[: end + 1]
        yield line


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
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stack.ask_to_stop)
    try:
        await stack.up()
        stack.tell_ready()
        await stack.watch()
    except NotPossible as problem:
        print(f"deploy/up: {problem}", file=sys.stderr, flush=True)
        return 1
    else:
        stack.say("stopping")
        return 0
    finally:
        await stack.down()
        print("stopped", flush=True)


def main() -> int:
    options = parse(sys.argv[1:])
    folder = Folder(options.port, options.data_dir)
    try:
        folder.open()
        if not folder.lock():
            state = folder.state()
            raise NotPossible(
                f"Already running on port {options.port} (pid {state.get('pid')}, {state.get('phase')}):"
                f" talk to {state.get('url', 'it soon')}, or end it with deploy/down."
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
