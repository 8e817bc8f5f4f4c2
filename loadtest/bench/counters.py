"""What everybody's counters say before and after a load, and what that makes per turn.

CPU is read from ``/proc`` for each part of a system, so a process that ends in between takes its part along. The
store's figures are all that it did, for whomever: beats of hosts are in its bytes (some hundred a second), and stand
apart in its commands wherever scripts tell them apart (``redis_counts``).
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.processes import busy_s, command, family, stolen_s, used_s
from loadtest.redis_counts import OWN, between, commandstats
from loadtest.redis_wire import ask

Parts = Mapping[str, Sequence[int]]
"""Name of a part of a system -> its processes."""

ATTACH_S = 10.0
PARTS = ("haproxy", "hosts", "redis", "edge", "serve", "ray")
"""In the order in which they are shown. ``hosts``: whoever runs the handler or the agent. ``serve``: Serve's controller
and proxies. ``ray``: all else that a cluster runs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters at one moment. ``busy_s``: of all cores, for whomever, with what was stolen from this machine."""

    at: float
    busy_s: float
    stolen_s: float
    cpu_s: Mapping[str, float]
    commands: Mapping[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0


async def snapshot(parts: Parts, redis_url: str | None) -> Snapshot:
    """Now. OSError if the store can't be asked."""
    commands = await commandstats(redis_url) if redis_url else {}
    net = await info(redis_url, "stats") if redis_url else {}
    spent = {name: used_s(pids) for name, pids in parts.items()}
    inward, outward = (int(net.get(f"total_net_{way}put_bytes", 0)) for way in ("in", "out"))
    return Snapshot(time.monotonic(), busy_s(), stolen_s(), spent, commands, inward, outward)


async def info(url: str, section: str) -> dict[str, str]:
    """A section of the store's INFO."""
    lines = (await ask(url, "INFO", section)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def per_turn(before: Snapshot, after: Snapshot, turns: int, *, scripts: bool) -> dict[str, Any]:
    """CPU in ms per turn and in cores by part; commands and bytes per turn. ``scripts``: the store is Rehydra's."""
    if not turns:
        return {}
    seconds = after.at - before.at
    spent = {name: after.cpu_s[name] - before.cpu_s.get(name, 0.0) for name in after.cpu_s}
    found: dict[str, Any] = {
        "cpu_ms_per_turn": {name: 1000 * used / turns for name, used in spent.items()},
        "cores": {name: used / seconds for name, used in spent.items()},
        "machine_cores": (after.busy_s - before.busy_s) / seconds,
        "stolen_cores": (after.stolen_s - before.stolen_s) / seconds,
    }
    found["cpu_ms_per_turn"]["all"] = sum(found["cpu_ms_per_turn"].values())
    if after.commands:
        found["redis"] = _store(before, after, turns, scripts)
    return found


def _store(before: Snapshot, after: Snapshot, turns: int, scripts: bool) -> dict[str, float]:
    ran = {name: calls - before.commands.get(name, 0) for name, calls in after.commands.items() if name not in OWN}
    found: dict[str, float] = {
        "bytes_in_per_turn": (after.bytes_in - before.bytes_in) / turns,
        "bytes_out_per_turn": (after.bytes_out - before.bytes_out) / turns,
    }
    if not scripts:
        return found | {"commands_per_turn": sum(ran.values()) / turns}
    cost = between(before.commands, after.commands, turns)
    reads = cost.session_calls - cost.commits + sum(cost.direct.values())
    return found | {
        "commands_per_turn": cost.calls_per_turn,
        "reads_per_turn": reads / turns,
        "unexplained": float(cost.unexplained),
    }


def parts_of(mark: str) -> Parts:
    """The parts of a system whose processes are known by their environment alone."""
    found: dict[str, list[int]] = {}
    for process in family(mark):
        found.setdefault(part(command(process.pid)), []).append(process.pid)
    return found


def part(words: str) -> str:
    """To which part a process belongs, by its command line; Ray's workers write there what they run."""
    if words.startswith("ray::ServeReplica"):
        return "edge" if ":Edge" in words else "hosts"
    if words.startswith(("ray::ServeController", "ray::ProxyActor", "ray::HAProxy", "ray::_ProxyActor")):
        return "serve"
    program = words.partition(" ")[0].rpartition("/")[2]
    if program.startswith("haproxy"):
        return "haproxy"
    return "redis" if program.startswith(("valkey", "redis")) else "ray"


# --- system calls -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def traced(parts: Parts) -> AsyncIterator[dict[str, dict[str, int]]]:
    """Part -> system call -> how often, filled when the block ends. TimeoutError if strace doesn't attach."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="rehydra-strace-") as folder:
        tracers = {name: await _trace(pids, Path(folder) / name) for name, pids in parts.items() if pids}
        try:
            yield found
        finally:
            for tracer in tracers.values():
                tracer.send_signal(signal.SIGINT)
            for tracer in tracers.values():
                await tracer.communicate()
        found.update({name: counts((Path(folder) / name).read_text()) for name in tracers})


async def _trace(pids: Sequence[int], out: Path) -> asyncio.subprocess.Process:
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-c", "-o", str(out)),
        *(word for pid in pids for word in ("-p", str(pid))),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    waiting = {str(pid) for pid in pids}
    async with asyncio.timeout(ATTACH_S):
        while waiting and (line := (await tracer.stderr.readline()).decode()):
            # "strace: Process 4711 attached", and more of its threads
            waiting -= set(line.split())
    return tracer


def counts(table: str) -> dict[str, int]:
    """Calls by name, from the table of ``strace -c``."""
    rows = (line.split() for line in table.splitlines())
    calls = {row[-1]: int(row[3]) for row in rows if len(row) in (5, 6) and row[3].isdigit()}
    calls.pop("total", None)
    return calls
