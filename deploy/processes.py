"""Processes by pid and start time: whose they are, and how they end. Linux, standard library only.

Everything that a stack starts carries its mark in the environment, and so does whatever that starts in turn. That is
how ``deploy/down`` finds all of it and nothing else, also after the stack itself was killed. Signals go through pidfds,
so that they can't hit a stranger who was given a dead process's number.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "REHYDRA_STACK"
"""Name of the environment variable; its value is the stack's folder."""

_KILL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process for as long as it lives: ``started`` (clock ticks since boot) tells it from a later one's pid."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class _Seen:
    process: Process
    parent: int
    session: int
    state: str


def find(pid: int) -> Process | None:
    """The living process with that pid; None if there is none, or only its remains."""
    seen = _look(pid)
    return seen.process if seen is not None and seen.state not in "ZX" else None


def marked(value: str, name: str = MARK) -> set[Process]:
    """All living processes that carry the mark with this value, and all that descend from them.

    Never the caller, nor whom it descends from.

    Descendants count by themselves because some programs overwrite the memory that holds their environment.
    """
    table = _living()
    wanted = f"{name}={value}".encode()
    found = _with_descendants({pid for pid in table if wanted in _environment(pid)}, table)
    return {table[pid].process for pid in found - _ancestors(os.getpid(), table)}


def marks(name: str = MARK) -> set[str]:
    """The values of all marks that living processes carry, as far as this user may look."""
    start = f"{name}=".encode()
    found = {line for pid in _pids() for line in _environment(pid) if line.startswith(start)}
    return {os.fsdecode(line.removeprefix(start)) for line in found}


def below(pid: int) -> set[Process]:
    """All living processes that descend from that one, without itself."""
    table = _living()
    return {table[found].process for found in _with_descendants({pid}, table) - {pid} if found in table}


def in_session(leader: Process, cwd: Path) -> set[Process]:
    """All living processes of the session that ``leader`` led, dead or alive, and that still stand in ``cwd``.

    The kernel gives no pid away that a session still bears, so the number is good while any of its members lives; who
    is older than the leader, or belongs to another leader of that number, or stands elsewhere, is a stranger.
    """
    table = _living()
    if (now := table.get(leader.pid)) is not None and now.process != leader:
        return set()
    mine = _ancestors(os.getpid(), table)
    return {
        seen.process
        for pid, seen in table.items()
        if seen.session == leader.pid
        and seen.process.started >= leader.started
        and pid not in mine
        and _cwd(pid) == str(cwd)
    }


def end(processes: Iterable[Process], patience_s: float) -> int:
    """SIGTERM, wait up to ``patience_s``, SIGKILL what is left, wait for that too. Returns how many were alive."""
    handles = [handle for handle in map(_open, processes) if handle is not None]
    try:
        left = handles
        for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _KILL_S)):
            for handle in left:
                _send(handle, number)
            left = _wait(left, wait_s)
        return len(handles)
    finally:
        for handle in handles:
            os.close(handle)


def wait_gone(processes: Iterable[Process], wait_s: float) -> set[Process]:
    """Those that still live after ``wait_s``. Returns as soon as none does."""
    handles = {handle: process for process in processes if (handle := _open(process)) is not None}
    try:
        return {handles[handle] for handle in _wait(list(handles), wait_s)}
    finally:
        for handle in handles:
            os.close(handle)


def boot() -> str:
    """Tells this boot of the machine from all others; pids and start times mean something within one only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def command(pid: int) -> str:
    """What ``ps`` would show."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def leashed(command: list[str], number: signal.Signals, whom: tuple[int, int] | None = None) -> list[str]:
    """``command`` such that the kernel sends it ``number`` when the caller dies. To be started from the main thread.

    ``whom``: the user and group that it is to run as, if the caller is root.
    """
    leash, user = Path(__file__).with_name("leash.py"), ["--as={}:{}".format(*whom)] if whom is not None else []
    return [sys.executable, "-S", str(leash), str(os.getpid()), number.name, *user, *command]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _look(pid: int) -> _Seen | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; the fields after it can't.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return _Seen(Process(pid, int(fields[19])), int(fields[1]), int(fields[3]), fields[0].decode())


def _living() -> dict[int, _Seen]:
    return {seen.process.pid: seen for seen in map(_look, _pids()) if seen is not None and seen.state not in "ZX"}


def _with_descendants(found: set[int], table: dict[int, _Seen]) -> set[int]:
    while more := {pid for pid, seen in table.items() if seen.parent in found and pid not in found}:
        found |= more
    return found


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _ancestors(pid: int, table: dict[int, _Seen]) -> set[int]:
    line = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


def _open(process: Process) -> int | None:
    """A pidfd of the process; None if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Looked at after the pidfd was opened: from here on it can't be anybody else.
    if find(process.pid) == process:
        return handle
    os.close(handle)
    return None


def _send(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass  # It has ended in between, which is what is wanted.


def _wait(handles: list[int], wait_s: float) -> list[int]:
    """Those that are still alive after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    left = set(handles)
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    while left and (rest_s := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(rest_s * 1000):
            left.discard(handle)
            poll.unregister(handle)
    return [handle for handle in handles if handle in left]
