"""What the HTTP surface needs from the process around it. Structural: a replica, or a test's own small host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from actors.agent import Agent
from actors.model import HostRef, SessionKey, Table, TurnRequest
from actors.ports import Requester
from actors.settings import Settings
from actors.stores.base import Turns
from actors.stores.guard import Guard


class ChatHost(Protocol):
    """The host core, as ``actors.host.Host`` is one."""

    @property
    def ref(self) -> HostRef: ...

    @property
    def agent(self) -> Agent: ...

    @property
    def threads(self) -> Executor | None:
        """For agents that are plain functions."""
        ...

    @property
    def now_ms(self) -> Callable[[], int]:
        """The wall clock, milliseconds since 1970."""
        ...

    async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None: ...

    async def accept_batch(self, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool: ...

    async def delete(self, key: SessionKey, turn_id: str) -> None: ...

    def deleted(self, key: SessionKey) -> None: ...

    async def open(self, key: SessionKey) -> tuple[Turns, bool]: ...

    async def read(self, key: SessionKey, after: int, limit: int) -> Turns: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in a task that the host keeps, and waits for when it drains."""
        ...

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

    @property
    def guard(self) -> Guard | None:
        """The replay guard of sealed conversations, if there is one."""
        ...

    async def not_ready(self) -> Sequence[str]:
        """Why this host can't run turns now, one sentence each; empty if it can. Bounded by the store's time-out."""
        ...
