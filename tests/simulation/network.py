"""Processes, and the connections between them: requests, their streamed answers, hand-offs.

Promises: on one connection, what a host says arrives in order; a killed process's connections break, a frozen one's
stay open and silent; what was under way before the end still arrives. An address belongs to whoever started last on
it. Whatever acts on a process runs in that process's lane, so that it waits while the process is frozen and never
happens once it is dead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from actors.errors import Outdated, RehydraError
from actors.model import HostRef, SessionKey, TurnRequest
from actors.ports import Final, Passed, Requester, Residence
from tests.simulation.history import Arrived, HandedOver, History, PassedOn, Problem, Said
from tests.simulation.loop import Lane, SimLoop, SimTask

if TYPE_CHECKING:
    from tests.simulation.process import SimProcess

HAND_OFF_TIMEOUT_S = 2.0


class Exchange:
    """One request on its own connection, from ``caller`` (a lane) to a host, and the answer's events back."""

    def __init__(self, network: Network, caller: Lane, owner: SimProcess | None) -> None:
        self.number = network.loop.number()
        self.network = network
        self.caller = caller
        self.owner = owner
        """The process that asks; None for the edge."""
        self.server: SimProcess | None = None
        self.task: SimTask | None = None
        self.inbox: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.closed = False
        self.mute_after = -1
        """Events after which the answer is lost with its connection; -1 = never."""
        self.ghost = False
        """A duplicate that the network made."""
        self._last_at = 0.0
        self.sent = 0

    def tell(self, what: str, payload: Any = None) -> None:
        """From the server's side, or from its kernel (``broken``): arrives at the caller, in order."""
        if self.closed:
            return
        if self.sent == self.mute_after and what != "broken":
            self.mute_after = -2
            self.break_off()
            return
        if self.mute_after == -2 and what != "broken":
            return
        self.sent += 1
        loop = self.network.loop
        self._last_at = max(self._last_at, loop.time() + self.network.latency())
        self.caller.call(self._last_at - loop.time(), self._arrive, what, payload)

    def _arrive(self, what: str, payload: Any) -> None:
        if not self.closed:
            self.inbox.put_nowait((what, payload))

    def break_off(self) -> None:
        """The connection breaks: both sides notice."""
        self.tell("broken")
        self._cancel_server()

    def close(self) -> None:
        """The caller has what it wants, or has gone: the server notices, later, when it runs."""
        if not self.closed:
            self.closed = True
            self.network.exchanges.pop(self.number, None)
            self._cancel_server()

    def _cancel_server(self) -> None:
        server = self.server
        if server is not None and not server.crashed:
            server.main.call(self.network.latency(), self._cancel_task)

    def _cancel_task(self) -> None:
        if self.task is not None:
            self.task.cancel()


class RemoteRequester:
    """The host's end of an exchange: what the host says goes over the network, and into the history."""

    def __init__(self, exchange: Exchange, process: SimProcess, request: TurnRequest, stream: bool) -> None:
        self.stream = stream
        self.begun = False
        self._exchange = exchange
        self._process = process
        self._request = request
        self._gap_s = exchange.network.rng.choice((0.0, 0.002, 0.1))
        self._quiet_until = 0.0

    def _said(self, what: str, epoch: int = 0, text: str = "", final: Final | None = None) -> None:
        request, exchange = self._request, self._exchange
        history = exchange.network.history
        history.add(
            Said(
                self._process.name,
                exchange.number,
                exchange.owner is None,
                request.key,
                request.turn_id,
                what,
                epoch,
                text,
                final,
            )  # fmt: skip
        )

    async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None:
        self.begun = True
        self._said("turn", epoch=epoch)
        self._exchange.tell("turn", (turn_id, epoch, residence))

    async def delta(self, text: str) -> None:
        self.begun = True
        self._said("delta", text=text)
        self._exchange.tell("delta", text)
        self._quiet_until = self._exchange.network.loop.time() + self._gap_s

    def quiet_s(self) -> float:
        return self._quiet_until - self._exchange.network.loop.time()

    async def finish(self, final: Final) -> None:
        self._said("finish", final=final)
        self._exchange.tell("finish", final)


