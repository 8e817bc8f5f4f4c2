"""What hangs on a server that is down is ended, so that HAProxy repeats it on another: on a host that is frozen, or cut
off. (What ran on a host that was killed has ended by itself.)

HAProxy would do so by itself at the very moment at which a check finds the server down (``on-marked-down
shutdown-sessions``), and then also ends requests that it is just connecting to that server: those it doesn't repeat, it
closes their clients' connections without a word. So here this is done as much later as a connection may take to be
made: nothing new goes to a server that is down, so what is left by then has been sent, and is repeated.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping

from router.edge.admin import Admin, Admission, ServerState


class Hung:
    """Since when each server is down. Its caller holds the lock under which HAProxy is changed. ``connect_s``: the
    longest that HAProxy tries to connect to a server, seconds."""

    def __init__(self, admin: Admin, connect_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._admin = admin
        self._connect_s = connect_s
        self._now = now
        self._since: dict[str, float] = {}
        """slot -> when it was seen to be down first; infinity once what hung there was ended."""

    async def note(self, states: Mapping[str, ServerState]) -> None:
        """End what hangs on servers that have been down for long enough by now. EdgeFailed."""
        now = self._now()
        for slot, state in states.items():
            rests = state.admission is Admission.MAINT and self._since.get(slot, math.inf) == math.inf
            if state.up or rests:
                self._since.pop(slot, None)
            elif now - self._since.setdefault(slot, now) >= self._connect_s:
                # A host that thaws between HAProxy's account of it and this loses the requests of those milliseconds to
                # another; of those just being connected, HAProxy closes the clients' connections. It can't be told to
                # do both in one step.
                await self._admin.end_requests(slot)
                self._since[slot] = math.inf

    async def leave(self, slot: str) -> None:
        """Before the server gets another host, or none: what hangs there is its predecessor's. EdgeFailed."""
        if (since := self._since.get(slot, math.inf)) < math.inf:
            await asyncio.sleep(max(0.0, since + self._connect_s - self._now()))
            await self._admin.end_requests(slot)
        self._since.pop(slot, None)
