"""Real PostgreSQL servers for tests, beside the Redis of ``tests.servers``: on a free port, and surely ended.

The empty data are made once per run and copied. A server dies with the process that started it, also when that is
killed.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import asyncpg
import psutil  # type: ignore[import-untyped]
import pytest

from deploy import postgres
from deploy.folder import NotPossible
from tests.servers import ServerMissing, die_with_parent, free_port, in_ci

A = TypeVar("A")
PASSWORD: Final = "a secret"
URL: Final = "postgresql://rehydra:a%20secret@127.0.0.1:{port}/postgres"
START_S: Final = 20.0


@cache
def programs() -> Path:
    """Where initdb and postgres are; TEST_POSTGRES_BIN names others. ServerMissing if there are none."""
    if chosen := os.environ.get("TEST_POSTGRES_BIN"):
        return Path(chosen)
    try:
        return postgres.programs(_room("programs") / "copied")
    except NotPossible as missing:
        raise ServerMissing(str(missing)) from missing


@cache
def _empty() -> Path:
    """The data of a new server, from which all others are copied."""
    data = _room("empty") / "data"
    postgres.make_data(programs(), data, PASSWORD, "--no-sync")
    return data


def _room(name: str) -> Path:
    """A folder that everybody may enter, until the end of this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"postgres-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    return folder


class Sql:
    """A person's connection to a server: SQL in, rows out. Blocks, on an event loop and a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.SelectorEventLoop()
        self._connection: Any = None
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, A]) -> A:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def execute(self, text: str, *arguments: object) -> None:
        self.run(self._on("execute", text, *arguments))

    def fetch(self, text: str, *arguments: object) -> list[Any]:
        return cast(list[Any], self.run(self._on("fetch", text, *arguments)))

    async def _on(self, what: str, *arguments: object) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url)
        return await getattr(self._connection, what)(*arguments)

    def close(self) -> None:
        """The connection goes; another comes with the next statement."""
        if self._connection is not None:
            self._loop.call_soon_threadsafe(self._connection.terminate)


def columns(sql: Sql, table: str) -> list[str]:
    """The columns of a table, in their order."""
    return [
        row["attname"]
        for row in sql.fetch(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum",
            table,
        )
    ]


class PostgresServer:
    """One server, not started yet (see ``start_postgres``). A context manager stops it."""

    def __init__(self, **settings: str | int) -> None:
        empty, self.port = _empty(), free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.data = self.folder / "data"
        subprocess.run(["cp", "-a", str(empty), str(self.data)], check=True)
        self._process: subprocess.Popen[bytes] | None = None
        own: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
            "max_connections": 200,
            # What is written survives every death that a test can die: the kernel has it.
            "fsync": "off",
            "shared_buffers": "32MB",
            "max_wal_size": "128MB",
        }
        self._settings = own | settings

    @property
    def url(self) -> str:
        """For ``store.url``."""
        return URL.format(port=self.port)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "The server isn't running."
        return self._process.pid

    def start(self) -> Self:
        """Returns as soon as it answers."""
        settings = {**self._settings, "port": self.port}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log().open("ab") as log, postgres.handed_over(self.data) as (data, more):
            self._process = subprocess.Popen(
                [str(programs() / "postgres"), "-D", data, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # After it has become another user, which would end the kernel's promise. One call and nothing else.
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
                **postgres.as_user(postgres.as_whom(self.data)), **more,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not postgres.is_ready(self.data, self.pid):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL didn't start:\n{self._log().read_text(errors='replace')[-2000:]}")
            time.sleep(0.005)
        return self

    def kill(self) -> None:
        """SIGKILL of all of it at once, and wait until it is gone. Its data stay for :meth:`start`."""
        if self._process is not None:
            family = self._family()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            psutil.wait_procs(family, timeout=START_S)
            self._process = None

    def restart(self) -> None:
        """SIGKILL, then start again on the same port with what it had written."""
        self.kill()
        self.start()

    def revive(self) -> None:
        """Running again, whatever was done to it."""
        self.thaw()
        if self._process is None:
            self.start()

    def make_standby(self) -> None:
        """From now on it follows another server, which there isn't, and takes no writes."""
        self._end()
        (self.data / "standby.signal").touch()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP of all of it: connections are accepted, nothing is answered."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """SIGCONT: what came in meanwhile is done now."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def stop(self) -> None:
        """End it and delete its folder. Idempotent."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals = signal.SIGINT) -> None:
        """A shutdown, fast or immediate; both take away what a killed server would leave in the kernel."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(number)
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            server = psutil.Process(self.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _log(self) -> Path:
        return self.folder / "server.log"


def start_postgres(**settings: str | int) -> PostgresServer:
    """A running one; where there is none, skip at home and fail in CI."""
    try:
        server = PostgresServer(**settings)
    except ServerMissing as missing:
        if in_ci():
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    try:
        return server.start()
    except BaseException:
        server.stop()
        raise
