"""Tiny hosts for the edge's tests: they answer with what they saw. In this process, or as one of their own to be
killed and frozen (``python -m tests.integration.edge_backend NAME``, which prints its two ports).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from actors.model import UNHEARD, Member


class Backend:
    """One host: a listener for requests and one for health checks. A body's ``wait_s`` delays the answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.health_port = 0
        self.healthy = True
        self.heard = True
        """Whether it says in its health checks that its beats are accepted."""
        self.hangs_s = 0.0
        """How much longer each answer takes than was asked for."""
        self.seen = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        for answer in (self._requests, self._health):
            server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 20)
            self._servers.append(server)
        self.port, self.health_port = (server.sockets[0].getsockname()[1] for server in self._servers)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _health(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            status = "200 OK" if self.healthy else "503 Service Unavailable"
            body = "ok" if self.heard else UNHEARD
            head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write((head + body).encode())
        except (OSError, EOFError):
            pass  # HAProxy closes checks as it likes.
        finally:
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = [line.split(": ", 1) for line in head[1:] if line]
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.seen += 1
                await self._answer(writer, head[0].split()[1], headers, json.loads(body or b"{}"), len(body))
        except (OSError, EOFError):
            pass  # The connection has ended.
        except asyncio.CancelledError:
            return  # By stop(). asyncio's streams would log a handler that ends as cancelled.
        finally:
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, path: str, headers: dict[str, str], body: Any, length: int
    ) -> None:
        if pieces := body.get("pieces"):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n")
            for number in range(pieces):
                piece = f"{self.name} {number}\n".encode()
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await asyncio.sleep(body["wait_s"])
            writer.write(b"0\r\n\r\n")
            return
        await asyncio.sleep(body.get("wait_s", 0) + self.hangs_s)
        answer = json.dumps({"name": self.name, "path": path, "headers": headers, "length": length}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        # A host wouldn't; the edge must not let it through.
        writer.write(f"x-rehydra-pass: {headers.get('x-rehydra-pass', '')}\r\nx-rehydra-more: 1\r\n".encode())
        writer.write(f"content-length: {len(answer)}\r\n\r\n".encode() + answer)


class BackendProcess:
    """A Backend in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.health_port = 0
        self._process: Process | None = None

    async def start(self) -> None:
        arguments = ("-m", "tests.integration.edge_backend", self.name)
        self._process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 20)
        self.port, self.health_port = map(int, line.split())

    def send(self, sign: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, sign)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def member(slot: int, backend: Backend | BackendProcess) -> Member:
    return Member(f"slot-{slot}", backend.name, f"127.0.0.1:{backend.port}", backend.health_port)


async def main() -> None:
    backend = Backend(sys.argv[1])
    await backend.start()
    sys.stdout.write(f"{backend.port} {backend.health_port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
