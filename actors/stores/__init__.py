"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite.

Each is imported when ``store.url`` means it, so that nobody loads, or has to install, another one's client.
"""

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
from actors.stores.url import halves, is_hybrid

KINDS: Final = {
    "memory": "memory",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "postgresql": "postgres",
    "postgres": "postgres",
    "dynamodb": "dynamodb",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
}
"""scheme of a URL -> the store that it means. A URL of two is a hybrid store's (``url``)."""
EXTRAS: Final = {"postgres": ("asyncpg",), "dynamodb": ("botocore", "aiobotocore"), "mongodb": ("pymongo",)}
"""extra of this package -> the modules that it installs"""


async def open_store(settings: Settings, whole: bool = False) -> tuple[SessionStore, MembershipStore]:
    """The stores that ``store.url`` names, found fit. Misconfigured says in one sentence what is wrong with it.

    ``whole``: also if a part can't be reached that sessions can do without for a while.

    ``memory://`` is for one host alone: nothing survives its process, and no other host can see it.
    """
    kind = _kind(settings)
    if settings.store.ack == "hot" and kind != "hybrid":
        raise Misconfigured("store.ack=hot is for a store.url of hybrid+redis://...+postgresql://... alone.")
    if kind == "memory":
        return _in_memory(settings)
    if not kind:
        raise Misconfigured(
            f"store.url begins with {_scheme(settings) or 'nothing'!r}; redis://, rediss://, unix://, postgresql://,"
            " hybrid+redis://...+postgresql://..., dynamodb://, mongodb://, mongodb+srv:// and memory:// work."
        )
    return await _open(kind, settings, whole), open_membership(settings)


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
    try:
        kind = _kind(settings)
        if kind == "hybrid":
            from actors.stores import hybrid_open  # noqa: PLC0415

            return await hybrid_open.unfit(settings.store)
        if kind != "memory":
            await _require_fit(kind, settings.store)
    except Misconfigured as error:
        return error.detail
    return ""


def open_membership(settings: Settings) -> MembershipStore:
    """The membership table alone, for whoever follows it without taking part: the edge. Connects on first use.

    Misconfigured only for what can be seen without asking the store.
    """
    kind, own = _kind(settings), settings.store
    if kind == "hybrid":
        # Where the leases are: hosts that can have sessions must be on the ring, whether Redis is there or not.
        kind, own = "postgres", own.model_copy(update={"url": halves(own.url)[1]})
    # A beat that takes longer than a beat's interval is a missed one, not one to wait for.
    timeout_s = settings.ring.beat_interval_s
    match kind:
        case "postgres":
            from actors.stores.postgres_membership import PostgresMembership  # noqa: PLC0415

            return PostgresMembership.connect(own, timeout_s)
        case "dynamodb":
            from actors.stores.dynamodb.membership import DynamoMembership  # noqa: PLC0415

            return DynamoMembership.connect(own, timeout_s)
        case "mongodb":
            from actors.stores.mongodb.membership import MongoMembership  # noqa: PLC0415

            return MongoMembership.connect(own, timeout_s)
    from actors.stores.redis_membership import RedisMembership  # noqa: PLC0415

    return RedisMembership.connect(own, timeout_s)


def _scheme(settings: Settings) -> str:
    try:
        return urlsplit(settings.store.url).scheme
    except ValueError as error:
        raise Misconfigured(f"store.url isn't one: {error}") from error


def _kind(settings: Settings) -> str:
    """Which store ``store.url`` means, "" for none. Misconfigured unless that one's client is installed."""
    scheme = _scheme(settings)
    kind = extra = KINDS.get(scheme, "")
    if is_hybrid(scheme):
        halves(settings.store.url)
        kind, extra = "hybrid", "postgres"
    for module in EXTRAS.get(extra, ()):
        if importlib.util.find_spec(module) is None:
            raise Misconfigured(
                f"store.url begins with {scheme!r}, whose client isn't installed ({module} is missing):"
                f" pip install 'rehydra[{extra}]'."
            )
    return kind


async def _open(kind: str, settings: Settings, whole: bool) -> SessionStore:
    match kind:
        case "postgres":
            from actors.stores.postgres import PostgresStore  # noqa: PLC0415

            return await PostgresStore.open(settings)
        case "hybrid":
            from actors.stores.hybrid_open import open_hybrid  # noqa: PLC0415

            return await open_hybrid(settings, whole)
        case "dynamodb":
            from actors.stores.dynamodb.store import DynamoStore  # noqa: PLC0415

            return await DynamoStore.open(settings)
        case "mongodb":
            from actors.stores.mongodb.store import MongoStore  # noqa: PLC0415

            return await MongoStore.open(settings)
    from actors.stores.redis import RedisStore  # noqa: PLC0415

    return await RedisStore.open(settings)


async def _require_fit(kind: str, own: StoreSettings) -> None:
    """Misconfigured unless the store that stands there is fit. Clients that block do so in a thread."""
    match kind:
        case "postgres":
            from actors.stores import postgres_fit  # noqa: PLC0415

            await postgres_fit.require_fit(own.url, own.timeout_s, warn=False)
        case "dynamodb":
            from actors.stores.dynamodb import fit as dynamodb_fit  # noqa: PLC0415

            await asyncio.to_thread(dynamodb_fit.require_fit, own)
        case "mongodb":
            from actors.stores.mongodb import fit as mongodb_fit  # noqa: PLC0415

            await asyncio.to_thread(mongodb_fit.require_fit, own)
        case _:
            from actors.stores import redis_fit  # noqa: PLC0415

            await redis_fit.require_fit(own.url, own.timeout_s, warn=False)


def _in_memory(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    from actors.stores.memory import MemoryStore  # noqa: PLC0415
    from actors.stores.memory_membership import MemoryMembership  # noqa: PLC0415

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    session = settings.session
    sessions = MemoryStore(now_ms, session.ttl_s, session.tombstone_s, settings.store.page_bytes_max)
    return sessions, MemoryMembership(now_ms)
