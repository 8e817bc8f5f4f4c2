"""What a planted bug is: a text of the shipped code, and what stands there instead.

An edit is a text that must stand in its file exactly once: a patch that has gone stale fails loudly. ``server``: the
change is to a script, so it is tried on a real server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SESSION: Final = "actors/session.py"
HOST: Final = "actors/host.py"
TURN: Final = "actors/turn.py"
CLAIMING: Final = "actors/claiming.py"
FOLLOWING: Final = "actors/following.py"
TICKET: Final = "actors/ticket.py"
RESIDENTS: Final = "actors/residents.py"
STANDING: Final = "actors/standing.py"
PACKED: Final = "actors/packed.py"
TRANSCRIPT: Final = "actors/transcript.py"
MEMORY: Final = "actors/stores/memory.py"
FENCE: Final = "actors/stores/lua/fence.lua"
CLAIM: Final = "actors/stores/lua/claim.lua"
COMMIT: Final = "actors/stores/lua/commit.lua"
RELEASE: Final = "actors/stores/lua/release.lua"
DELETE: Final = "actors/stores/lua/delete.lua"
CHECK: Final = "actors/stores/lua/check.lua"
MEMBERS: Final = "actors/stores/lua/members.lua"
JOIN: Final = "actors/stores/lua/join.lua"
BEAT: Final = "actors/stores/lua/beat.lua"
LEAVE: Final = "actors/stores/lua/leave.lua"
EVICT: Final = "actors/stores/lua/evict.lua"


class Stale(Exception):
    """An edit no longer fits the code."""


@dataclass(frozen=True)
class Mutant:
    """One bug. ``edits``: (file, text as it is, text as it becomes)."""

    name: str
    edits: tuple[tuple[str, str, str], ...]
    server: bool = False

    def plant(self, root: Path) -> None:
        """Change the copy at ``root``. Stale if an edit doesn't fit exactly once; nothing is half changed then."""
        changed: dict[Path, str] = {}
        for file, before, after in self.edits:
            path = root / file
            text = changed.get(path, path.read_text("utf-8"))
            if text.count(before) != 1:
                raise Stale(f"{self.name}: the text to replace stands {text.count(before)} times in {file}:\n{before}")
            changed[path] = text.replace(before, after)
        for path, text in changed.items():
            path.write_text(text, "utf-8")


def one(name: str, file: str, before: str, after: str) -> Mutant:
    """A bug of one edit."""
    return Mutant(name, ((file, before, after),), server=file.endswith(".lua"))
