"""Asking the store again while its answer is unknown.

Every store call may be repeated: its answer to a repeat means the same (``stores.base``). So "unknown" is a state to
wait in, not a result: the same call is made again, with growing pauses, until it is answered or patience ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors.errors import Outcome, StoreFull, StoreUnavailable

T = TypeVar("T")

PAUSE_FIRST_S = 0.01
PAUSE_MAX_S = 0.5


async def until_known(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """The call's answer. StoreUnavailable when ``patience_s`` is over: whether it was applied is unknown.

    A try that fails is the last one if it began when patience was over, however late its failure is noticed: a loop
    that stalled for as long would else give up after a single try, with the answer in its socket.

    StoreFull is raised at once, as not done, only if no earlier try of the same call may have been applied.
    """
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + patience_s
    pause_s = PAUSE_FIRST_S
    doubtful = False
    while True:
        began = clock()
        try:
            return await call()
        except StoreFull as error:
            if not doubtful:
                raise
            if began + pause_s > give_up_at:
                raise StoreUnavailable(error.detail, outcome=Outcome.UNKNOWN) from error
        except StoreUnavailable:
            doubtful = True
            if began + pause_s > give_up_at:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, PAUSE_MAX_S)
