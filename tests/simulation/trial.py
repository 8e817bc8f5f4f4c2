"""Tries a planted bug: on a copy of the packages, in a process of its own, until the first seed that notices.

The working tree is never touched, so what is planted needs no taking back.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.simulation.mutant import Mutant

ROOT: Final = Path(__file__).parent.parent.parent
COPIED: Final = ("actors", "router", "tests/__init__.py", "tests/servers.py", "tests/simulation")
NO_CACHES: Final = shutil.ignore_patterns("__pycache__", "*.pyc")
_SUMMARY: Final = re.compile(r"^(\d+) seeds of (.+), (\d+) failed, ([\d.]+) s$", re.MULTILINE)
_CAUGHT: Final = re.compile(r"^seed (\d+): .*\n  (\S+) at event \d+: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """``seeds``: how many there were up to the last that was run. ``seed``: the one that noticed, None if none did.
    ``by``: the invariant that it found broken."""

    mutant: str
    seeds: int
    seed: int | None
    by: str
    words: str
    took_s: float

    def row(self) -> str:
        """One line of the table."""
        by = self.by if self.seed is not None else "-"
        after = str(self.seeds) if self.seed is not None else f"not within {self.seeds}"
        return f"| {self.mutant} | {after} | {by} | {self.words[:100]} |"


def copy_to(folder: Path) -> None:
    """What the simulation needs, nothing else."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=NO_CACHES)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def attempt(
    mutant: Mutant | None, seeds: int, server: str = "", *, first: int = 0, timeout_s: float = 600.0
) -> Outcome:
    """Run up to ``seeds`` seeds from ``first`` on with the bug planted; without one if ``mutant`` is None. Stale if it
    doesn't fit."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name).resolve()
        copy_to(folder)
        if mutant is not None:
            mutant.plant(folder)
        command = [sys.executable, "-m", "tests.simulation.runner", "--first", str(first), "--seeds", str(seeds)]
        command += ["--failures", "1"]
        if server:
            command += ["--server", server]
        done = subprocess.run(
            command, cwd=folder, env={"PYTHONPATH": str(folder), "PATH": ""}, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        summary = _SUMMARY.search(done.stdout)
        if summary is None:
            raise AssertionError(f"the run broke with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        assert Path(summary[2]).resolve() == folder, f"ran the code of {summary[2]}, not the copy"
        caught = _CAUGHT.search(done.stdout)
        return Outcome(
            mutant.name if mutant is not None else "(nothing planted)",
            first + int(summary[1]),
            int(caught[1]) if caught is not None else None,
            caught[2] if caught is not None else "",
            caught[3] if caught is not None else "",
            float(summary[4]),
        )
