"""Takes the end off a Redis server's append-only file, as a crash under ``appendfsync everysec`` may.

The file is Redis' own (documentation: "Redis persistence", multi-part AOF): a manifest names the part that grows, which
is a row of commands in RESP; what one script wrote stands between MULTI and EXEC. The cut falls behind a whole command,
and never into such a row, so that the server finds nothing to repair: as if the disk had stopped at that moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TURN = b"RPUSH"
"""What only the commit of a turn writes (``redis_counts``)."""


class NotCut(Exception):
    """The file isn't what was looked at before, or isn't an append-only file at all."""


@dataclass(frozen=True, slots=True)
class Position:
    """How long the growing part was at some moment."""

    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What was lost."""

    file: str
    lost_bytes: int
    turns: int


@dataclass(frozen=True, slots=True)
class Step:
    """One command, or one whole MULTI ... EXEC: where it ends in the file, and how many turns it commits."""

    end: int
    turns: int


def size(folder: Path) -> Position:
    """How much has been written until now. NotCut if there is no manifest that names a growing part."""
    for manifest in folder.glob("*.manifest"):
        for line in reversed(manifest.read_text().splitlines()):
            words = line.split()
            if words[-2:] == ["type", "i"]:
                path = folder / words[1]
                return Position(path, path.stat().st_size)
    raise NotCut(f"{folder} has no append-only file that grows")


def cut_tail(folder: Path, kept: Position) -> Cut:
    """Cut off what was written after ``kept``, while the server is down. NotCut if another part has begun since."""
    now = size(folder)
    if now.path != kept.path:
        raise NotCut(f"{kept.path.name} was replaced by {now.path.name}")
    data = now.path.read_bytes()
    end, turns = 0, 0
    for step in steps(data):
        if step.end <= kept.size_bytes:
            end = step.end
        else:
            turns += step.turns
    with now.path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
    return Cut(now.path.name, len(data) - end, turns)


def steps(data: bytes) -> Iterator[Step]:
    """Everything that is whole, from the beginning. NotCut where the file can't be understood."""
    position, turns, together = 0, 0, False
    while (found := _command(data, position)) is not None:
        position, name = found
        turns += name == TURN
        together = (together or name == b"MULTI") and name != b"EXEC"
        if not together:
            yield Step(position, turns)
            turns = 0


def _command(data: bytes, start: int) -> tuple[int, bytes] | None:
    """Where the command that begins at ``start`` ends, and its name in capitals; None if it isn't whole."""
    if start < len(data) and data[start : start + 1] not in b"*#":
        raise NotCut(f"no command at byte {start}: {data[start : start + 20]!r}")
    if (end := data.find(b"\r\n", start)) < 0:
        return None
    if data[start : start + 1] == b"#":  # an annotation, such as a time
        return end + 2, b"#"
    name, position = b"", end + 2
    for word in range(int(data[start + 1 : end])):
        if (end := data.find(b"\r\n", position)) < 0:
            return None
        length, begin = int(data[position + 1 : end]), end + 2
        position = begin + length + 2
        if position > len(data):
            return None
        if word == 0:
            name = data[begin : begin + length].upper()
    return position, name
