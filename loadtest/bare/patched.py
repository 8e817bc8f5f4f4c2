"""A copy of the product with one guard taken out: an experiment that doesn't convict it proves nothing.

There is no switch in the product. The copy lives in a folder of its own, hosts are started from there, and a patch
whose place isn't found exactly once is an error, so that a control can't become a copy of the real thing unnoticed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.stack import ROOT

PARTS: Final = ("actors", "router", "deploy", "loadtest")


@dataclass(frozen=True, slots=True)
class Patch:
    """``old`` stands once in ``file`` and becomes ``new``."""

    file: str
    old: str
    new: str


GUARDS: Final = {
    # The store takes a write under any epoch and token.
    "fence": Patch(
        "actors/stores/lua/fence.lua",
        "if epoch == lease.epoch and token == lease.token and lease.incarnation ~= '' then",
        "if true then",
    ),
    # A host that thaws speaks without asking the store whether it still may.
    "silence": Patch(
        "actors/standing.py",
        "return placement.trusted() and placement.lapses == self._lapses",
        "return placement.lapses >= 0",
    ),
    # A turn is answered as done whatever the store said of its commit.
    "acceptance": Patch(
        "actors/turn.py",
        "            case _:\n                return self._instead(request, answer)",
        "            case _:\n                return self._committed(turn, state)",
    ),
    # A host hands on what another host's ring has just brought it.
    "calm": Patch(
        "actors/host.py",
        "activation.named_by >= self.placement.ring_version",
        "activation.named_by > self.placement.ring_version",
    ),
}


class NotPatched(Exception):
    """The guard isn't where it was: the control must follow the product."""


def without(guard: str, folder: Path) -> Path:
    """A copy of the product in ``folder`` that lacks that guard. NotPatched if it can't be found."""
    return changed(GUARDS[guard], folder)


def changed(patch: Patch, folder: Path) -> Path:
    """A copy of the product in ``folder`` with that patch. NotPatched if its place can't be found."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / patch.file
    text = path.read_text(encoding="utf-8")
    if text.count(patch.old) != 1:
        raise NotPatched(f"{patch.file} has this {text.count(patch.old)} times: {patch.old}")
    path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
    return folder
