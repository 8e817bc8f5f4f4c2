"""What hangs on a host that can't answer any more is ended, so that HAProxy repeats it on another: on one that is
frozen, or cut off. (What ran on a host that was killed has ended by itself.)

A frozen host's server is down. HAProxy would end what hangs there by itself, at the very moment at which a check finds
it down (``on-marked-down shutdown-sessions``), and then also ends requests that it is just connecting to that server:
those it doesn't repeat, it closes their clients' connections without a word. So here this is done as much later as a
connection may take to be made: nothing new goes to a server that is down, so what is left by then has been sent, and is
repeated.

A host that reaches its clients but not the store is up, and nothing that it runs can be committed. Nobody but the
others can say that it is alone in that: they have taken it for dead, and the table is without it. So a server that has
left the table is asked, by an edge that reads the table itself just now; a host that leaves as it should is heard, and
ends what it has. While the store is away for everybody, nobody is heard, and nothing is ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from actors.model import UNHEARD
from router.edge.admin import Admin, Admission, ServerState
from router.edge.config import ANY_HOST, BACKEND

log = logging.getLogger(__name__)

TURN_AROUNDS: Final = 3
"""Where HAProxy doesn't balance by turns (``ANY_HOST``), it repeats a request that couldn't be connected only after a
pause as long as it tries to connect, and counts it as that server's until then."""
ASK_S: Final = 0.25
"""How long a host may take to say whether it is heard."""
_ANSWER_BYTES_MAX: Final = 1_024
_QUESTION: Final = b"GET /healthz HTTP/1.1\r\nhost: rehydra\r\nconnection: close\r\n\r\n"


async def is_unheard(state: ServerState) -> bool:
    """Whether the host there says so. One that doesn't answer isn't known to be."""
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(state.address, state.check_port, limit=_ANSWER_BYTES_MAX)
            try:
                writer.write(_QUESTION)
                answer = b""
                while len(answer) < _ANSWER_BYTES_MAX and (piece := await reader.read(_ANSWER_BYTES_MAX)):
                    answer += piece
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        log.debug("%s can't be asked whether it is heard: %r", state.slot, error)
        return False
    return answer.endswith(UNHEARD.encode())


class Hung:
    """Since when each server can't answer. Its caller holds the lock under which HAProxy is changed. ``connect_s``: the
    longest that HAProxy tries to connect to a server, seconds. ``reads``: whether the edge has read the table just now,
    that is, later than any host can have found itself unheard if the store is away."""

    def __init__(
        self,
        admin: Admin,
        connect_s: float,
        reads: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        is_unheard: Callable[[ServerState], Awaitable[bool]] = is_unheard,
    ) -> None:
        self._admin = admin
        self._connect_s = connect_s
        self._reads = reads
        self._now = now
        self._is_unheard = is_unheard
        self._since: dict[str, float] = {}
        """slot -> when it was seen to be so first."""
        self._ended: dict[str, int] = {}
        """slot -> in how many of ``_waits`` what hung there was ended."""
        self._waits = ((connect_s, BACKEND), (TURN_AROUNDS * connect_s, ANY_HOST))

    async def note(self, states: Mapping[str, ServerState]) -> None:
        """End what hangs on servers that can't have answered for long enough by now. EdgeFailed."""
        drained = [state for state in states.values() if state.admission is Admission.DRAIN and state.up]
        left = drained if self._reads() else []
        unheard = await asyncio.gather(*map(self._is_unheard, left))
        cut_off = {state.slot for state, each in zip(left, unheard, strict=True) if each}
        now = self._now()
        for slot, state in states.items():
            rests = state.admission is Admission.MAINT and self._is_done(slot)
            if (state.up and slot not in cut_off) or rests:
                self._forget(slot)
            else:
                await self._end(slot, now - self._since.setdefault(slot, now))

    async def leave(self, state: ServerState) -> None:
        """Before the server gets another host, or none: what hangs there is its predecessor's. EdgeFailed."""
        slot = state.slot
        unknown = state.admission is not Admission.MAINT and state.up and slot not in self._since
        if unknown and self._reads() and await self._is_unheard(state):
            self._since[slot] = self._now()
        if not self._is_done(slot):
            longest_s, _ = self._waits[-1]
            await asyncio.sleep(max(0.0, self._since[slot] + longest_s - self._now()))
            await self._end(slot, longest_s)
        self._forget(slot)

    def _is_done(self, slot: str) -> bool:
        return slot not in self._since or self._ended.get(slot, 0) == len(self._waits)

    def _forget(self, slot: str) -> None:
        self._since.pop(slot, None)
        self._ended.pop(slot, None)

    async def _end(self, slot: str, down_s: float) -> None:
        """Wherever the server has been down for long enough, and it wasn't done yet."""
        for wait_s, backend in self._waits[self._ended.get(slot, 0) :]:
            if down_s < wait_s:
                return
            # A host that thaws between HAProxy's account of it and this loses the requests of those milliseconds to
            # another; of those just being connected, HAProxy closes the clients' connections. It can't be told to
            # do both in one step.
            await self._admin.end_requests(slot, backend)
            self._ended[slot] = self._ended.get(slot, 0) + 1
            log.info("what hung there was ended", extra={"slot": slot, "backend": backend})
