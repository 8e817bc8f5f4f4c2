"""A rival that runs: ``python -m loadtest.baselines`` as a process of the experiment's own, surely ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from loadtest.stack import ROOT, NotUp

UP_S = 120.0
SERVE_MAX_ONGOING = 5
"""Serve's own default."""
DOWN_S = 30.0
FOREIGN = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Of another cluster; the rival starts one for itself."""


@asynccontextmanager
async def rival(
    router: str,
    port: int,
    replicas: int,
    max_ongoing: int = SERVE_MAX_ONGOING,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """Its URL. Redis listens at the port after. NotUp if it doesn't start. ``max_ongoing``: requests that a replica
    takes at one time; ``settings``: for the environment of all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="rival-"))
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    environment |= settings or {}
    options = {"port": port, "redis-port": port + 1, "replicas": replicas, "router": router, "folder": folder}
    options["max-ongoing"] = max_ongoing
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.baselines"),
            *(word for name, value in options.items() for word in (f"--{name}", str(value))),
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # A group of its own: all of it can be ended even if it doesn't end by itself.
            start_new_session=True,
        )
    try:
        print(f"starting {replicas} replicas ({router}) on port {port} ...", flush=True)
        await _ready(process, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        # Shielded: Ctrl-C must not leave it behind.
        await asyncio.shield(_end(process, folder))


async def _ready(process: asyncio.subprocess.Process, folder: Path) -> None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(UP_S):
            async for line in process.stdout:
                if line.strip() == b"ready":
                    return
    except TimeoutError:
        raise NotUp(f"not ready within {UP_S:g} s") from None
    raise NotUp((folder / "log").read_text(errors="replace")[-2000:])


async def _end(process: asyncio.subprocess.Process, folder: Path) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(DOWN_S):
            await process.wait()
    except TimeoutError:
        print(f"the rival didn't end within {DOWN_S:g} s and is killed", flush=True)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # Nobody of the group is left, as it should be.
    await process.wait()
    shutil.rmtree(folder, ignore_errors=True)
