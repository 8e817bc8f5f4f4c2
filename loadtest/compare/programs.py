"""Programs that an experiment starts, in the order in which it needs them, all surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from loadtest.stack import ROOT, NotUp

LOOK_S = 0.02
UP_S = 40.0
DOWN_S = 10.0
NOBODY = pwd.getpwnam("nobody")
"""Whom PostgreSQL runs as where we are root, whom it refuses."""


class Programs:
    """All share one folder for their logs, and an environment by which they are known."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment)
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, *command: str, as_nobody: bool = False) -> int:
        """Its process id. Whatever it says goes to ``NAME.log``."""
        # It ends with the experiment, however that ends.
        bound = [needed("setpriv"), "--pdeathsig", "TERM"]
        if as_nobody and os.geteuid() == 0:
            bound += ["--reuid", str(NOBODY.pw_uid), "--regid", str(NOBODY.pw_gid), "--clear-groups"]
        with (self.folder / f"{name}.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *bound, *command, cwd=self.folder, env=self._environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._running[name] = process
        return process.pid

    async def run(self, name: str, *command: str, as_nobody: bool = False) -> None:
        """To its end. NotUp if that isn't a good one."""
        await self.start(name, *command, as_nobody=as_nobody)
        if await self._running.pop(name).wait():
            raise NotUp(self._last_words(name))

    async def ready(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        """Return as soon as it answers. NotUp if it ends before, or takes too long."""
        deadline = time.monotonic() + UP_S
        while time.monotonic() < deadline and self._running[name].returncode is None:
            if await answers():
                return
            await asyncio.sleep(LOOK_S)
        raise NotUp(self._last_words(name))

    def _last_words(self, name: str) -> str:
        return f"{name} doesn't run: {(self.folder / f'{name}.log').read_text(errors='replace').strip()[-1000:]}"

    def pids(self) -> set[int]:
        return {process.pid for process in self._running.values()}

    async def end(self) -> None:
        """The last one first."""
        for process in reversed(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(DOWN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def programs(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Programs]:
    """None yet; those that are started are ended with the block."""
    started = Programs(folder, environment)
    try:
        yield started
    finally:
        # Shielded: Ctrl-C must not leave one behind.
        await asyncio.shield(started.end())


def needed(program: str) -> str:
    """Where it is. NotUp, with what to do about it."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        package = {"nginx": "nginx-light", "setpriv": "util-linux"}[program]
        raise NotUp(f"{program} is needed; on Debian and Ubuntu: apt-get install {package}")
    return found
