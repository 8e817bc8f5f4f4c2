"""The answer to the edge's health checks: on a port of its own, by a thread with an event loop of its own.

So an agent that blocks the host's loop doesn't cost the host its place, and neither does a store that hangs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Final

from actors.model import UNHEARD

log = logging.getLogger(__name__)

PATIENCE_S: Final = 1.0
"""How long a health check may take to ask."""
_REQUEST_BYTES_MAX: Final = 8_192


def _answer(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return (head + body).encode()


_OK: Final = _answer("200 OK", "ok")
_UNHEARD: Final = _answer("200 OK", UNHEARD)
_STALLED: Final = _answer("503 Service Unavailable", "stalled")


class Health:
    """A listener with one answer: 200 while ``alive()``, else 503; with another text while not ``heard()``. On its own
    thread, with its own tiny loop."""

    def __init__(
        self, bind: str, port: int, alive: Callable[[], bool], heard: Callable[[], bool] = lambda: True
    ) -> None:
        self.port = port
        self._bind = bind
        self._alive = alive
        self._heard = heard
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="rehydra-health", daemon=True)
        self._opened = threading.Event()
        self._failure: OSError | None = None

    def open(self) -> int:
        """Listen; returns the port. OSError if it can't be had. Blocks for a moment only."""
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            raise self._failure
        return self.port

    def close(self) -> None:
        """Stop listening. Idempotent; the thread ends by itself."""
        if self._loop is not None and self._stop is not None:
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                log.debug("the health listener had ended already")

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        # A loop of the standard library on purpose: it must not share anything with the one that it watches.
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._opened.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, self._bind, self.port, limit=_REQUEST_BYTES_MAX)
        self.port = int(server.sockets[0].getsockname()[1])
        self._opened.set()
        async with server:
            await self._stop.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # The request is read, or closing would reset the connection before the answer is seen.
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            writer.write(_STALLED if not self._alive() else _OK if self._heard() else _UNHEARD)
            await asyncio.wait_for(writer.drain(), PATIENCE_S)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            log.debug("a health check went away")
        finally:
            writer.close()
