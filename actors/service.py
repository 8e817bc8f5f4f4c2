"""What the HTTP surface needs from the process around it. Structural: a replica, or a test's own small host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from actors.model import HostRef, SessionKey, Table, TurnRequest
from actors.ports import Requester
from actors.settings import Settings
from actors.stores.base import Turns


class ChatHost(Protocol):
    """The host core, as ``actors.host.Host`` is one."""

    @property
    def ref(self) -> HostRef: ...

    async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None: ...

    async def accept_batch(self, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool: ...

    async def delete(self, key: SessionKey, turn_id: str) -> None: ...

    def deleted(self, key: SessionKey) -> None: ...

    async def open(self, key: SessionKey) -> tuple[Turns, bool]: ...

    async def read(self, key: SessionKey, after: int, limit: int) -> Turns: ...

    def stats(self) -> dict[str, Any]: ...


class Service(Protocol):
    """One host with its surroundings."""

    @property
    def settings(self) -> Settings: ...

    @property
    def host(self) -> ChatHost: ...

    @property
    def table(self) -> Table:
        """The membership as this host sees it; ``ring_version`` 0 and no members before it has seen any."""
        ...

    async def not_ready(self) -> Sequence[str]:
        """Why this host can't run turns now, one sentence each; empty if it can. Bounded by the store's time-out."""
        ...
