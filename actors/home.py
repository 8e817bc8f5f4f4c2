"""What an activation needs from its host. Structural, so that neither module imports the other.

Nothing here awaits: an activation may call it between a look and a change (I5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

from actors.agent import Agent
from actors.claims import Claims
from actors.lifecycle import Reason
from actors.model import HostRef, SessionKey
from actors.ports import Peers, Placement
from actors.settings import Settings
from actors.stores.base import SessionStore

if TYPE_CHECKING:
    from actors.session import Activation
    from actors.ticket import Ticket


class Home(Protocol):
    """The host, as its activations see it."""

    ref: HostRef
    store: SessionStore
    agent: Agent
    window: int | None
    """See ``agent.window_of``."""
    placement: Placement
    peers: Peers
    settings: Settings
    claims: Claims
    threads: Executor | None
    resized: Callable[[int], None]
    """An activation has grown by so many bytes: others may have to leave."""

    def new_token(self) -> str: ...

    def now_ms(self) -> int: ...

    def forget(self, activation: Activation, reason: Reason) -> None:
        """Out of the map, now."""
        ...

    def again(self, key: SessionKey, tickets: Sequence[Ticket]) -> None:
        """A new activation takes these tickets over, in this order, before any other."""
        ...

    def must_move(self, key: SessionKey) -> HostRef | None:
        """The other host that the ring names as the owner, if it does and that host isn't dead."""
        ...

    def regressed(self, key: SessionKey, mine: int, stored: int, told: bool) -> None:
        """Logged, counted, and told to the next client if none is ``told`` now."""
        ...

    def deleted(self, key: SessionKey) -> None:
        """Nothing in memory of this session is answered from any more."""
        ...

    def let_go(self, activation: Activation) -> None:
        """The activation has become idle; the host releases it if its owner is another, or the host is leaving."""
        ...

    def handing_off(self, key: SessionKey, owner: HostRef) -> None:
        """From now on arrivals for this session go to ``owner``, which waits for the lease that is being released."""
        ...

    def handed_off(self, key: SessionKey) -> None:
        """The release has ended, one way or the other."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in a task that the host keeps, and waits for when it drains."""
        ...
