"""A Redis of the experiment's own, which hosts reach by a link that can be cut for one of them (``link``)."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtest.redis_wire import ask
from loadtest.stack import ROOT, NotUp

START_S = 10.0
LOOK_S = 0.05
ORDER_S = 5.0


class OwnStore:
    """``url`` is what hosts are told, ``redis_url`` the server behind it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, redis_url: str, folder: Path) -> None:
        self.url = url
        self.redis_url = redis_url
        self.folder = folder
        self._process = process

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
async def own_store(port: int, redis_port: int, fsync: str) -> AsyncIterator[OwnStore]:
    """Both on ports of 127.0.0.1, surely ended. NotUp if Redis doesn't answer through the link."""
    folder = Path(tempfile.mkdtemp(prefix="rehydra-loadtest-redis-"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.lab.link", str(port), str(redis_port), str(folder), fsync),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        url, redis_url = (f"redis://127.0.0.1:{each}/0" for each in (port, redis_port))
        await _answers(url, process)
        yield OwnStore(process, url, redis_url, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.returncode is None:
        try:
            await ask(url, "PING")
            return
        except (OSError, EOFError):
            await asyncio.sleep(LOOK_S)
    raise NotUp(f"no Redis answers at {url}")
