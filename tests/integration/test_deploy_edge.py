"""``python -m deploy.edge``, as it is run: it says when it serves, takes HAProxy away at its end, and what is wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from loadtest.client import Client, Unreadable
from tests.integration.deployment import ROOT
from tests.servers import Server, free_port


async def edge(**groups: Any) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "deploy.edge", json.dumps(groups))
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("times", [1, 3], ids=["once", "again and again"])
async def test_an_edge_alone_serves_until_sigterm_and_takes_haproxy_away(tmp_path: Path, times: int) -> None:
    with Server() as server:
        process = await edge(store={"url": server.url}, edge={"port": free_port(), "run_dir": str(tmp_path)})
        try:
            assert process.stdout is not None
            shown = json.loads(await process.stdout.readline())
            assert (shown["pid"], shown["run_dir"]) == (process.pid, str(tmp_path))
            status, _ = await Client(shown["url"], 5.0).get("/ring")
            assert status == 503, "there is no host"
            for _ in range(times):
                process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            with pytest.raises(Unreadable):
                await Client(shown["url"], 5.0).get("/ring")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.timeout(60)
async def test_an_edge_that_can_not_start_says_why_in_one_line() -> None:
    process = await edge(edge={"port": "eighty"})
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"deploy.edge: edge.port") and err.count(b"\n") == 1