class Dice:
    """How often the network misbehaves; probabilities per request."""

    def __init__(self) -> None:
        self.lost_request = 0.0
        self.lost_reply = 0.0
        self.duplicate = 0.0
        self.slow = 0.0
        self.lost_pass = 0.0
        """Of requests that a host passes on."""


class Network:
    """All connections. ``at`` maps addresses to the process that listens there."""

    def __init__(self, loop: SimLoop, rng: random.Random, history: History) -> None:
        self.loop = loop
        self.rng = rng
        self.history = history
        self.dice = Dice()
        self.receipts_lost = False
        """Batches arrive, and their senders never learn of it."""
        self.at: dict[str, SimProcess] = {}
        self.exchanges: dict[int, Exchange] = {}

    def latency(self) -> float:
        if self.rng.random() < self.dice.slow:
            return self.rng.uniform(0.02, 0.4)
        return self.rng.uniform(0.0002, 0.003)

    def listener(self, address: str) -> SimProcess | None:
        process = self.at.get(address)
        return None if process is None or process.crashed or process.closed else process

    # --- requests -----------------------------------------------------------------------------------------------

    def open(
        self, owner: SimProcess | None, caller: Lane, to: HostRef, request: TurnRequest, stream: bool, hops: int
    ) -> Exchange:
        """Send a request. Its events come in ``inbox``: refused, stranger, turn, delta, finish, broken."""
        exchange = Exchange(self, caller, owner)
        self.exchanges[exchange.number] = exchange
        rng, dice = self.rng, self.dice
        passes = owner is not None and dice.lost_pass > 0.0
        if rng.random() < dice.lost_request or (passes and rng.random() < dice.lost_pass):
            self.loop.world.call(rng.uniform(0.01, 0.6), exchange.tell, "broken")
            return exchange
        if rng.random() < dice.lost_reply:
            exchange.mute_after = rng.choice((0, 0, 1, 3))
        self.loop.world.call(self.latency(), self._connect, exchange, to, request, stream, hops)
        if rng.random() < dice.duplicate:
            # A client library sent it twice: the first connection's answer is never read.
            ghost = Exchange(self, caller, owner)
            ghost.ghost = True
            ghost.mute_after = 0
            self.loop.world.call(rng.uniform(0.0, 1.5), self._connect, ghost, to, request, stream, hops)
        return exchange

    def _connect(self, exchange: Exchange, to: HostRef, request: TurnRequest, stream: bool, hops: int) -> None:
        if exchange.closed:
            return
        server = self.listener(to.address)
        if server is None:
            exchange.tell("refused")
        elif to.incarnation and server.incarnation != to.incarnation:
            exchange.tell("stranger")
        else:
            exchange.server = server
            server.main.call(0.0, self._serve, exchange, server, request, stream, hops)

    def _serve(self, exchange: Exchange, server: SimProcess, request: TurnRequest, stream: bool, hops: int) -> None:
        requester = RemoteRequester(exchange, server, request, stream)
        via = "ghost" if exchange.ghost else "edge" if exchange.owner is None else "peer"
        self.history.add(Arrived(server.name, request.key, request.turn_id, via, exchange.number, hops=hops))
        exchange.task = server.main.spawn(self._chat(server, request, requester, hops), "chat")

    async def _chat(self, server: SimProcess, request: TurnRequest, requester: RemoteRequester, hops: int) -> None:
        try:
            await server.host.chat(request, requester, hops)
        except Exception as error:
            self.history.add(Problem(server.name, f"chat raised {error!r}"))
            raise

    async def call(
        self, caller: Lane, to: HostRef, work: Callable[[SimProcess], Any], *, mute: bool = False
    ) -> tuple[str, Any]:
        """A plain request and its answer: ("ok", result), ("error", RehydraError), ("refused", None), ("broken", None).

        ``work`` is given the process and returns a coroutine, which runs there. ``mute``: its answer is lost.
        """
        exchange = Exchange(self, caller, None)
        exchange.mute_after = 0 if mute else -1
        self.exchanges[exchange.number] = exchange

        async def serve(server: SimProcess) -> None:
            try:
                exchange.tell("ok", await work(server))
            except RehydraError as error:
                exchange.tell("error", error)

        def arrive(server: SimProcess) -> None:
            exchange.task = server.main.spawn(serve(server), "call")

        def connect(first: bool) -> None:
            server = self.listener(to.address)
            if server is None or (to.incarnation and server.incarnation != to.incarnation):
                exchange.tell("refused" if server is None else "stranger")
                return
            if first:
                exchange.server = server
            server.main.call(0.0, arrive, server)

        rng, dice = self.rng, self.dice
        if rng.random() < dice.lost_request:
            self.loop.world.call(rng.uniform(0.01, 0.6), exchange.tell, "broken")
        else:
            if rng.random() < dice.lost_reply:
                exchange.mute_after = 0
            self.loop.world.call(self.latency(), connect, True)
            if rng.random() < dice.duplicate:
                self.loop.world.call(rng.uniform(0.0, 1.5), connect, False)
        try:
            return await exchange.inbox.get()
        finally:
            exchange.closed = True
            self.exchanges.pop(exchange.number, None)

    def serves(self, process: SimProcess) -> bool:
        """Whether a request is open there."""
        return any(exchange.server is process for exchange in self.exchanges.values())

    # --- death --------------------------------------------------------------------------------------------------

    def broken_by(self, process: SimProcess) -> None:
        """The kernel of a killed process resets its connections, on both ends."""
        for exchange in list(self.exchanges.values()):
            if exchange.server is process:
                exchange.tell("broken")
            elif exchange.owner is process:
                exchange.close()


