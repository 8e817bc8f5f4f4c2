"""Which process listens where, whether it lives, and who uses the machine: what an experiment sees from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable

import psutil  # type: ignore[import-untyped]


def listener_pid(address: str) -> int | None:
    """The process that listens at ``host:port`` on this machine, or None."""
    host, _, port = address.rpartition(":")
    for connection in psutil.net_connections(kind="tcp"):
        here = connection.laddr
        if connection.status == psutil.CONN_LISTEN and here.port == int(port) and here.ip in (host, "0.0.0.0", "::"):
            return int(connection.pid) if connection.pid else None
    return None


def alive(pid: int) -> bool:
    """Whether the process runs, or could run again: a zombie has ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def signal_family(pid: int, number: int) -> None:
    """To it, and to all that descends from it. NoSuchProcess if it has ended."""
    first = psutil.Process(pid)
    # From now on it starts nobody whom the signal would miss, nor anybody in the place of those that it has ended.
    first.suspend()
    for process in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def busy_s() -> float:
    """Seconds that all cores together have worked since the machine started, for whomever."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - times.guest - times.guest_nice)


def stolen_s() -> float:
    """Seconds in which a core had work and the hypervisor ran somebody else's, since the machine started."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def cpu_s(mark: str) -> float:
    """Seconds of processor that the ``family`` of ``mark`` has used."""
    return used_s(process.pid for process in family(mark))


def family(mark: str, roots: Collection[int] = ()) -> list[psutil.Process]:
    """The living processes that carry ``mark`` in a variable of their environment, the ``roots``, and those that
    descend from them. Whoever writes over its environment is found by its parents."""
    processes = {process.pid: process for process in psutil.process_iter(["ppid"])}
    found = {pid for pid, process in processes.items() if pid in roots or mark in _environment(process)}
    while more := {pid for pid, process in processes.items() if process.info["ppid"] in found and pid not in found}:
        found |= more
    return [processes[pid] for pid in found]


def used_s(pids: Iterable[int]) -> float:
    """Seconds of processor, user and system, that these have used; nothing for whoever has ended."""
    return sum(map(_used_s, pids))


def resident_bytes(pids: Iterable[int]) -> int:
    """What these have in memory; NoSuchProcess if one has ended."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in pids)


def command(pid: int) -> str:
    """Its command line, as it shows itself; empty if it has ended."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _environment(process: psutil.Process) -> list[str]:
    try:
        return list(process.environ().values())
    except psutil.Error:
        return []


def _used_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
