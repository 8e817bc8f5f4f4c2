"""``python deploy/leash.py PARENT SIGNAL COMMAND...``: become COMMAND, and get SIGNAL from the kernel when PARENT dies.

A program of its own, because what runs between fork and exec in a process with threads may deadlock. The kernel's
promise is tied to the thread that started this; start it from the main one.

``--as=UID:GID`` before COMMAND: become that user first. Here, and not done by who starts this, because that user may
not be able to reach this file.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
AS = "--as="


def main() -> None:
    parent, number, command = int(sys.argv[1]), signal.Signals[sys.argv[2]], sys.argv[3:]
    if command[0].startswith(AS):
        user, group = map(int, command.pop(0).removeprefix(AS).split(":"))
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    # Afterwards: who becomes another user loses the kernel's promise.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        sys.exit(1)  # It died before the promise was given.
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
