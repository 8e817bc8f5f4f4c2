"""A stack's folder, ``.data/<port>/`` unless told otherwise: its lock, its state, its secret, its data and its logs.

One stack at a time holds the lock, and the kernel frees it with the process that holds it, however that ends. The state
tells ``deploy/up``, ``deploy/down`` and a curious person what runs; it is advice, the processes are the truth.
Standard library only, so that ``deploy/down`` works without the virtual environment.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""Of the project: where the packages are."""

STATE: Final = "state.json"
LOGS: Final = "logs"
"""What hosts and edge of the last start wrote."""
SERVE_LOGS: Final = "serve-logs"
_LOCK: Final = "lock"
_SHORT: Final = Path("/tmp")
"""Not TMPDIR, which may be long: a socket's path has 107 bytes at most."""


class NotPossible(Exception):
    """Something a person has to change first. One sentence, printed as it is; exit code 2."""


class Folder:
    """The folder of the stack on ``port``."""

    def __init__(self, port: int, path: str = "") -> None:
        self.port = port
        self.path = Path(path).expanduser().absolute() if path else ROOT / ".data" / str(port)
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:10]
        self.short = _SHORT / f"rehydra-{os.getuid()}-{digest}"
        """For what holds sockets: short, private, made anew by every start."""
        self.ray = self.short / "ray"
        self.programs = self.short.with_name(f"{self.short.name}-programs")
        """For programs that another user must be able to reach."""
        self.log = self.path / "stack.log"
        self._lock: int | None = None
        self._made: list[Path] = []

    @property
    def mark(self) -> str:
        """What the environment of each of the stack's processes says."""
        return str(self.path)

    def open(self) -> None:
        """Make the folder if need be. NotPossible if it can't be written."""
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(self._open_lock())
        except OSError as error:
            raise NotPossible(f"{self.path} can't be written ({error.strerror}); choose another --data-dir.") from error
        self._made = missing

    def lock(self) -> bool:
        """Take the folder for this process, for as long as it lives. False if another has it."""
        while True:
            handle = self._open_lock()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            if self._is_the_lock(handle):
                self._lock = handle
                return True
            # Whoever held it has deleted it with the folder in between: this one locks nothing any more.
            os.close(handle)

    def adopt(self, handle: int, made: list[Path]) -> None:
        """Take over the lock that another process took and left to this one, and what it had to make."""
        self._lock, self._made = handle, made

    @property
    def held(self) -> tuple[int, list[Path]]:
        """The lock's file descriptor and the folders that ``open`` had to make, for a child that adopts them."""
        assert self._lock is not None, "lock() comes first"
        return self._lock, self._made

    def _open_lock(self) -> int:
        return os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)

    def _is_the_lock(self, handle: int) -> bool:
        try:
            now, mine = os.stat(self.path / _LOCK), os.fstat(handle)
        except FileNotFoundError:
            self.path.mkdir(parents=True, exist_ok=True)
            return False
        return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)

    def unlock(self) -> None:
        """Give the folder to whoever asks next."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the stack last said of itself; empty if nothing."""
        try:
            state = json.loads((self.path / STATE).read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def tell(self, **state: Any) -> None:
        """Replace the state, all or nothing."""
        new = self.path / f"{STATE}.new"
        new.write_text(json.dumps(state, indent=1) + "\n")
        new.replace(self.path / STATE)

    def forget(self) -> None:
        """No stack runs here any more: the state and the short folder go, the talks, the secret and the logs stay."""
        (self.path / STATE).unlink(missing_ok=True)
        if logs := list(self.short.glob("*/session_latest/logs/serve")):
            shutil.rmtree(self.path / SERVE_LOGS, ignore_errors=True)
        for of_node in logs:
            shutil.copytree(of_node, self.path / SERVE_LOGS, ignore_dangling_symlinks=True, dirs_exist_ok=True)
        for room in (self.short, self.programs):
            shutil.rmtree(room, ignore_errors=True)

    def undo(self, keep: str) -> None:
        """Take back a first start that failed: a folder that ``open`` had to make goes, with all that was put into it.

        Files that ``keep``, what the person was told, names are left. The lock goes last, and only while it is held:
        another start may begin at any moment, and its files are not touched.
        """
        if self.path not in self._made:
            return
        left = [path for path in self.path.iterdir() if path.name != _LOCK and str(path) not in keep]
        for path in left:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                return  # Something is in it that is worth more than tidiness.

    # --- what the parts need ----------------------------------------------------------------------------------------

    def make_short(self) -> Path:
        """The short folder, empty; and no logs of the start before."""
        shutil.rmtree(self.path / LOGS, ignore_errors=True)
        shutil.rmtree(self.short, ignore_errors=True)
        try:
            self.short.mkdir(mode=0o700)
        except OSError as error:
            raise NotPossible(f"{self.short} can't be made ({error.strerror}).") from error
        return self.short

    def secret(self, name: str) -> str:
        """A random secret that lives as long as the folder (base64 of 32 bytes), readable by its owner only."""
        path = self.path / name
        if not path.exists():
            # Whole or not at all: a start may be killed at any moment, and half a secret would stay for ever.
            new = self.path / f"{name}.new"
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(base64.b64encode(secrets.token_bytes(32)).decode())
            new.replace(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)  # A copy of a folder often has what the umask left.
        return path.read_text().strip()
