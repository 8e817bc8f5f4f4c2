"""``python -m deploy.down``, which is ``deploy/down``: end the stack on one port, also what a killed one left behind.

Asks the supervisor, which knows the order; then ends by pid whatever still lives of the stack, and returns when nothing
does. Standard library only: it also works when the virtual environment has gone.
"""

from __future__ import annotations

import argparse
import sys

from deploy import processes
from deploy.folder import Folder
from deploy.remains import remains, running, supervisor

SUPERVISOR_S = 40.0
REST_S = 2.0
PASSES_MAX = 5
"""A process that is ended may just have started another; whoever does so five times over is not of this stack."""


def stop(folder: Folder) -> int:
    """End all of it; returns how many processes were ended."""
    everything = remains(folder)
    ended = 0
    if (keeper := supervisor(folder)) is not None:
        print(f"ending the stack on port {folder.port} (pid {keeper.pid})", flush=True)
        ended = processes.end([keeper], SUPERVISOR_S) + len(everything)
    for _ in range(PASSES_MAX):
        left = remains(folder) | processes.wait_gone(everything, 0.0)
        if not left:
            break
        more = processes.end(left, REST_S)
        ended += more if keeper is None else 0  # With a supervisor they have been counted.
    if folder.path.is_dir():
        folder.forget()
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/down", description="End the stack that deploy/up has started.")
    parser.add_argument("--port", type=int, default=8000, help="the port it was started with (8000)")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="the folder it was started with")
    options = parser.parse_args()
    folder = Folder(options.port, options.data_dir)
    known = folder.path.is_dir()
    if ended := stop(folder):
        print(f"ended {ended} process{'es' if ended > 1 else ''}")
        return 0
    others = "; ".join(f"port {stack.port} ({stack.down()})" for stack in running())
    if known:
        print(f"nothing was running on port {options.port}")
        if others:
            print(f"deploy/down: These run: {others}.", file=sys.stderr)
        return 0
    told = f"these run: {others}" if others else "none runs on another one either"
    print(f"deploy/down: No stack was ever started on port {options.port}; {told}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
