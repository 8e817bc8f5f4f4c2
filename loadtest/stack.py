"""A deployment of the experiment's own: ``deploy/up --detach`` on its own port and in its own folder, surely ended.

Only the command line of ``deploy/up`` and ``deploy/down``, the ``state.json`` that they document, and the secrets in
its folder are used.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UP_S = 240.0
DOWN_S = 60.0


class NotUp(Exception):
    """The deployment didn't start; the text is what ``deploy/up`` said."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployment that runs. ``folder`` has its data and its logs."""

    url: str
    redis_url: str
    """Empty on another store."""
    folder: Path
    pid: int = 0
    """The supervisor: all that the deployment is descends from it, save HAProxy."""
    dashboard: str = ""
    token: str = ""
    """What Ray's dashboard wants to see."""
    store: str = "redis"
    """As ``deploy/up --store`` calls it."""
    store_url: str = ""
    """Without user and password."""


@asynccontextmanager
async def started(
    port: int,
    hosts: int,
    agent: str,
    fsync: str = "always",
    dashboard_port: int = 0,
    nodes: int = 0,
    settings: Mapping[str, str] | None = None,
    root: Path = ROOT,
    store: str = "redis",
) -> AsyncIterator[Stack]:
    """Start one, and end it and delete its folder afterwards, whatever happens: SIGTERM cancels whoever has it, as
    Ctrl-C does. NotUp if it doesn't start.

    ``nodes``: Ray nodes that the hosts have to themselves. ``settings``: as in the environment. ``root``: the checkout
    that is started, if it isn't this one. ``store``: as ``deploy/up --store`` calls it; it starts that, too.
    """
    folder = Path(tempfile.mkdtemp(prefix="rehydra-loadtest-"))
    where = ["--port", str(port), "--data-dir", str(folder)]
    options = ["--detach", "--replicas", str(hosts), "--agent", agent, "--fsync", fsync]
    options += ["--store", store]
    options += ["--dashboard-port", str(dashboard_port)] if dashboard_port else []
    user, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert user is not None
    loop.add_signal_handler(signal.SIGTERM, user.cancel)
    try:
        print(f"starting {hosts} hosts on port {port}, on {store} ...", flush=True)
        options += ["--nodes", str(nodes)]
        code, said = await _call(root, ["deploy/up", *where, *options], UP_S, settings)
        if code:
            raise NotUp(f"deploy/up: exit code {code}\n{said}")
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        dashboard = f"127.0.0.1:{dashboard_port}" if dashboard_port else ""
        token = (folder / "ray-token").read_text(encoding="utf-8").strip()
        redis_url, pid = state.get("redis_url", ""), int(state["pid"])
        yield Stack(state["url"], redis_url, folder, pid, dashboard, token, store, state["store_url"])
    finally:
        # Shielded: neither must leave a deployment behind.
        await asyncio.shield(_end(root, where, folder))


async def _end(root: Path, where: list[str], folder: Path) -> None:
    code, said = await _call(root, ["deploy/down", *where], DOWN_S)
    if code:
        print(f"deploy/down: exit code {code}\n{said}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


async def _call(
    root: Path, command: list[str], wait_s: float, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(root / command[0]),
        *command[1:],
        cwd=root,
        env=os.environ | dict(environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(wait_s):
            said, _ = await process.communicate()
    except TimeoutError:
        process.terminate()
        await process.wait()
        return 1, f"no end within {wait_s:g} s"
    return process.returncode or 0, said.decode(errors="replace")
