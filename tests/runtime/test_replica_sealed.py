"""Whole hosts with keys and a guard: what one has sealed another goes on with, and one Redis knows the newest."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from actors.errors import Misconfigured
from actors.replica import HostLife
from router.routing import HostView
from tests.runtime.test_replica import run, settings
from tests.servers import Server

KEY = base64.b64encode(b"k" * 32).decode()


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[list[HostLife]]:
    """Two hosts on one server."""
    async with AsyncExitStack() as ends:
        server = ends.enter_context(Server("valkey"))
        groups: dict[str, Any] = {"store": {"url": server.url}, "sealed": {"keys": KEY, "guard": "store"}}
        lives = [HostLife(settings(**groups), HostView) for _ in range(2)]
        for life in lives:
            await life.start()
            ends.push_async_callback(life.end)
        yield lives


async def post(life: HostLife, message: str, state: str | None = None, key: str = "") -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(headers={"Idempotency-Key": key} if key else None) as client,
        client.post(f"http://{life.host.ref.address}/chat/sealed", json={"message": message, "state": state}) as answer,
    ):
        return answer.status, await answer.json()


async def test_hosts_go_on_with_each_others_states_and_the_guard_knows_the_newest_for_all(pair: list[HostLife]) -> None:
    here, there = pair
    _, first = await post(here, "one", key="k-1")
    assert await post(there, "one", key="k-1") == (200, first | {"replayed": True})
    status, second = await post(there, "two", first["state"])
    assert (status, second["turn_seq"]) == (200, 2)
    status, problem = await post(here, "three", first["state"])
    assert (status, problem["type"]) == (409, "urn:rehydra:problem:state-superseded")
    assert (await post(here, "three", second["state"]))[1]["turn_seq"] == 3
    assert here.host.stats()["activations"] == there.host.stats()["activations"] == 0


@pytest.mark.parametrize(
    ("sealed", "word"),
    [
        ({"keys": "c2hvcnQ="}, "sealed.keys"),
        ({"keys_file": "/nowhere/keys"}, "/nowhere/keys"),
        ({"keys": KEY, "guard": "http://127.0.0.1"}, "sealed.guard"),
        ({"keys": KEY, "guard": "redis://127.0.0.1:1"}, "sealed.guard"),
    ],
)
async def test_a_host_with_wrong_keys_or_guard_says_so_in_one_sentence(sealed: dict[str, Any], word: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        await HostLife(settings(sealed=sealed), HostView).start()
    assert word in refused.value.detail
    assert "\n" not in refused.value.detail


async def test_a_file_of_keys_that_others_can_read_ends_the_process_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(0o644)
    process = await run(json.dumps({"store": {"url": "memory://"}, "sealed": {"keys_file": str(path)}}))
    out, err = await process.communicate()
    assert (process.returncode, out, len(err.splitlines())) == (2, b"", 1)
    assert b"chmod 600" in err
    assert KEY.encode() not in err
