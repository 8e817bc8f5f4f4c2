"""A store of the experiment's own, which hosts reach by a link that can be cut for one of them (``link``)."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from loadtest import postgres_leases
from loadtest.lab.kept import HOST, USER
from loadtest.redis_wire import ask
from loadtest.stack import ROOT, NotUp

START_S = 30.0
LOOK_S = 0.05
ORDER_S = 5.0

_URLS: Final = {"redis": f"redis://{HOST}:{{}}/0", "postgres": f"postgresql://{USER}@{HOST}:{{}}/postgres"}


class OwnStore:
    """``url`` is what hosts are told, ``server_url`` the server behind it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, ports: tuple[int, int], folder: Path) -> None:
        self.name = name
        self.url, self.server_url = map(_URLS[name].format, ports)
        self.folder = folder
        self._process = process

    @property
    def settings(self) -> Mapping[str, str]:
        """How ``deploy/up`` is told of it."""
        if self.name == "redis":
            return {"REDIS_URL": self.url}
        return {"POSTGRES_URL": self.url, "REHYDRA_STORE__PREFIX": postgres_leases.SCHEMA}

    async def cut(self, pid: int) -> int:
        """Nothing passes any more between that process and the store. How many connections it had."""
        return await self._order(f"cut {pid}")

    async def heal(self) -> int:
        """Everything passes again, what was sent meanwhile first. How many connections had been cut."""
        return await self._order("heal")

    async def _order(self, line: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(ORDER_S):
            said = await self._process.stdout.readline()
        return int(json.loads(said)["connections"])


@asynccontextmanager
async def own_store(name: str, port: int, server_port: int, fsync: str) -> AsyncIterator[OwnStore]:
    """A Redis or a PostgreSQL and the link to it, both on ports of 127.0.0.1, surely ended. NotUp if the server doesn't
    answer through the link."""
    folder = Path(tempfile.mkdtemp(prefix="rehydra-loadtest-store-"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.lab.link", str(port), str(server_port), str(folder), fsync, name),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        store = OwnStore(name, process, (port, server_port), folder)
        await _until(_ANSWERS[name], store.url, process)
        yield store
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _until(answers: Callable[[str], Awaitable[object]], url: str, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.returncode is None:
        try:
            await answers(url)
            return
        except (OSError, EOFError):
            await asyncio.sleep(LOOK_S)
    raise NotUp(f"nobody answers at {url}")


async def _redis_answers(url: str) -> None:
    await ask(url, "PING")


async def _postgres_answers(url: str) -> None:
    async with postgres_leases.asking(url):
        pass


_ANSWERS: Final[Mapping[str, Callable[[str], Awaitable[None]]]] = {
    "redis": _redis_answers,
    "postgres": _postgres_answers,
}
