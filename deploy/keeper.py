"""``python -m deploy.keeper PARENT COMMAND...``: run COMMAND, and let nothing that it starts outlive this process.

Ray's agents overwrite their environment, its workers lead groups of their own, and HAProxy has left its parent: once
the processes between are dead, nothing ties them to their stack. So the kernel is asked to give every orphan below to
this process (PR_SET_CHILD_SUBREAPER): everything below stays below, whatever it does to its name, group or parent.

- COMMAND ends: what is left below is killed, and COMMAND's exit code is passed on.
- SIGTERM is passed on to COMMAND, which may then leave in good order.
- PARENT dies (the kernel says so), or SIGUSR1: everything below is killed at once.

If this process itself is killed, the kernel kills COMMAND. What is then left is found by its mark or its session
(``deploy.remains``). Standard library only, one thread; nothing here waits longer than ``END_MAX_S``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Final

from deploy import processes
from deploy.leash import PR_SET_PDEATHSIG

PR_SET_CHILD_SUBREAPER: Final = 36
AT_ONCE: Final = signal.SIGUSR1
END_MAX_S: Final = 15.0
_WATCHED: Final = {signal.SIGCHLD, signal.SIGTERM, AT_ONCE}


def kept(command: list[str]) -> list[str]:
    """``command`` under a keeper that ends with the caller. To be started from the main thread, with ROOT as cwd."""
    return [sys.executable, "-m", "deploy.keeper", str(os.getpid()), *command]


def main() -> int:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # Blocked, not handled: a signal waits until it is asked for, so none is lost between a look and a wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, int(AT_ONCE))
    if os.getppid() != parent:
        return 1  # It died before the promise was given.
    leashed = processes.leashed(command, signal.SIGKILL)
    child = os.posix_spawn(leashed[0], leashed, os.environ, setsigmask=())
    code = _until_ended(child)
    return _end_all(child, code)


def _until_ended(child: int) -> int | None:
    """The child's exit code; None if it lives and all of it is to be ended."""
    while True:
        number = signal.sigwait(_WATCHED)
        if number == AT_ONCE:
            return None
        if number == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)  # Not reaped yet, so nobody else has its pid.
        elif child in (ended := _reap()):
            return ended[child]


def _end_all(child: int, code: int | None) -> int:
    """Kill what is below until nothing is: what a dying process leaves behind falls to this one, and is next."""
    deadline = time.monotonic() + END_MAX_S
    while time.monotonic() < deadline:
        processes.end(processes.below(os.getpid()), 0.0)
        ended = _reap()
        code = ended.get(child, code)
        if not processes.below(os.getpid()):
            break
    return 128 + signal.SIGKILL if code is None else code


def _reap() -> dict[int, int]:
    """pid -> exit code (128 + signal) of children that have ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
