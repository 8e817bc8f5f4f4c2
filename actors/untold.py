"""Losses of the store that no client has been told of yet: each is told once, to the next one that asks (409).

Found when no client waits: at a release. In memory only, and bounded: a host that ends forgets them; the log has every
one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from actors.errors import StateRegressed
from actors.model import SessionKey

UNTOLD_MAX: Final = 1024
"""Sessions; beyond it the oldest is forgotten."""


class Untold:
    """Sessions whose client is still to be told that confirmed turns are gone."""

    __slots__ = ("_lost",)

    def __init__(self) -> None:
        self._lost: OrderedDict[SessionKey, tuple[int, int]] = OrderedDict()

    def note(self, key: SessionKey, mine: int, stored: int) -> None:
        """``mine`` turns were confirmed, ``stored`` are left."""
        self._lost[key] = (mine, stored)
        while len(self._lost) > UNTOLD_MAX:
            self._lost.popitem(last=False)

    def take(self, key: SessionKey) -> StateRegressed | None:
        """What this session's client must be told, once."""
        lost = self._lost.pop(key, None)
        return None if lost is None else StateRegressed.of(*lost)
