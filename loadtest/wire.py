"""One HTTP/1.1 request over one connection of its own, so that it is known what was sent and when it broke.

Promises: nothing is ever sent twice, whatever happens; a reply that ends early raises :class:`Broken`, and never
looks like a short one. Deliberately without keep-alive: a kept connection that the server closes at the moment of
the next request would look like an error of the server. ``bench`` keeps its connections and has its own protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

LINE_BYTES_MAX = 1 << 20
"""Longest line of a reply: a header, or one line of an event stream."""


class Broken(Exception):
    """The connection was refused, or broke before the reply was complete. What became of the request is unknown."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """From ``http://host:port`` (80 if no port is named)."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} isn't an http:// URL.")
        return cls(parts.hostname, parts.port or 80)


class Reply:
    """A reply whose head is here; its body is read on demand, once."""

    def __init__(self, reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> None:
        self._reader = reader
        self.status = status
        self.headers = headers
        """Names in lower case."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Broken if it ends before its announced end."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := int((await self._line()).split(";")[0], 16):
                yield await self._reader.readexactly(size)
                await self._line()
            await self._line()
        elif "content-length" in self.headers:
            yield await self._reader.readexactly(int(self.headers["content-length"]))
        else:
            while piece := await self._reader.read(65_536):
                yield piece

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def lines(self) -> AsyncIterator[str]:
        """The body's lines, without their ends, as they come. A last line without an end is dropped: it may be torn."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r").decode()

    async def _line(self) -> str:
        line = await self._reader.readuntil(b"\n")
        return line.decode("latin-1").strip()


@asynccontextmanager
async def request(
    to: Address, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> AsyncIterator[Reply]:
    """Send one request and give its reply when its head is here. Broken also if that happens inside the ``with``."""
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(to.host, to.port, limit=LINE_BYTES_MAX)
        writer.write(_head(to, method, path, headers or {}, len(body)) + body)
        yield await _reply(reader)
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    finally:
        if writer is not None:
            writer.close()


def _head(to: Address, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {to.host}:{to.port}",
        "Connection: close",
        f"Content-Length: {length}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _reply(reader: asyncio.StreamReader) -> Reply:
    status = 100
    while status == 100:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Reply(reader, status, headers)
