"""``python deploy/leash.py PARENT SIGNAL COMMAND...``: become COMMAND, and get SIGNAL from the kernel when PARENT dies.

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
    parent, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        sys.exit(1)  # It died before the promise was given.
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
