"""Whether this host may still speak for a session: its lease, and what is known of it.

Writing needs none of this: the store fences every commit. It is for what a host says without writing: deltas, and
answers about turns that it did not commit. A host that was frozen, or cut off, may have been replaced meanwhile (I8).
"""

from __future__ import annotations

import asyncio

from actors.errors import StoreUnavailable
from actors.home import Home
from actors.model import SessionKey
from actors.patience import until_known
from actors.stores.base import CheckAnswer, Granted, Ok


class Standing:
    """One lease and this host's right to speak under it. ``lapses``: the placement's count when it was claimed."""

    __slots__ = ("_home", "_key", "_lapses", "_silenced", "lease", "suspects", "takeovers")

    def __init__(self, home: Home, key: SessionKey, grant: Granted, lapses: int) -> None:
        self._home = home
        self._key = key
        self.lease = grant.lease
        self.takeovers = grant.takeovers
        """How many holders in a row have stopped, up to this one; none as soon as a turn is committed."""
        self.suspects = grant.suspects
        self._lapses = lapses
        self._silenced = False

    @property
    def entitled(self) -> bool:
        """Whether this host may speak without asking the store first: its beats have never lapsed since it asked."""
        placement = self._home.placement
        return placement.trusted() and placement.lapses == self._lapses

    async def confirm(self, turn_seq: int, last_turn_id: str, running: str = "", refused: str = "") -> CheckAnswer:
        """Ask the store whether the lease stands, after this host's own beats are accepted again. ``running`` and
        ``refused`` as in the store's ``check``.

        The order matters: an Ok that is asked for after the beats were accepted again holds for ``beat_ttl_s``, since
        nobody calls a host dead whose beat is younger than that. StoreUnavailable if it stays unknown.
        """
        home = self._home
        patience_s = home.settings.session.commit_patience_s
        try:
            async with asyncio.timeout(patience_s):
                await home.placement.wait_trusted()
        except TimeoutError:
            raise StoreUnavailable("This host's beats are not accepted.") from None
        lapses = home.placement.lapses
        answer = await until_known(
            lambda: home.store.check(self._key, self.lease, turn_seq, last_turn_id, running, refused), patience_s
        )
        if isinstance(answer, Ok):
            self._lapses = lapses
        return answer

    async def may_speak(self, turn_seq: int, last_turn_id: str) -> bool:
        """Whether deltas may go out: at once if entitled, else after :meth:`confirm`. A no lasts: the session's task
        finds out by itself, at its commit, and stays silent until then."""
        if self.entitled:
            return True
        if self._silenced:
            return False
        try:
            self._silenced = not isinstance(await self.confirm(turn_seq, last_turn_id), Ok)
        except StoreUnavailable:
            return False
        return not self._silenced


async def read_disconnects() -> None:
    """A host that thaws has news of disconnects in its sockets: let the loop read them before deciding who waits."""
    for _ in range(3):
        await asyncio.sleep(0)
