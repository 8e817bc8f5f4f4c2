"""``deploy/up --detach``: the supervisor in a session of its own, and this process until it says that it works."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import BinaryIO

from deploy.folder import Folder
from deploy.processes import MARK

LOOK_S = 0.1


def follow(folder: Folder, arguments: list[str]) -> int:
    """Start ``deploy.stack`` with ``arguments``, show its lines until it is ready or ends; returns the exit code."""
    with open(folder.log, "wb") as log, open(folder.log, "rb") as lines:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.stack", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, MARK: folder.mark},
            start_new_session=True,
        )
        while True:
            try:
                code: int | None = child.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                code = None
            state = folder.state()
            ready = state.get("pid") == child.pid and state.get("phase") == "ready"
            if ready:
                _settle(lines)
                return 0
            _show(lines)
            if code is not None:
                return code


def _show(lines: BinaryIO) -> None:
    sys.stdout.write(lines.read().decode(errors="replace"))
    sys.stdout.flush()


def _settle(lines: BinaryIO) -> None:
    """The last words come right after the state."""
    deadline = time.monotonic() + 1.0
    text = b""
    while b"stop:" not in text and time.monotonic() < deadline:
        text += lines.read()
    sys.stdout.write(text.decode(errors="replace"))
    sys.stdout.flush()
