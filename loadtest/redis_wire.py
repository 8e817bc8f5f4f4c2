"""One question to a Redis server, in the protocol's own words (RESP 2), over a connection of its own."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit


async def ask(url: str, *words: str) -> str:
    """One command whose reply is one line or one bulk string. OSError if the server can't be reached or refuses."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 6379)
    try:
        if parts.password:
            names = [unquote(part) for part in (parts.username, parts.password) if part]
            await _call(reader, writer, "AUTH", *names)
        return await _call(reader, writer, *words)
    finally:
        writer.close()


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> str:
    packed = [word.encode() for word in words]
    writer.write(b"*%d\r\n" % len(packed) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in packed))
    line = (await reader.readline()).decode().rstrip()
    if line.startswith("$"):
        return (await reader.readexactly(int(line[1:]) + 2)).decode().removesuffix("\r\n")
    if not line.startswith("+"):
        raise OSError(f"{words[0]}: {line or 'the server hung up'}")
    return line[1:]
