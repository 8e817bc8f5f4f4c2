"""Rehydra without its fence: a copy of a checkout whose script lets every epoch and every token write.

Nothing else is taken away: hosts still claim leases and pass requests on, turn ids are still known, and a turn must
still follow the last one. There is no switch for this in Rehydra; the copy is patched and thrown away.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FENCE = "actors/stores/lua/fence.lua"
CHECK = "if epoch == lease.epoch and token == lease.token and lease.incarnation ~= '' then"
NO_CHECK = "if true then"
NEEDED = ("actors", "router", "deploy", "loadtest")


class NotPatched(Exception):
    """The check isn't where it was."""


@contextmanager
def unfenced(checkout: Path) -> Iterator[Path]:
    """The patched copy, for as long as the block runs. NotPatched if the script doesn't say what it should."""
    script = (checkout / FENCE).read_text(encoding="utf-8")
    if script.count(CHECK) != 1:
        raise NotPatched(f"{FENCE} should have one line {CHECK!r}")
    with tempfile.TemporaryDirectory(prefix="rehydra-unfenced-") as folder:
        copy = Path(folder)
        for name in NEEDED:
            shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / ".venv").symlink_to((checkout / ".venv").resolve())
        (copy / FENCE).write_text(script.replace(CHECK, NO_CHECK), encoding="utf-8")
        yield copy
