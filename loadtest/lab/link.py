"""A store's server, and the link by which hosts reach it, which can be cut for one of them.

    python -m loadtest.lab.link PORT SERVER_PORT FOLDER FSYNC redis|postgres

A process of its own, so that nothing the experiment computes is felt on the link. It keeps the server (``kept``), which
it starts again whenever that ends, and passes bytes on between it and whoever connects to PORT. Orders come line by
line on standard input, each answered by one line of JSON:

    cut PID    nothing passes any more, either way, on the connections of that process, old ones and new ones
    heal       everything passes

A cut link loses nothing of what was sent: as with a cable that is plugged in again, TCP brings it late. So a host that
was cut off has its last commits arrive after others have gone on with its sessions. Ends, and its server with it, when
standard input does: it can't outlive the experiment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.lab.kept import HOST, SERVERS, Kept

PIECE_BYTES = 65_536


class Link:
    """Passes bytes on to ``to_port``; cuts the connections of single processes of this machine."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._port = 0
        self._cut: set[int] = set()
        self._gates: dict[int, asyncio.Event] = {}
        """The other side's port -> set while bytes may pass."""

    async def listen(self, port: int) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, HOST, port, limit=PIECE_BYTES)
        self._port = int(server.sockets[0].getsockname()[1])
        return server

    def cut(self, pid: int) -> int:
        """From now on nothing passes for this process. How many of its connections that are now."""
        self._cut.add(pid)
        gates = [self._gates[port] for port in self._ports_of(pid) if port in self._gates]
        for gate in gates:
            gate.clear()
        return len(gates)

    def heal(self) -> int:
        """Everything passes. How many connections had been cut."""
        self._cut.clear()
        cut = [gate for gate in self._gates.values() if not gate.is_set()]
        for gate in cut:
            gate.set()
        return len(cut)

    def _ports_of(self, pid: int) -> set[int]:
        """This process's own ports of its connections to the link."""
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            return set()
        return {each.laddr.port for each in connections if each.raddr and each.raddr.port == self._port}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(writer.get_extra_info("peername")[1])
        gate = self._gates[port] = asyncio.Event()
        # Entered before it is looked at, so that a cut that comes now finds it here or is found here.
        if not any(port in self._ports_of(pid) for pid in self._cut):
            gate.set()
        try:
            await gate.wait()
            with contextlib.suppress(OSError):
                there, to = await asyncio.open_connection(HOST, self._to_port, limit=PIECE_BYTES)
                try:
                    await _first(_pass_on(reader, to, gate), _pass_on(there, writer, gate))
                finally:
                    to.close()
        finally:
            del self._gates[port]
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            await gate.wait()
            writer.write(piece)
            await writer.drain()
    await gate.wait()  # An end is news as well.


async def _first(*both: Any) -> None:
    """Until one of the two directions has ended: a connection to a store is of no use with one."""
    tasks = [asyncio.ensure_future(each) for each in both]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _obey(link: Link) -> None:
    """Orders, until there will be no more."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        word, *rest = line.decode().split()
        connections = link.cut(int(rest[0])) if word == "cut" else link.heal()
        print(json.dumps({"connections": connections}), flush=True)


async def main(port: int, server_port: int, kept: Kept) -> None:
    keeping = asyncio.create_task(kept.keep())
    link = Link(server_port)
    server = await link.listen(port)
    try:
        await _obey(link)
    finally:
        server.close()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


if __name__ == "__main__":
    make = SERVERS[sys.argv[5]]
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), make(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
