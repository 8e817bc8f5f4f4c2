"""The edge as the hosts meet it: routes by a table that may be old, and repeats a request whose host died under it.

Follows HAProxy's rules (DESIGN §2): the ring's slot first, if it is up; after a broken or refused connection any other
host that is up, with the same request id, up to three times, and only while no byte of an answer has come. Health is
asked on the beat thread's port; a host that is marked down loses its open connections. With no host left: 503.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.model import HostRef, Table, TurnRequest
from actors.ports import Final
from router.ring import Ring
from tests.simulation.network import Exchange

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.process import SimProcess

POLL_S = 0.25
CHECK_S = 0.5
RETRIES = 3


class NoAnswer(Exception):
    """What the edge itself answers: 502, 503, 504. Unknown to the client, and safe to repeat with its key."""


class Edge:
    """Lives in the world's lane; never fails itself."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self.ring = Ring.of(Table(0), 8)
        self.stale = False
        self.strays = 0.0
        """Probability that a request goes to any host instead of the ring's."""
        self._failures: dict[str, int] = {}
        self._down: set[str] = set()

    def start(self) -> None:
        world = self._cluster.loop.world
        world.spawn(self._poll(), "edge poll")
        world.spawn(self._check(), "edge check")

    async def _poll(self) -> None:
        cluster = self._cluster
        while True:
            if not self.stale and not cluster.store.down:
                table = cluster.backend.members.table()
                if table.ring_version != self.ring.ring_version:
                    self.ring = Ring.of(table, cluster.settings.ring.vnodes)
            await asyncio.sleep(POLL_S)

    async def _check(self) -> None:
        while True:
            for process in self._cluster.processes:
                self._look_at(process)
            await asyncio.sleep(CHECK_S)

    def _look_at(self, process: SimProcess) -> None:
        name = process.incarnation
        if process.crashed or process.frozen:
            self._failures[name] = self._failures.get(name, 0) + 1
            if self._failures[name] == 2:
                self._down.add(name)
                for exchange in list(self._cluster.network.exchanges.values()):
                    if exchange.server is process and exchange.owner is None:
                        exchange.break_off()
        else:
            self._failures[name] = 0
            self._down.discard(name)

    def _pick(self, session_id: str, failed: set[str]) -> HostRef | None:
        members = [member.ref for member in self.ring.members]
        up = [ref for ref in members if ref.incarnation not in self._down and ref.incarnation not in failed]
        owner = self.ring.owner(session_id)
        if owner is not None and owner in up and self._rng.random() >= self.strays:
            return owner
        return self._rng.choice(up) if up else None

    async def chat(self, request: TurnRequest, stream: bool) -> Final:
        """The final answer; NoAnswer if there is none."""
        failed: set[str] = set()
        for _ in range(1 + RETRIES):
            to = self._pick(request.key.session_id, failed)
            if to is None:
                break
            # The edge knows addresses, not incarnations: whoever listens there gets the request.
            anyone = HostRef("", to.slot, to.address)
            network = self._cluster.network
            exchange = network.open(None, self._cluster.loop.world, anyone, request, stream, 0)
            try:
                final, begun = await self._listen(exchange)
            finally:
                exchange.close()
            if final is not None:
                return final
            if begun:
                raise NoAnswer("the answer broke off")
            failed.add(to.incarnation)
        raise NoAnswer("no host is up")

    async def _listen(self, exchange: Exchange) -> tuple[Final | None, bool]:
        begun = False
        while True:
            what, payload = await exchange.inbox.get()
            if what == "finish":
                return payload, begun
            if what in ("turn", "delta"):
                begun = True
            else:
                return None, begun

    async def call(self, session_id: str, work: Callable[[SimProcess], Any]) -> Any:
        """A request without a stream: read, delete. Its result or its error; NoAnswer if there is none."""
        failed: set[str] = set()
        for _ in range(1 + RETRIES):
            to = self._pick(session_id, failed)
            if to is None:
                break
            anyone = HostRef("", to.slot, to.address)
            what, payload = await self._cluster.network.call(self._cluster.loop.world, anyone, work)
            if what == "ok":
                return payload
            if what == "error":
                raise payload
            failed.add(to.incarnation)
        raise NoAnswer("no host is up")
