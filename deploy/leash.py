"""``python deploy/leash.py SIGNAL COMMAND...``: become COMMAND, and get SIGNAL from the kernel when the parent dies.

A program of its own, because what runs between fork and exec in a process with threads may deadlock. The kernel's
promise is tied to the thread that started this; start it from the main one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    number = signal.Signals[sys.argv[1]]
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        sys.exit(1)  # It died before the promise was given.
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
