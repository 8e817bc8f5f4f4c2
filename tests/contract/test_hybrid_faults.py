"""A hybrid store while one of its servers is away, and when it comes back; what is wrong with its URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import HostState
from actors.settings import Settings
from actors.stores import open_membership, open_store, unfit_store
from actors.stores.base import Granted, Ok, Replayed
from actors.stores.hybrid import HybridStore
from actors.stores.url import halves, shown
from tests.contract.conftest import start
from tests.contract.hybrid_lab import Host, HybridLab
from tests.contract.lab import BERT, Talk, begin, turn
from tests.contract.test_hybrid import claims, counts, in_postgres, in_redis, until
from tests.postgres_server import PostgresServer
from tests.servers import Durability, Server, free_port


@pytest.fixture
def own_redis() -> Iterator[Server]:
    server = start("valkey", durability=Durability())
    try:
        yield server
    finally:
        server.stop()


@pytest_asyncio.fixture(params=["durable", "hot"])
async def lab(
    request: pytest.FixtureRequest, own_redis: Server, server_url: Callable[[str], str]
) -> AsyncIterator[HybridLab]:
    """On a Redis that may be killed."""
    lab = HybridLab(request.param, own_redis.url, server_url("postgres"), timeout_s=0.5)
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest_asyncio.fixture
async def behind(own_postgres: PostgresServer, server_url: Callable[[str], str]) -> AsyncIterator[HybridLab]:
    """With ``ack=hot``, before a PostgreSQL that may be frozen."""
    lab = HybridLab("hot", server_url("valkey"), own_postgres.url, timeout_s=0.7)
    try:
        yield lab
    finally:
        own_postgres.thaw()
        await lab.aclose()


# --- Redis away -------------------------------------------------------------------------------------------------------


async def test_without_redis_sessions_go_on_and_when_it_is_back_it_follows(lab: HybridLab, own_redis: Server) -> None:
    talk, other = await begin(lab.store(), "a", "b"), await begin(lab.store(), "x")
    await other.release()
    own_redis.kill()
    await talk.say("c", "d")
    assert counts(talk)["degraded"]
    assert in_postgres(lab)[-2:] == ["c", "d"]
    elsewhere = Talk(lab.store(), other.key, BERT)
    assert isinstance(await elsewhere.claim(), Granted)
    await elsewhere.say("y")
    assert await elsewhere.stored() == ["x", "y"]
    own_redis.restart()
    await until(lambda: not counts(talk)["degraded"])
    await talk.say("e")
    await until(lambda: in_redis(lab, talk.key) == 5)
    await talk.say("f", "g")
    assert await Talk(lab.store(), talk.key).stored() == ["a", "b", "c", "d", "e", "f", "g"]
    assert counts(talk)["lost_turns"] == 0


async def test_a_redis_that_hangs_is_waited_for_once(lab: HybridLab, own_redis: Server) -> None:
    talk = await begin(lab.store(), "a", "b")
    own_redis.freeze()
    clock = asyncio.get_running_loop().time
    began_s = clock()
    await talk.say("c", "d", "e", "f")
    assert clock() - began_s < 3 * 0.5
    own_redis.thaw()
    await until(lambda: not counts(talk)["degraded"])
    await talk.say("g")
    assert await talk.stored() == ["a", "b", "c", "d", "e", "f", "g"]


async def test_a_host_that_lives_to_see_redis_go_has_postgresql_know_all(lab: HybridLab, own_redis: Server) -> None:
    """So that others may take its sessions over while Redis is away, if it dies too."""
    host = Host()
    talk = await begin(lab.store(host=host), "a", "b")
    own_redis.kill()
    await talk.say("c")
    idle = await begin(lab.store(host=host), "x")
    host.cut.add("redis")
    await until(lambda: not lab.postgres.sql.fetch("SELECT FROM test.sessions WHERE hot"))
    host.die()
    assert (await claims(lab.store(), talk.key, BERT)).log == ["a", "b", "c"]
    assert (await claims(lab.store(), idle.key, BERT)).log == ["x"]
    own_redis.restart()


async def test_a_commit_that_was_lost_on_its_way_to_redis_is_done_once(lab: HybridLab, own_redis: Server) -> None:
    """I3: Redis does it when it wakes up; PostgreSQL has done it by then."""
    talk = await begin(lab.store(), "a", "b")
    own_redis.freeze()
    assert await talk.commit("c") == Ok()
    own_redis.thaw()
    await until(lambda: not counts(talk)["degraded"])
    assert await talk.store.commit(talk.key, talk.lease, "b", turn(3, "c"), None) == Replayed(turn(3, "c"))
    await talk.say("d")
    assert await talk.stored() == ["a", "b", "c", "d"]


# --- PostgreSQL away --------------------------------------------------------------------------------------------------


async def test_hot_turns_go_on_without_postgresql_until_the_lag_is_at_its_bound(
    behind: HybridLab, own_postgres: PostgresServer
) -> None:
    talk = await begin(behind.store(lag_max_s=0.4), "a")
    own_postgres.freeze()
    await talk.say("b", "c")
    assert counts(talk)["lag_turns"] == 2
    await until(lambda: counts(talk)["lag_s"] > 0.4)
    with pytest.raises(StoreUnavailable):
        await talk.commit("d")
    own_postgres.thaw()
    await until(lambda: counts(talk)["lag_turns"] == 0)
    assert counts(talk)["lag_s"] == 0.0
    await talk.say("d", "e")
    await behind.settle()
    assert in_postgres(behind) == ["a", "b", "c", "d", "e"]


async def test_a_durable_turn_is_not_confirmed_without_postgresql(
    own_postgres: PostgresServer, server_url: Callable[[str], str]
) -> None:
    lab = HybridLab("durable", server_url("valkey"), own_postgres.url, timeout_s=0.7)
    talk = await begin(lab.store(), "a")
    own_postgres.freeze()
    with pytest.raises(StoreUnavailable):
        await talk.commit("b")
    own_postgres.thaw()
    answer = await talk.store.commit(talk.key, talk.lease, "a", turn(2, "b"), None)
    assert answer in (Ok(), Replayed(turn(2, "b")))
    assert await talk.stored() == ["a", "b"]
    await lab.aclose()


async def test_what_a_killed_postgresql_had_not_confirmed_is_brought_again(
    behind: HybridLab, own_postgres: PostgresServer
) -> None:
    talk = await begin(behind.store(), "a")
    own_postgres.kill()
    await talk.say("b", "c", "d")
    own_postgres.restart()
    behind.postgres.sql.close()
    await until(lambda: counts(talk)["lag_turns"] == 0)
    assert await talk.stored() == ["a", "b", "c", "d"]


# --- settings and URL -------------------------------------------------------------------------------------------------


def settings_for(url: str, **store: Any) -> Settings:
    return Settings.load({"store": {"url": url, "timeout_s": 0.5, "prefix": "test", **store}})


async def refusal(url: str, **store: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        await open_store(settings_for(url, **store))
    assert "secret" not in refused.value.detail and "\n" not in refused.value.detail
    return refused.value.detail


@pytest.mark.parametrize(
    "wrong",
    [
        "hybrid+redis://u:secret@h/0",
        "hybrid+postgresql://u:secret@h/x+redis://h/0",
        "hybrid+redis://h/0+mysql://u:secret@h/x",
        "hybrid+redis://h/0,postgresql://u:secret@h/x",
        "hybrid://h",
    ],
)
async def test_a_url_that_does_not_name_both_is_said(wrong: str) -> None:
    assert "store.url begins with" in await refusal(wrong)


async def test_each_half_is_judged_by_itself(server_url: Callable[[str], str]) -> None:
    redis, postgres = server_url("valkey"), server_url("postgres")
    assert "doesn't let us in" in await refusal(f"hybrid+{redis}+{postgres.replace('a%20secret', 'wrong-secret')}")
    assert "can't be reached" in await refusal(f"hybrid+{redis}+postgresql://127.0.0.1:{free_port()}/x")
    secured = redis.replace("redis://", "redis://:wrong-secret@")
    assert "doesn't let us in" in await refusal(f"hybrid+{secured}+{postgres}")
    assert "store.ack=hot" in await refusal(postgres, ack="hot")


async def test_a_host_starts_while_redis_is_away(server_url: Callable[[str], str]) -> None:
    settings = settings_for(f"hybrid+redis://127.0.0.1:{free_port()}/0+{server_url('postgres')}")
    store, _ = await open_store(settings)
    assert isinstance(store, HybridStore)
    assert store.stats()["degraded"]
    assert await unfit_store(settings) == ""
    with pytest.raises(Misconfigured, match="can't be reached"):
        await open_store(settings, whole=True)
    talk = await begin(store, "a")
    assert await talk.stored() == ["a"]
    await store.delete(talk.key, "k:delete")
    await store.aclose()


async def test_membership_is_where_the_leases_are(server_url: Callable[[str], str]) -> None:
    """Redis away takes no host off the ring."""
    membership = open_membership(settings_for(f"hybrid+redis://127.0.0.1:{free_port()}/0+{server_url('postgres')}"))
    membership.join("inc-1", "127.0.0.1:1", 2, 1, 64)
    assert membership.beat("inc-1", "127.0.0.1:1", HostState.SERVING, -1).listed
    membership.leave("inc-1", gone=True)
    membership.close()


def test_a_url_is_shown_without_its_passwords() -> None:
    url = "hybrid+redis://:one@r:1/0+postgresql://user:two@p/x?sslmode=require"
    assert halves(url) == ("redis://:one@r:1/0", "postgresql://user:two@p/x?sslmode=require")
    assert shown(url) == "hybrid+redis://r:1/0+postgresql://p/x"
