"""Starting against a server that isn't fit: one clear sentence each, and no secret in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis

from actors.errors import Misconfigured
from actors.model import SCHEMA_VERSION
from actors.settings import Settings
from actors.stores.base import Granted
from actors.stores.redis import RedisStore
from tests.contract.lab import ANNA, RedisLab, fresh_key
from tests.servers import Durability, Server, free_port


def settings_for(url: str, **store: Any) -> Settings:
    return Settings.load({"store": {"url": url, "timeout_s": 1.0, **store}})


async def refusal(url: str, **store: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        await RedisStore.open(settings_for(url, **store))
    assert "\n" not in refused.value.detail
    return refused.value.detail


async def test_a_fit_server_is_opened_and_used(redis_lab: RedisLab) -> None:
    url, prefix = redis_lab.settings.url, redis_lab.settings.prefix
    for _ in range(2):
        store = await RedisStore.open(settings_for(url, prefix=prefix))
        assert isinstance(await store.claim(fresh_key(), "token", ANNA), Granted)
        await store.aclose()
    assert redis_lab.client.get(redis_lab.keys.schema) == b"%d" % SCHEMA_VERSION


async def test_nobody_listening_is_said() -> None:
    port = free_port()
    assert f"redis://127.0.0.1:{port}/0 can't be reached" in await refusal(f"redis://127.0.0.1:{port}/0")


async def test_a_server_that_does_not_answer_is_said(own_server: Server) -> None:
    own_server.freeze()
    assert "can't be reached" in await refusal(own_server.url)
    own_server.thaw()


async def test_a_url_that_is_none_is_said() -> None:
    assert "store.url" in await refusal("http://127.0.0.1:1")


@pytest.mark.parametrize("secret", ["", ":wrong-secret@", "user:wrong-secret@"], ids=["none", "wrong", "unknown user"])
async def test_a_wrong_password_is_said_without_naming_it(secret: str) -> None:
    with Server("valkey", password="right-secret") as server:
        sentence = await refusal(f"redis://{secret}127.0.0.1:{server.port}/0")
    assert "doesn't let us in" in sentence
    assert "secret" not in sentence


async def test_the_right_password_opens() -> None:
    with Server("valkey", password="right-secret") as server:
        store = await RedisStore.open(settings_for(server.url))
        await store.aclose()


async def test_a_server_that_evicts_is_refused() -> None:
    with Server("valkey", maxmemory_bytes=1 << 26, maxmemory_policy="allkeys-lru") as server:
        sentence = await refusal(server.url)
    assert "allkeys-lru" in sentence
    assert "noeviction" in sentence


async def test_a_memory_limit_without_eviction_is_fine() -> None:
    with Server("valkey", maxmemory_bytes=1 << 26) as server:
        store = await RedisStore.open(settings_for(server.url))
        await store.aclose()


async def test_a_replica_is_refused(own_server: Server) -> None:
    redis.Redis(port=own_server.port).replicaof("127.0.0.1", str(free_port()))
    assert "is a replica" in await refusal(own_server.url)


async def test_a_cluster_is_refused() -> None:
    with Server("valkey", more=("--cluster-enabled", "yes")) as server:
        assert "Cluster" in await refusal(server.url)


async def test_what_a_newer_program_wrote_is_refused(redis_lab: RedisLab) -> None:
    redis_lab.client.set(redis_lab.keys.schema, SCHEMA_VERSION + 1)
    sentence = await refusal(redis_lab.settings.url, prefix=redis_lab.settings.prefix)
    assert f"schema_version {SCHEMA_VERSION + 1}" in sentence
    assert redis_lab.client.get(redis_lab.keys.schema) == b"%d" % (SCHEMA_VERSION + 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda client, name: client.hset(name, "a", 1),
        lambda client, name: client.rpush(name, 1),
        lambda client, name: client.set(name, "words"),
    ],
    ids=["hash", "list", "words"],
)
async def test_a_foreign_key_under_our_name_is_refused(
    redis_lab: RedisLab, write: Callable[[redis.Redis, str], object]
) -> None:
    write(redis_lab.client, redis_lab.keys.schema)
    sentence = await refusal(redis_lab.settings.url, prefix=redis_lab.settings.prefix)
    assert "store.prefix" in sentence


async def test_a_user_who_may_not_run_scripts_is_refused() -> None:
    with Server("valkey") as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-@scripting")
        sentence = await refusal(f"redis://weak:pw@127.0.0.1:{server.port}/0")
    assert "doesn't run scripts" in sentence


async def test_a_server_that_does_not_show_its_settings_is_used_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Server("valkey") as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-info", "-config", "-ping")
        with caplog.at_level(logging.WARNING, logger="actors.stores"):
            store = await RedisStore.open(settings_for(f"redis://plain:pw@127.0.0.1:{server.port}/0"))
        await store.aclose()
    assert "noeviction" in caplog.text


async def test_a_server_without_an_append_only_file_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for durability, warned in ((Durability(appendonly=False), True), (Durability(), False)):
        caplog.clear()
        with Server("valkey", durability=durability) as server, caplog.at_level(logging.WARNING, "actors.stores"):
            await (await RedisStore.open(settings_for(server.url))).aclose()
        assert ("append-only" in caplog.text) is warned
