"""Every store, one after the other; after every test no key may have leaked.

A server is started once per kind and run; tests keep apart by their prefix. A kind that isn't on this machine skips at
home and fails in CI.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from actors.stores.base import MembershipStore, SessionStore
from tests.contract.dynamodb_lab import ENVIRONMENT, DynamoLab
from tests.contract.hybrid_lab import HybridLab
from tests.contract.lab import Lab, MemoryLab, RedisLab
from tests.contract.mongodb_lab import MongoLab
from tests.contract.postgres_lab import PostgresLab
from tests.emulators import KINDS as EMULATORS
from tests.emulators import Emulator
from tests.postgres_server import PostgresServer, start_postgres
from tests.servers import Server, ServerMissing, in_ci

SERVERS = ("valkey", "redis", *(("remote",) if os.environ.get("REDIS_URL") else ()))
MONGODB = ("mongomock", *(("mongodb",) if os.environ.get("TEST_MONGODB_URI") else ()))
DYNAMODB = EMULATORS if os.environ.get("TEST_MOTO") else ("ministack",)
HYBRIDS = ("hybrid-durable", "hybrid-hot")
LABS = ("memory", *SERVERS, "postgres", *HYBRIDS, *DYNAMODB, *MONGODB)
"""Under the whole suite. moto takes minutes for it, so it is only there if asked for; without that it has the tests of
DynamoDB's own (``test_dynamodb*``) and the histories of ``test_any_order``."""


@pytest.fixture(scope="session")
def server_url() -> Iterator[Callable[[str], str]]:
    """kind -> URL of a server of that kind, started on first use."""
    started: dict[str, Server | PostgresServer | Emulator] = {}

    def url(kind: str) -> str:
        if kind == "remote":
            return os.environ["REDIS_URL"]
        if kind not in started:
            started[kind] = _start(kind)
        return started[kind].url

    try:
        yield url
    finally:
        for server in started.values():
            server.stop()


def _start(kind: str) -> Server | PostgresServer | Emulator:
    if kind == "postgres":
        return start_postgres()
    return Emulator(kind).start() if kind in EMULATORS else start(kind)


def start(kind: str, **options: Any) -> Server:
    """A running server of that kind, or skip (at home), or fail (in CI)."""
    try:
        server = Server(kind, **options)
    except ServerMissing as missing:
        if in_ci():
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    try:
        return server.start()
    except BaseException:
        server.stop()
        raise


@pytest.fixture(scope="session", autouse=True)
def _nobodys_credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield


def lab_of(kind: str, server_url: Callable[[str], str]) -> Lab:
    """A new lab of that kind."""
    if kind == "memory":
        return MemoryLab()
    if kind in HYBRIDS:
        return HybridLab(kind.removeprefix("hybrid-"), server_url("valkey"), server_url("postgres"))
    if kind == "postgres":
        return PostgresLab(server_url(kind))
    if kind in EMULATORS:
        return DynamoLab(kind, server_url(kind))
    if kind in MONGODB:
        return MongoLab(kind, os.environ.get("TEST_MONGODB_URI", ""))
    return RedisLab(kind, server_url(kind))


@pytest_asyncio.fixture(params=LABS)
async def lab(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> AsyncIterator[Lab]:
    """Each store in turn."""
    lab = lab_of(request.param, server_url)
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest_asyncio.fixture(params=SERVERS)
async def redis_lab(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> AsyncIterator[RedisLab]:
    """Each Redis server in turn."""
    lab = RedisLab(request.param, server_url(request.param))
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest_asyncio.fixture(params=EMULATORS)
async def dynamo_lab(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> AsyncIterator[DynamoLab]:
    """Each stand-in for DynamoDB in turn."""
    lab = DynamoLab(request.param, server_url(request.param))
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest_asyncio.fixture(params=MONGODB)
async def mongo_lab(request: pytest.FixtureRequest) -> AsyncIterator[MongoLab]:
    """mongomock, and a real MongoDB if one is named."""
    lab = MongoLab(request.param, os.environ.get("TEST_MONGODB_URI", ""))
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest.fixture(params=[kind for kind in SERVERS if kind != "remote"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for one test alone, which may flush, freeze or kill it."""
    server = start(request.param)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def _one_postgres() -> Iterator[PostgresServer]:
    server = start_postgres()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_postgres(_one_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL that this test may freeze or kill; the next one in its module finds it running again."""
    yield _one_postgres
    _one_postgres.revive()


@pytest_asyncio.fixture
async def own_lab(own_server: Server) -> AsyncIterator[RedisLab]:
    """A lab on a server that this test may break. Calls time out after 0.5 s."""
    lab = RedisLab(own_server.kind, own_server.url)
    lab.settings = lab.settings.model_copy(update={"timeout_s": 0.5})
    try:
        yield lab
    finally:
        await lab.aclose()


@pytest.fixture
def store(lab: Lab) -> SessionStore:
    return lab.store()


@pytest.fixture
def membership(lab: Lab) -> MembershipStore:
    return lab.membership()
