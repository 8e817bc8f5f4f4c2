"""What lives of a stack, and which stacks live: told from processes, with the stacks' folders as the list of suspects.

Standard library only: ``deploy/down`` works without the virtual environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy import processes
from deploy.folder import ROOT, STATE, Folder
from deploy.processes import Process


@dataclass(frozen=True, slots=True)
class Running:
    """A stack of which something lives. ``pid`` is its supervisor's, 0 if that was killed; ``phase`` "" if unknown."""

    port: int
    pid: int
    phase: str
    data_dir: str
    """As ``deploy/down`` must be told it; "" if it is the port's own."""

    def down(self) -> str:
        """The command that ends it."""
        port = "" if self.port == 8000 else f" --port {self.port}"
        return f"deploy/down{port}" + (f" --data-dir {self.data_dir}" if self.data_dir else "")


def supervisor(folder: Folder) -> Process | None:
    """The process that keeps this folder's stack, if it lives."""
    state = folder.state()
    found = processes.find(int(state.get("pid", 0))) if state else None
    return found if found is not None and found.started == state.get("started") else None


def remains(folder: Folder) -> set[Process]:
    """All that lives of the stack but its supervisor: what carries its mark, what descends from that, and the session
    in which its cluster ran: Ray's agents wipe out their mark, and their parents may be gone."""
    found = processes.marked(folder.mark)
    state = folder.state()
    if (session := state.get("session")) and state.get("boot") == processes.boot():
        found |= processes.in_session(Process(int(session["pid"]), int(session["started"])), ROOT)
    keeper = supervisor(folder)
    return found - {keeper} if keeper is not None else found


def running() -> list[Running]:
    """Every stack of this user of which something lives, by port."""
    folders = {str(state.parent) for state in (ROOT / ".data").glob(f"*/{STATE}")} | processes.marks()
    found = [stack for path in folders if (stack := _running(path)) is not None]
    return sorted(found, key=lambda stack: stack.port)


def _running(path: str) -> Running | None:
    state = Folder(0, path).state()
    port = int(state.get("port", 0))
    if not port:
        return None
    folder = Folder(port, path)
    keeper = supervisor(folder)
    if keeper is None and not remains(folder):
        return None
    own = Path(path) == Folder(port).path
    return Running(port, keeper.pid if keeper else 0, str(state.get("phase", "")), "" if own else path)
