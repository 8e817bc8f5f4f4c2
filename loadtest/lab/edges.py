"""Several edges for one stack, and nginx before them: the stack's own, further ``python -m deploy.edge``, and the nginx
configuration that is deployed (``deploy/nginx/nginx.conf``), with this machine's addresses in it.

Everything is a process of the experiment's own and ends with it. An edge that was killed is started again by ``start``,
as whoever runs the machine would see to.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from loadtest.client import Client, Unreadable
from loadtest.compare.programs import Programs, needed, programs
from loadtest.processes import listener_pid
from loadtest.stack import ROOT, NotUp, Stack

CONFIG = ROOT / "deploy" / "nginx" / "nginx.conf"
EDGE = (sys.executable, "-m", "deploy.edge")
MARK = "LOADTEST_STACK"
"""In the environment of what belongs to a stack under experiment: HAProxy has no parent by which to know it."""


def placed(folder: Path, port: int, edges: Sequence[int]) -> str:
    """The configuration, as it would run here: files in ``folder``, listens at ``port`` of 127.0.0.1, passes on to
    ``edges`` there. Nothing else is changed; NotUp if it isn't the file that this was written for."""
    text = CONFIG.read_text(encoding="utf-8").replace(" /tmp/", f" {folder}/")
    servers = [line for line in text.splitlines() if line.strip().startswith("server edge-")]
    if len(servers) != 2 or "edge-1:8000" not in servers[0] or text.count("listen 8080;") != 1:
        raise NotUp(f"{CONFIG} has other servers, or another listener, than is expected here")
    here = "\n".join(servers[0].replace("edge-1:8000", f"127.0.0.1:{each}") for each in edges)
    text = text.replace("\n".join(servers), here).replace("listen 8080;", f"listen 127.0.0.1:{port};")
    return text.replace("/dev/stdout", f"{folder}/access.log").replace("/dev/stderr", f"{folder}/error.log")


class Edges:
    """``url`` is nginx's. ``ports`` are those of the further edges."""

    def __init__(self, running: Programs, url: str, ports: Sequence[int]) -> None:
        self.url = url
        self.ports = ports
        self._running = running
        self._pids: dict[int, int] = {}

    async def start(self, port: int) -> None:
        """Return when the edge at that port has an answer. NotUp if it ends, or takes too long."""
        folder = self._running.folder / f"edge-{port}"
        folder.mkdir(mode=0o700, exist_ok=True)
        command = ("env", f"REHYDRA_EDGE__PORT={port}", f"REHYDRA_EDGE__RUN_DIR={folder}")
        self._pids[port] = await self._running.start(folder.name, *command, *EDGE)
        await self._running.ready(folder.name, lambda: _answers(f"http://127.0.0.1:{port}"))

    def processes(self, port: int) -> list[int]:
        """The edge at that port and its HAProxy, as far as they run."""
        haproxy = listener_pid(f"127.0.0.1:{port}")
        return [self._pids[port], *([haproxy] if haproxy else [])]


@asynccontextmanager
async def several(stack: Stack, count: int, port: int, settings: Mapping[str, str]) -> AsyncIterator[Edges]:
    """``count`` edges, the stack's own among them, and nginx at ``port``; further edges at the ports after it.

    ``settings``: those of the stack, by their names in the environment, with its store.
    """
    folder = stack.folder / "edges"
    folder.mkdir(mode=0o700)
    environment = {name: value for name, value in settings.items() if name.startswith("REHYDRA_")} | {
        "REHYDRA_EDGE__SECRET": (stack.folder / "secret").read_text(encoding="utf-8").strip(),
        MARK: str(stack.folder),
    }
    ports = range(port + 1, port + count)
    async with programs(folder, environment) as running:
        edges = Edges(running, f"http://127.0.0.1:{port}", ports)
        for each in ports:
            await edges.start(each)
        own = int(stack.url.rpartition(":")[2])
        (folder / "nginx.conf").write_text(placed(folder, port, [own, *ports]), encoding="utf-8")
        nginx = (needed("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;")
        await running.start("nginx", *nginx)
        await running.ready("nginx", lambda: _answers(edges.url))
        yield edges


async def _answers(url: str) -> bool:
    try:
        status, _ = await Client(url, 2.0).get("/healthz")
    except Unreadable:
        return False
    return status == 200
