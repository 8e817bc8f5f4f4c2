"""Stand-ins for DynamoDB, each a process of its own: moto's server and ministack. Neither keeps anything on disk.

What they don't prove: how the real service behaves when requests race on several of its machines, what survives the
loss of one, its throttling, and its clearing away of what has expired.

moto answers one request at a time here. Its own server uses threads, and its transactions take back *everything* that
was written to the table since they began when they fail, also what others wrote.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from tests.servers import die_with_parent, free_port

START_S: Final = 30.0
MOTO: Final = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
KINDS: Final = ("moto", "ministack")


class Emulator:
    """One process of that kind on a free port of 127.0.0.1."""

    def __init__(self, kind: str) -> None:
        assert kind in KINDS
        self.kind = kind
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The endpoint of the service."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Returns as soon as it listens."""
        command = [sys.executable, "-c", MOTO, str(self.port)] if self.kind == "moto" else [*_MINISTACK]
        own = {"GATEWAY_PORT": str(self.port), "BIND_HOST": "127.0.0.1", "SERVICES": "dynamodb", "LOG_LEVEL": "ERROR",
               "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **own, "TMPDIR": str(self._folder)},
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - as in Server
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._listens():
                return self
        told = self._log.read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"{self.kind} didn't start:\n{told}")

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and delete its folder. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
        except OSError:
            assert self._process is not None
            try:
                self._process.wait(0.05)  # It ends, or there is time to try again.
            except subprocess.TimeoutExpired:
                pass
            return False


_MINISTACK: Final = (sys.executable, "-m", "ministack")
