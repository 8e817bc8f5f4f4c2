"""``deploy/up --detach``: the supervisor in a session of its own, and this process until it says that it works.

What was claimed for the start is handed to the supervisor without ever being free in between. Ctrl-C or SIGTERM here
ends the start, twice without waiting for hosts to leave; a SIGKILL here leaves it to go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from pydantic_core import from_json, to_json

from deploy.claim import PortClaim
from deploy.folder import Folder
from deploy.processes import MARK

LOOK_S = 0.1
HELD: Final = "REHYDRA_STACK_HELD"
"""Tells the supervisor what it holds already: the descriptors of lock and claim, and the folders made for it."""


def follow(folder: Folder, claim: PortClaim, arguments: list[str]) -> int:
    """Start ``deploy.up`` with ``arguments``, show its lines until it is ready or ends; returns the exit code."""
    lock, made = folder.held
    held = to_json({"lock": lock, "claim": claim.handle, "made": [str(path) for path in made]}).decode()
    with open(folder.log, "wb") as log, open(folder.log) as lines:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, MARK: folder.mark, HELD: held},
            pass_fds=(lock, claim.handle),
            start_new_session=True,
        )
        folder.unlock()
        claim.drop()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = None
        while code is None:
            try:
                code = _ended_within(child, LOOK_S)
                state = folder.state()
                ready = state.get("pid") == child.pid and state.get("phase") == "ready"
                # Read after the look: what was said before it was ready is shown, too.
                sys.stdout.write(lines.read())
                sys.stdout.flush()
                if ready:
                    return 0
            except KeyboardInterrupt:
                child.terminate()
        return code


def adopted(folder: Folder, claim: PortClaim) -> bool:
    """Whether this is the supervisor that ``follow`` has started: then lock and claim are this process's now."""
    if (text := os.environ.pop(HELD, None)) is None:
        return False
    held = from_json(text)
    folder.adopt(held["lock"], [Path(path) for path in held["made"]])
    claim.adopt(held["claim"])
    # Whatever is started from here on must not hold them any longer than this process does.
    os.set_inheritable(held["lock"], False)
    os.set_inheritable(held["claim"], False)
    return True


def _ended_within(child: subprocess.Popen[bytes], wait_s: float) -> int | None:
    try:
        return child.wait(wait_s)
    except subprocess.TimeoutExpired:
        return None
