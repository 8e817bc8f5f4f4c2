"""A host that can't start says why in one line, and ends with exit code 2. ``python -m deploy.host``, as it is run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from actors.model import SCHEMA_VERSION
from tests.integration.deployment import ROOT, START_S
from tests.servers import Durability, Server, free_port

PASSWORD = "right-secret"
WRONG = "wrong-secret"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def server() -> Any:
    with Server(durability=Durability(), password=PASSWORD) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connected:
        yield connected
        connected.config_set("maxmemory", "0")
        connected.flushall()


async def refusal(argument: str) -> str:
    """Its one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.host", argument),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    line = complained.decode()
    assert (process.returncode, said) == (2, b""), line
    assert line.startswith("deploy.host: ") and line.count("\n") == 1, line
    assert PASSWORD not in line and WRONG not in line, line
    return line


def of(url: str, **groups: Any) -> str:
    return json.dumps({"store": {"url": url}, "http": {"bind": "127.0.0.1"}, **groups})


async def test_a_wrong_password_or_none_is_one_line_and_exit_code_2(server: Server) -> None:
    wrong, none = await asyncio.gather(
        refusal(of(server.url.replace(PASSWORD, WRONG))), refusal(of(server.url.replace(f":{PASSWORD}@", "")))
    )
    for line in (wrong, none):
        assert f"redis://127.0.0.1:{server.port}/0 doesn't let us in" in line


async def test_an_unreachable_redis_or_one_that_says_nothing_is_one_line_and_exit_code_2() -> None:
    with Server(durability=Durability()) as frozen:
        frozen.freeze()
        try:
            lines = await asyncio.gather(
                refusal(of(f"redis://:{WRONG}@127.0.0.1:{free_port()}/0")),
                refusal(of("redis://no-such-host.invalid:6379/0")),
                refusal(of(frozen.url, store={"url": frozen.url, "timeout_s": 0.5})),
            )
        finally:
            frozen.thaw()
    for line in lines:
        assert "can't be reached" in line


@pytest.mark.parametrize(
    ("key", "take"),
    [
        ("rehydra:schema", lambda client, key: client.set(key, "their own")),
        ("rehydra:schema", lambda client, key: client.rpush(key, "1")),
        ("rehydra:{members}:table", lambda client, key: client.set(key, "their own")),
        ("rehydra:{members}:beats", lambda client, key: client.sadd(key, "their own")),
    ],
    ids=["no number", "a list", "table", "beats"],
)
async def test_another_programs_keys_are_one_line_and_exit_code_2_and_stay_as_they_are(
    server: Server, client: redis.Redis, key: str, take: Callable[[redis.Redis, str], object]
) -> None:
    take(client, key)
    theirs = client.dump(key)
    line = await refusal(of(server.url))
    assert repr(key) in line and "store.prefix" in line
    assert client.keys() == [key.encode()] and client.dump(key) == theirs


async def test_a_newer_schema_version_is_one_line_and_exit_code_2_and_is_not_lowered(
    server: Server, client: redis.Redis
) -> None:
    client.set("rehydra:schema", SCHEMA_VERSION + 1)
    line = await refusal(of(server.url))
    assert f"schema_version {SCHEMA_VERSION + 1}" in line
    assert client.get("rehydra:schema") == str(SCHEMA_VERSION + 1).encode()


async def test_a_new_store_that_is_full_from_the_start_is_one_line_and_exit_code_2(
    server: Server, client: redis.Redis
) -> None:
    client.config_set("maxmemory", "1")
    assert "has no room" in await refusal(of(server.url))
    assert client.keys() == []


@pytest.mark.parametrize("argument", ["{", "[]", '{"store": {"url": "http://127.0.0.1"}}', '{"ring": {"vnodes": "x"}}'])
async def test_settings_that_can_not_be_understood_are_one_line_and_exit_code_2(argument: str) -> None:
    await refusal(argument)
