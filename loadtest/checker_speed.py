"""How fast the checker is, and how much memory it takes: a made-up legal history of a million operations.

    python -m loadtest.checker_speed [--operations 1000000] [--sessions 10000] [--seed 1]

Writes the history into a temporary file first, which isn't timed; then times ``python -m loadtest.checker`` on it, a
process of its own, as anybody would run it. Exit code 1 if it accuses somebody, or takes longer than ``--within-s``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loadtest.legal import LegalHistory

OPERATIONS_PER_STEP = 0.28
"""How many of a legal history's steps begin an operation."""
READS = 0.1
"""Of a session, against 10 messages: each has the whole log in it."""


def write(path: Path, operations: int, sessions: int, seed: int) -> int:
    """A legal history with about so many operations. How many there are."""
    steps = round(operations / sessions / OPERATIONS_PER_STEP)
    begun = 0
    with path.open("w", encoding="utf-8") as file:
        for line in LegalHistory(seed, sessions=sessions, steps=steps, reads=READS).lines():
            begun += line["is"] == "invoke"
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return begun


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the checker of histories.")
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within-s", type=float, default=60.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rehydra-checker-") as folder:
        path = Path(folder) / "history.jsonl"
        operations = write(path, arguments.operations, arguments.sessions, arguments.seed)
        began = time.monotonic()
        checker = subprocess.Popen(
            [sys.executable, "-m", "loadtest.checker", str(path)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert checker.stdout is not None
        verdict = json.loads(checker.stdout.read())
        _, status, used = os.wait4(checker.pid, 0)
        took_s = time.monotonic() - began
        size_mb = path.stat().st_size / 1e6
    found = {
        "operations": operations,
        "took_s": round(took_s, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "memory_mb": round(used.ru_maxrss / 1024),
        "history_mb": round(size_mb),
        "legal": verdict["legal"],
        "counted": verdict["counted"],
        "seed": arguments.seed,
    }
    print(json.dumps(found, indent=1))
    return 0 if status == 0 and verdict["legal"] and took_s <= arguments.within_s else 1


if __name__ == "__main__":
    sys.exit(main())
