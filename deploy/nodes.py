"""Further nodes of a stack's cluster: raylets of their own on this machine, beside the head, that can die one by one.

Each is ``ray start --block``, the way in which any machine joins a cluster: in a process group of its own below the
keeper, so that it ends with the stack, and in a temporary folder of its own, because several that start in one take
the same names for their sockets. Its raylet's workers are the hosts; the controller and the edge stay on the head. A
node that has ended, killed or drained, is followed by a new one, as whoever runs a cluster would see to.

``ray start`` itself outlives a raylet that a drain has ended, so what counts is the raylet.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from deploy import processes

RAYLET = "/raylet/raylet "
"""In the command of a raylet, and of nothing else that ``ray start`` starts."""
CPUS = 1
"""Per node: Ray starts as many workers in advance, and hosts claim next to nothing."""
OBJECT_STORE_BYTES = 80_000_000
"""About the least that Ray allows."""
END_S = 5.0
AGAIN_S = 10.0
"""From a node's end to the start of the next one. A new machine takes longer, and here the start of a raylet would
take the cores away from the hosts that go on."""


class Node:
    """One raylet with what belongs to it. Start it from the main thread."""

    def __init__(self, gcs_address: str, temp_dir: Path, log: Path) -> None:
        self._joined = False
        with open(log, "ab") as output:
            self._child = subprocess.Popen(
                _command(gcs_address, temp_dir),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def lives(self) -> bool:
        """False once it has ended, or its raylet has. One that is still starting lives."""
        if self._child.poll() is not None:
            return False
        runs = any(RAYLET in processes.command(found.pid) for found in processes.below(self._child.pid))
        self._joined |= runs
        return runs or not self._joined

    def clear_away(self) -> None:
        """End what is left of it."""
        processes.end(processes.below(self._child.pid), 0.0)
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait(END_S)


class Nodes:
    """So many nodes, always. ``tend`` is to be called again and again, from one thread, which is the main one."""

    def __init__(self, count: int, gcs_address: str, temp_dir: Path, logs: Path) -> None:
        """``temp_dir`` is for sockets, so it must be short; ``logs`` for what ``ray start`` has to say."""
        self._gcs_address = gcs_address
        self._temp_dir = temp_dir
        self._logs = logs
        self._nodes = {number: self._start(number) for number in range(1, count + 1)}
        self._due: dict[int, float] = {}
        """Number of a node that is to be started -> when (monotonic)."""

    def tend(self) -> None:
        """Put a new node in the place of each that has ended, ``AGAIN_S`` later."""
        now = time.monotonic()
        for number in [number for number, node in self._nodes.items() if not node.lives()]:
            self._nodes.pop(number).clear_away()
            self._due[number] = now + AGAIN_S
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._nodes[number] = self._start(number)

    def _start(self, number: int) -> Node:
        name = f"node-{number}"
        return Node(self._gcs_address, self._temp_dir / name, self._logs / f"{name}.log")


def _command(gcs_address: str, temp_dir: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--address", gcs_address),
        *("--num-cpus", str(CPUS), "--object-store-memory", str(OBJECT_STORE_BYTES), "--disable-usage-stats"),
        *("--include-log-monitor", "false", "--temp-dir", str(temp_dir)),
    ]