class SimPeers:
    """``ports.Peers`` of one process."""

    def __init__(self, network: Network, process: SimProcess) -> None:
        self._network = network
        self._process = process

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        self._network.history.add(PassedOn(self._process.name, request.key, request.turn_id, to.incarnation))
        exchange = self._network.open(self._process, self._process.main, to, request, requester.stream, hops)
        try:
            while True:
                what, payload = await exchange.inbox.get()
                match what:
                    case "turn":
                        await requester.turn(*payload)
                    case "delta":
                        await requester.delta(payload)
                    case "finish":
                        await requester.finish(payload)
                        return Passed.FINISHED
                    case "refused":
                        return Passed.REFUSED
                    case "stranger":
                        return Passed.STRANGER
                    case _:
                        return Passed.BROKEN
        finally:
            exchange.close()

    async def hand_off(self, to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        requests, network = tuple(batch), self._network
        number = network.loop.number()

        async def accept(server: SimProcess) -> None:
            if not await server.host.accept_batch(key, requests, under):
                raise Outdated
            for request in requests:
                network.history.add(Arrived(server.name, key, request.turn_id, "batch", batch=number))

        told = await self._told(to, accept, mute=network.receipts_lost)
        if told:
            turn_ids = tuple(request.turn_id for request in requests)
            network.history.add(HandedOver(self._process.name, key, to.incarnation, turn_ids))
        return told

    async def tell_deleted(self, to: HostRef, key: SessionKey) -> bool:
        async def take(server: SimProcess) -> None:
            server.host.deleted(key)

        return await self._told(to, take)

    async def _told(
        self, to: HostRef, what: Callable[[SimProcess], Coroutine[Any, Any, None]], mute: bool = False
    ) -> bool:
        try:
            async with asyncio.timeout(HAND_OFF_TIMEOUT_S):
                came_to, _ = await self._network.call(self._process.main, to, what, mute=mute)
        except TimeoutError:
            return False
        return came_to == "ok"
