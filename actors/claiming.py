"""Getting the lease of a session: claim, wait, or take over from a holder that is surely dead.

A live holder is never robbed (I7): whoever can't have the lease learns who holds it, and passes its requests on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from actors.errors import StoreUnavailable
from actors.home import Home
from actors.model import HostRef, SessionKey
from actors.patience import until_known
from actors.stores.base import Deleted, Granted, Held

PAUSE_FIRST_S: Final = 0.005
PAUSE_MAX_S: Final = 0.1


async def claim(home: Home, key: SessionKey, wait_until: Callable[[], float]) -> tuple[Granted, int] | Held | Deleted:
    """The grant with the placement's count of lapses before it; or who holds the session and is alive.

    ``wait_until`` (the loop's time; it may grow meanwhile): until then a live holder is waited for, because it hands
    the session over to this host and will release the lease. StoreUnavailable after ``claim_patience_s`` without an
    answer: the claim may have been applied.
    """
    patience_s = home.settings.session.claim_patience_s
    clock = asyncio.get_running_loop().time
    token, over, pause_s = home.new_token(), None, PAUSE_FIRST_S
    while True:
        # Whoever holds a lease has beaten before it claimed: a host that nobody has heard of seems to be gone, and is
        # robbed of what it claims.
        await _wait_trusted(home, patience_s)
        lapses, asked = home.placement.lapses, clock()
        async with home.claims:
            answer = await until_known(
                lambda: home.store.claim(key, token, home.ref, over, home.window),  # noqa: B023
                patience_s,
            )
        if isinstance(answer, Granted):
            return answer, lapses
        if isinstance(answer, Deleted):
            return answer
        if home.placement.is_dead(answer.holder) and await _surely_dead(home, answer.holder, patience_s):
            over = (answer.holder.incarnation, answer.epoch)
        elif asked < wait_until():
            # It hadn't released then: it does so as soon as it knows that we have its batch. Its requests must not
            # overtake the batch, so nothing is passed on to it. Compared with when we asked: this loop may have stalled
            # since, and only an answer to a later question tells that the holder keeps the session.
            over = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        else:
            return answer


async def _surely_dead(home: Home, holder: HostRef, patience_s: float) -> bool:
    """StoreUnavailable if no beat brings news of it for that long."""
    try:
        async with asyncio.timeout(patience_s):
            return await home.placement.surely_dead(holder)
    except TimeoutError:
        raise StoreUnavailable("This host's beats are not answered.") from None


async def _wait_trusted(home: Home, patience_s: float) -> None:
    """Until this host's own beats are accepted; StoreUnavailable if that takes too long."""
    if home.placement.trusted():
        return
    try:
        async with asyncio.timeout(patience_s):
            await home.placement.wait_trusted()
    except TimeoutError:
        raise StoreUnavailable("This host's beats are not accepted.") from None
