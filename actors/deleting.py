"""Deleting a session, through whichever host is asked: ``DELETE /sessions/{id}``.

The store decides: from its answer on nothing is committed. What is left is memory, the holder's: it is told, so that it
no longer replays turns that are gone. The next repeat of the deletion tells it again if this host dies in between.
"""

from __future__ import annotations

import logging

from actors.errors import SessionUnknown
from actors.home import Home
from actors.model import SessionKey
from actors.patience import until_known
from actors.stores.base import Missing

log = logging.getLogger("rehydra.host")


async def delete(home: Home, key: SessionKey, turn_id: str) -> None:
    """SessionUnknown, or StoreUnavailable if it stays unknown.

    A holder that can't be told commits nothing any more; but it may replay what it remembers, until it passivates.
    """
    answer = await until_known(lambda: home.store.delete(key, turn_id), home.settings.session.commit_patience_s)
    if isinstance(answer, Missing):
        raise SessionUnknown(f"Session {key.session_id!r} was never made, or has expired.")
    home.deleted(key)
    holder = answer.holder
    if holder is None or holder.incarnation == home.ref.incarnation or home.placement.is_dead(holder):
        return
    if not await home.peers.tell_deleted(holder, key):
        log.warning("the holder wasn't told of a deletion", extra={"session": str(key), "to": holder.address})
