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
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""Of the project: where the packages are."""

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
        self.log = self.path / "stack.log"
        self._lock: int | None = None

    @property
    def mark(self) -> str:
        """What the environment of each of the stack's processes says."""
        return str(self.path)

    def open(self) -> None:
        """Make the folder if need be. NotPossible if it can't be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            os.close(probe)
        except OSError as error:
            raise NotPossible(f"{self.path} can't be written ({error.strerror}); choose another --data-dir.") from error

    def lock(self) -> bool:
        """Take the folder for this process, for as long as it lives. False if another has it."""
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            return False
        return True

    def unlock(self) -> None:
        """Give the folder to whoever asks next."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the stack last said of itself; empty if nothing."""
        try:
            state = json.loads((self.path / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def tell(self, **state: Any) -> None:
        """Replace the state, all or nothing."""
        new = self.path / "state.json.new"
        new.write_text(json.dumps(state, indent=1) + "\n")
        new.replace(self.path / "state.json")

    def forget(self) -> None:
        """No stack runs here any more: the state and the short folder go, the talks, the secret and the logs stay."""
        (self.path / "state.json").unlink(missing_ok=True)
        logs = self.ray / "session_latest" / "logs" / "serve"
        if logs.is_dir():
            shutil.rmtree(self.path / "serve-logs", ignore_errors=True)
            shutil.copytree(logs, self.path / "serve-logs", ignore_dangling_symlinks=True)
        shutil.rmtree(self.short, ignore_errors=True)

    # --- what the parts need ----------------------------------------------------------------------------------------

    def make_short(self) -> Path:
        """The short folder, empty."""
        shutil.rmtree(self.short, ignore_errors=True)
        try:
            self.short.mkdir(mode=0o700)
        except OSError as error:
            raise NotPossible(f"{self.short} can't be made ({error.strerror}).") from error
        return self.short

    def secret(self, name: str) -> str:
        """A random secret that lives as long as the folder (base64 of 32 bytes), readable by its owner only."""
        path = self.path / name
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(handle, "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)).decode())
        return path.read_text().strip()
