"""What leaves with a session: its waiting turns, to the next holder, and its lease, back to the store.

Both are optional (I9): a batch that is lost costs order at worst, never a turn, and a lease that isn't given back is
taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from actors.errors import StoreUnavailable
from actors.home import Home
from actors.model import HostRef, Lease, SessionKey
from actors.patience import until_known
from actors.stores.base import Regressed
from actors.ticket import Ticket
from actors.transcript import Transcript

log = logging.getLogger("rehydra.session")


async def give(
    home: Home, key: SessionKey, to: HostRef, tickets: Sequence[Ticket], under: int, named_by: int = -1
) -> bool:
    """Hand the waiting turns over as one ordered batch, for the epoch ``under``. True: ``to`` has them. False: it may
    have them or not. ``named_by``: the ring_version that names it as the owner; -1 if a lease does."""
    if not tickets:
        return True
    for ticket in tickets:
        ticket.shared = True
    try:
        batch = [replace(ticket.request, named_by=named_by) for ticket in tickets]
        return await home.peers.hand_off(to, key, batch, under)
    except Exception:
        # The tickets must still get their end.
        log.exception("hand-off failed", extra={"session": str(key), "to": to.address})
        return False


async def release(home: Home, key: SessionKey, lease: Lease, transcript: Transcript) -> None:
    """Give the lease back; a regression that shows is reported, anything else that goes wrong is only logged."""
    try:
        answer = await until_known(
            lambda: home.store.release(key, lease, transcript.turn_seq, transcript.last_turn_id),
            home.settings.session.commit_patience_s,
        )
    except StoreUnavailable:
        # The lease stays this host's: its next claim, or a takeover, ends it.
        log.warning("release unknown", extra={"session": str(key)})
        return
    if isinstance(answer, Regressed):
        home.regressed(key, transcript.turn_seq, answer.turn_seq, told=False)
