"""A host's own HTTP server, in the event loop that runs already: its address, its limits, its end.

The HTTP parts are uvicorn's (httptools); this module does what ``uvicorn.Server`` does for a process of its own and a
host must not have: it installs no signal handlers, opens its socket before it serves (so that the address is known
when the host joins the ring), and ends in its own order: stop accepting, let running requests finish, cut the rest.

What runs at the same time: one protocol per connection (``actors.connection``), one task per request, and one ticker
that sets the Date header and cuts connections which have been sending a request head, or an unread body, for too long.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from email.utils import formatdate
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from actors.asgi import AsgiApp
from actors.connection import TICK_S, Connection
from actors.errors import Misconfigured
from actors.settings import HttpSettings

log = logging.getLogger("rehydra.listener")

BACKLOG: Final = 1024
ABORT_WAIT_S: Final = 5.0
"""How long requests may take to notice that their client was cut off at the end."""

_WILDCARDS: Final = ("0.0.0.0", "::")


class Listener:
    """``bind`` makes the address known, ``start`` serves, ``aclose`` ends. ``node_address`` is used where the settings
    name none, and is what others are told if the host listens on all addresses."""

    def __init__(self, app: AsgiApp, settings: HttpSettings, node_address: str = "127.0.0.1") -> None:
        self._settings = settings
        self._bind_to = settings.bind or node_address
        self._told = node_address if self._bind_to in _WILDCARDS else self._bind_to
        self._config = Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]
        )
        self._state = ServerState()
        self._socket: socket.socket | None = None
        self._address = ""
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """``host:port`` as others reach it. Known once bound."""
        assert self._address, "bind() comes first"
        return self._address

    @property
    def connections(self) -> int:
        """Open connections now."""
        return len(self._state.connections)

    def bind(self) -> str:
        """Open the socket on the first free port of the range; idempotent. Returns the address; connections wait in
        the kernel until ``start``. Misconfigured if no port is free, or the address isn't this machine's."""
        if self._socket is None:
            self._socket = _listening_socket(self._bind_to, self._settings.port_min, self._settings.port_max)
            port = self._socket.getsockname()[1]
            self._address = f"[{self._told}]:{port}" if ":" in self._told else f"{self._told}:{port}"
        return self.address

    async def start(self) -> str:
        """Serve. Returns the address."""
        self.bind()
        if self._server is None and self._socket is not None:
            self._config.load()
            self._set_date()
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._connection, sock=self._socket, backlog=BACKLOG)
            self._ticker = loop.create_task(self._tick())
        return self.address

    async def aclose(self, grace_s: float = 10.0) -> None:
        """Accept nothing more, wait up to ``grace_s`` for running requests, then cut them off. Idempotent."""
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.close()
        for connection in list(self._state.connections):
            # Idle ones close; a busy one closes after its answer, which says so.
            connection.shutdown()
        await self._emptied(grace_s)
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=ABORT_WAIT_S)
        for task in list(self._state.tasks):
            task.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait((self._ticker,))

    async def _emptied(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while self._state.connections and (left := deadline - time.monotonic()) > 0:
            # uvicorn tells nobody when a connection ends, but each ends with a request's task or right after it.
            if self._state.tasks:
                await asyncio.wait(tuple(self._state.tasks), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(min(left, 0.01))

    def _connection(self) -> Connection:
        return Connection(self._config, self._state, self._settings)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._set_date()
            now = time.monotonic()
            for connection in list(self._state.connections):
                connection.cut_if_late(now)  # type: ignore[union-attr]

    def _set_date(self) -> None:
        # Connections take the list as it is when a request comes; it is replaced, never changed.
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]


def _listening_socket(host: str, port_min: int, port_max: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for port in range(port_min, port_max + 1):
        # The protocol by name: asyncio switches Nagle's algorithm off only where it sees TCP.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
            # Two hosts can bind one port as long as neither listens: only this call tells who has it.
            opened.listen(BACKLOG)
            opened.setblocking(False)
            return opened
        except OSError as error:
            opened.close()
            problem = error
    ports = str(port_min) if port_min == port_max else f"{port_min}-{port_max}"
    raise Misconfigured(f"Can't listen on {host}, port {ports}: {problem}.") from problem
