"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Final
from urllib.parse import urlsplit

from actors.errors import Misconfigured
from actors.settings import Settings, StoreSettings
from actors.stores.base import MembershipStore, SessionStore
from actors.stores.guard import SPARE_S, Guard, MemoryGuard

CLIENTS: Final = {
    "postgresql": ("postgres", ("asyncpg",)),
    "postgres": ("postgres", ("asyncpg",)),
    "dynamodb": ("dynamodb", ("botocore", "aiobotocore")),
    "mongodb": ("mongodb", ("pymongo",)),
    "mongodb+srv": ("mongodb", ("pymongo",)),
}
"""scheme of a URL -> (the extra of this package that it takes, the modules that this installs)"""


async def open_store(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    """The stores that ``store.url`` names, found fit. Misconfigured says in one sentence what is wrong with it.

    ``memory://`` is for one host alone: nothing survives its process, and no other host can see it.
    """
    scheme = _scheme(settings)
    if scheme == "memory":
        return _in_memory(settings)
    if scheme in ("redis", "rediss", "unix"):
        # Imported here, so that whoever only needs the contract doesn't load the client.
        from actors.stores.redis import RedisStore  # noqa: PLC0415

        return await RedisStore.open(settings), open_membership(settings)
    if scheme in CLIENTS:
        return await _open(_require_client(scheme), settings), open_membership(settings)
    raise Misconfigured(
        f"store.url begins with {scheme or 'nothing'!r}; redis://, rediss://, unix://, postgresql://, dynamodb://,"
        " mongodb://, mongodb+srv:// and memory:// work."
    )


async def open_guard(settings: Settings) -> Guard | None:
    """The replay guard that ``sealed.guard`` names, found fit; None if it is off. Misconfigured as ``open_store``."""
    guard = settings.sealed.guard
    if not guard:
        return None
    url = settings.store.url if guard == "store" else guard
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        ttl_s = settings.sealed.ttl_s + SPARE_S
        return MemoryGuard(lambda: time.time_ns() // 1_000_000, ttl_s, settings.sealed.guard_answer_s)
    if scheme not in ("redis", "rediss", "unix"):
        said = guard.partition(":")[0]
        raise Misconfigured(f"sealed.guard is {said!r}: it takes a redis:// URL, or `store` where store.url is one.")
    from actors.stores.redis_guard import RedisGuard  # noqa: PLC0415

    return await RedisGuard.open(settings, url)


async def unfit_store(settings: Settings) -> str:
    """What has become wrong with the store since it was opened, in one sentence; "" if nothing has."""
    scheme = _scheme(settings)
    if scheme == "memory":
        return ""
    try:
        await _require_fit(_require_client(scheme) if scheme in CLIENTS else "redis", settings.store)
    except Misconfigured as error:
        return error.detail
    return ""


def open_membership(settings: Settings) -> MembershipStore:
    """The membership table alone, for whoever follows it without taking part: the edge. Connects on first use.

    Misconfigured only for what can be seen without asking the store.
    """
    scheme = _scheme(settings)
    # A beat that takes longer than a beat's interval is a missed one, not one to wait for.
    timeout_s = settings.ring.beat_interval_s
    if scheme in CLIENTS:
        return _connect(_require_client(scheme), settings, timeout_s)
    from actors.stores.redis_membership import RedisMembership  # noqa: PLC0415

    return RedisMembership.connect(settings.store, timeout_s)


def _scheme(settings: Settings) -> str:
    try:
        return urlsplit(settings.store.url).scheme
    except ValueError as error:
        raise Misconfigured(f"store.url isn't one: {error}") from error


def _in_memory(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    from actors.stores.memory import MemoryStore  # noqa: PLC0415
    from actors.stores.memory_membership import MemoryMembership  # noqa: PLC0415

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    session = settings.session
    sessions = MemoryStore(now_ms, session.ttl_s, session.tombstone_s, settings.store.page_bytes_max)
    return sessions, MemoryMembership(now_ms)


# --- stores whose clients come with an extra each: imported when they are meant -----------------------------------


def _require_client(scheme: str) -> str:
    """The extra's name. Misconfigured unless it is installed."""
    extra, modules = CLIENTS[scheme]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Misconfigured(
                f"store.url begins with {scheme!r}, whose client isn't installed ({module} is missing):"
                f" pip install 'rehydra[{extra}]'."
            )
    return extra


async def _open(extra: str, settings: Settings) -> SessionStore:
    match extra:
        case "postgres":
            from actors.stores.postgres import PostgresStore  # noqa: PLC0415

            return await PostgresStore.open(settings)
        case "dynamodb":
            from actors.stores.dynamodb.store import DynamoStore  # noqa: PLC0415

            return await DynamoStore.open(settings)
    from actors.stores.mongodb.store import MongoStore  # noqa: PLC0415

    return await MongoStore.open(settings)


def _connect(extra: str, settings: Settings, timeout_s: float) -> MembershipStore:
    match extra:
        case "postgres":
            from actors.stores.postgres_membership import PostgresMembership  # noqa: PLC0415

            return PostgresMembership.connect(settings.store, timeout_s)
        case "dynamodb":
            from actors.stores.dynamodb.membership import DynamoMembership  # noqa: PLC0415

            return DynamoMembership.connect(settings.store, timeout_s)
    from actors.stores.mongodb.membership import MongoMembership  # noqa: PLC0415

    return MongoMembership.connect(settings.store, timeout_s)


async def _require_fit(kind: str, own: StoreSettings) -> None:
    """Misconfigured unless the store that stands there is fit. Clients that block do so in a thread."""
    match kind:
        case "redis":
            from actors.stores import redis_fit  # noqa: PLC0415

            await redis_fit.require_fit(own.url, own.timeout_s, warn=False)
        case "postgres":
            from actors.stores import postgres_fit  # noqa: PLC0415

            await postgres_fit.require_fit(own.url, own.timeout_s, warn=False)
        case "dynamodb":
            from actors.stores.dynamodb import fit as dynamodb_fit  # noqa: PLC0415

            await asyncio.to_thread(dynamodb_fit.require_fit, own)
        case _:
            from actors.stores.mongodb import fit as mongodb_fit  # noqa: PLC0415

            await asyncio.to_thread(mongodb_fit.require_fit, own)
