"""Making a session that has no turn yet: ``POST /sessions``.

It is claimed and released, once, by whichever host is asked. If a chat begins in it at the same moment, here or
elsewhere, the store decides as it does between any two claims: whoever is fenced claims again.
"""

from __future__ import annotations

from actors.claiming import claim
from actors.errors import SessionDeleted
from actors.home import Home
from actors.model import SessionKey
from actors.patience import until_known
from actors.stores.base import Deleted, Held, Missing, Turns


async def opened(home: Home, key: SessionKey) -> tuple[Turns, bool]:
    """Its first turn, if it has one, and how many; and whether it is new. SessionDeleted, StoreUnavailable."""
    if (there := await _found(home, key)) is not None:
        return there, False
    answer = await claim(home, key, lambda: 0.0)
    if isinstance(answer, Deleted):
        raise SessionDeleted
    if isinstance(answer, Held):
        return await _found(home, key) or Turns((), 0), False
    grant, _ = answer
    turn_seq, last = grant.checkpoint.turn_seq, grant.checkpoint.last_turn_id
    patience_s = home.settings.session.commit_patience_s
    await until_known(lambda: home.store.release(key, grant.lease, turn_seq, last), patience_s)
    if turn_seq:
        # Somebody has talked in it since the first look, and may have given it back.
        return await _found(home, key) or Turns((), 0), False
    return Turns((), 0), True


async def _found(home: Home, key: SessionKey) -> Turns | None:
    answer = await home.store.read(key, 0, 1)
    if isinstance(answer, Deleted):
        raise SessionDeleted
    return None if isinstance(answer, Missing) else answer
