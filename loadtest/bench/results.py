"""``results.jsonl``: one line for the run, then one for each round of each measurement, appended as they come.

A broken-off run goes on where it was: what has a figure is not measured again. Figures of another commit or another
plan don't belong in the same table, so such a file is refused. The last line may be torn by a kill; it counts for
nothing, and is cut off before the next is written.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.stack import ROOT


class AnotherRun(Exception):
    """The file has results that don't belong to this run."""


@dataclass(frozen=True, slots=True)
class Row:
    """One round of one measurement. Without ``figures`` there is a reason, ``why``."""

    name: str
    round: int
    figures: dict[str, Any] = field(default_factory=dict)
    why: str = ""


class Results:
    """The rows of one run, in memory and in the file."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        """AnotherRun if the file is there and is of another commit, plan or number of rounds."""
        self._path = path
        self.run = run
        self.rows: list[Row] = []
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(run)

    def has(self, name: str, number: int) -> bool:
        """Whether that round has a figure."""
        return any(row.name == name and row.round == number and row.figures for row in self.rows)

    def tried(self, name: str, number: int) -> bool:
        """Whether that round has a figure, or a reason for having none."""
        return any(row.name == name and row.round == number for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep it, on the disk as well."""
        self.rows.append(row)
        self._append({"name": row.name, "round": row.round, "figures": row.figures, "why": row.why})

    def unmeasured(self) -> dict[str, str]:
        """Measurement -> reason, of those that have no figure at all, or lack one at last try."""
        last = {(row.name, row.round): row for row in self.rows}
        return {row.name: row.why for row in last.values() if row.why}

    def of(self, name: str) -> list[dict[str, Any]]:
        """The figures of all rounds."""
        return [row.figures for row in self.rows if row.name == name and row.figures]

    def names(self) -> Iterable[str]:
        """Of measurements that have figures, in their order."""
        return dict.fromkeys(row.name for row in self.rows if row.figures)

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(self._path, len(whole.encode()))
        head, *lines = [json.loads(line) for line in whole.splitlines()] or [{}]
        differs = {name for name in ("commit", "quick") if head.get(name) != self.run[name]}
        if differs:
            raise AnotherRun(f"{self._path} is of {head}; choose another folder, or --anew")
        self.rows = [Row(**line) for line in lines]

    def _append(self, document: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")


def this_run(quick: bool, command: str) -> dict[str, Any]:
    """Commit, machine and command."""
    return {"commit": commit(), "quick": quick, "machine": machine(), "command": command}


def commit() -> str:
    """Of the working tree; with ``+`` if something in it isn't committed."""
    told = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    ended = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, number of CPUs, kernel."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
