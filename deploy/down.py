"""``python -m deploy.down``, which is ``deploy/down``: end the stack on one port, also what a killed one left behind.

Asks the supervisor, which knows the order; then ends by pid whatever still carries the stack's mark. Standard library
only: it also works when the virtual environment has gone.
"""

from __future__ import annotations

import argparse
import sys

from deploy import processes
from deploy.folder import Folder

SUPERVISOR_S = 30.0
REST_S = 2.0


def stop(folder: Folder) -> int:
    """End all of it; returns how many processes were ended."""
    everything = processes.marked(folder.mark)
    state = folder.state()
    supervisor = processes.find(int(state.get("pid", 0))) if state else None
    ended = 0
    if supervisor is not None and supervisor.started == state.get("started"):
        print(f"ending the stack on port {folder.port} (pid {supervisor.pid})", flush=True)
        ended = processes.end([supervisor], SUPERVISOR_S) + len(everything)
    ended += processes.end(everything | processes.marked(folder.mark), REST_S) if ended == 0 else 0
    processes.end(everything | processes.marked(folder.mark), REST_S)
    if folder.path.is_dir():
        folder.forget()
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/down", description="End the stack that deploy/up has started.")
    parser.add_argument("--port", type=int, default=8000, help="the port it was started with (8000)")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="the folder it was started with")
    options = parser.parse_args()
    folder = Folder(options.port, options.data_dir)
    ended = stop(folder)
    print(f"ended {ended} processes" if ended else f"nothing was running on port {options.port}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
