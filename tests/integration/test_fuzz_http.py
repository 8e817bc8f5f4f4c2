"""Requests made from the document, against a host without Ray behind the real edge: none meets what isn't in it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.model import Member
from loadtest.fuzz_http import OK_SHARE_MIN, Fuzz
from tests.integration import test_edge
from tests.integration.test_edge import Stack, until

run_dir, stack = test_edge.run_dir, test_edge.stack

CASES = 500
SETTINGS = {"store": {"url": "memory://"}, "agent": {"path": "actors.agents.echo:echo"}}


@asynccontextmanager
async def host_process() -> AsyncIterator[Member]:
    """``python -m deploy.host``, surely ended."""
    process: Process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.host", json.dumps(SETTINGS)), stdout=PIPE
    )
    try:
        assert process.stdout is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        yield Member("slot-0", told["incarnation"], told["address"], told["health_port"])
    finally:
        process.kill()
        await process.wait()


async def test_no_request_made_from_the_document_meets_what_isnt_in_it(stack: Stack) -> None:
    async with host_process() as member:
        stack.ring_version += 1
        stack.store.write(stack.ring_version, member)
        stack.edge.hurry()
        await until(lambda: stack.follows(stack.edge))
        found = await asyncio.to_thread(Fuzz(stack.url, seed=1).run, CASES)
    assert found.violations == {}, found.examples
    assert found.count(5) == 0
    assert found.cases == CASES
    assert found.ok_share >= OK_SHARE_MIN
    assert set(found.operations) == {
        "POST /chat",
        "POST /chat/sealed",
        "POST /sessions",
        "GET /sessions/{session_id}",
        "DELETE /sessions/{session_id}",
        "GET /sessions/{session_id}/turns",
        "GET /ring",
        "GET /healthz",
        "GET /readyz",
    }
