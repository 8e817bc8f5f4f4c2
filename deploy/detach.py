"""``deploy/up --detach``: the supervisor in a session of its own, and this process until it says that it works."""

from __future__ import annotations

import os
import subprocess
import sys

from deploy.folder import Folder
from deploy.processes import MARK

LOOK_S = 0.1


def follow(folder: Folder, arguments: list[str]) -> int:
    """Start ``deploy.stack`` with ``arguments``, show its lines until it is ready or ends; returns the exit code."""
    with open(folder.log, "wb") as log, open(folder.log) as lines:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.stack", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, MARK: folder.mark},
            start_new_session=True,
        )
        try:
            while (code := _ended_within(child, LOOK_S)) is None:
                state = folder.state()
                ready = state.get("pid") == child.pid and state.get("phase") == "ready"
                # Read after the look: what was said before it was ready is shown, too.
                sys.stdout.write(lines.read())
                sys.stdout.flush()
                if ready:
                    return 0
        except KeyboardInterrupt:
            child.terminate()
            code = child.wait()
        sys.stdout.write(lines.read())
        return code


def _ended_within(child: subprocess.Popen[bytes], wait_s: float) -> int | None:
    try:
        return child.wait(wait_s)
    except subprocess.TimeoutExpired:
        return None
