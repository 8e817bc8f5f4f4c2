"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite."""

from __future__ import annotations

import asyncio
import time
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores.base import MembershipStore, SessionStore


async def open_store(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    """The stores that ``store.url`` names, found fit. Misconfigured says in one sentence what is wrong with it.

    ``memory://`` is for one host alone: nothing survives its process, and no other host can see it.
    """
    scheme = urlsplit(settings.store.url).scheme
    if scheme == "memory":
        return _in_memory(settings)
    if scheme in ("redis", "rediss", "unix"):
        # Imported here, so that whoever only needs the contract doesn't load the client.
        from actors.stores.redis import RedisStore  # noqa: PLC0415

        return await RedisStore.open(settings), open_membership(settings)
    if scheme in EXTRAS:
        return await _open(scheme, settings), open_membership(settings)
    raise Misconfigured(
        f"store.url begins with {scheme or 'nothing'!r}; redis://, rediss://, unix://, dynamodb://, mongodb://,"
        " mongodb+srv:// and memory:// work."
    )


async def unfit_store(settings: Settings) -> str:
    """What has become wrong with the store since it was opened, in one sentence; "" if nothing has."""
    scheme = urlsplit(settings.store.url).scheme
    if scheme == "memory":
        return ""
    if scheme in EXTRAS:
        return await _unfit(scheme, settings)
    from actors.stores.redis_fit import require_fit  # noqa: PLC0415

    try:
        await require_fit(settings.store.url, settings.store.timeout_s, warn=False)
    except Misconfigured as error:
        return error.detail
    return ""


def open_membership(settings: Settings) -> MembershipStore:
    """The membership table alone, for whoever follows it without taking part: the edge. Connects on first use."""
    scheme = urlsplit(settings.store.url).scheme
    if scheme in EXTRAS:
        return _connect(scheme, settings)
    from actors.stores.redis_membership import RedisMembership  # noqa: PLC0415

    # A beat that takes longer than a beat's interval is a missed one, not one to wait for.
    return RedisMembership.connect(settings.store, settings.ring.beat_interval_s)


def _in_memory(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    from actors.stores.memory import MemoryStore  # noqa: PLC0415
    from actors.stores.memory_membership import MemoryMembership  # noqa: PLC0415

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    session = settings.session
    sessions = MemoryStore(now_ms, session.ttl_s, session.tombstone_s, settings.store.page_bytes_max)
    return sessions, MemoryMembership(now_ms)


# --- DynamoDB and MongoDB: their clients come with an extra each --------------------------------------------------

EXTRAS: Final = {
    "dynamodb": ("dynamodb", ("botocore", "aiobotocore")),
    "mongodb": ("mongodb", ("pymongo",)),
    "mongodb+srv": ("mongodb", ("pymongo",)),
}
"""scheme -> (the extra of this package, what it installs)"""


def _require_client(scheme: str) -> str:
    """The extra's name. Misconfigured unless it is installed."""
    extra, modules = EXTRAS[scheme]
    for module in modules:
        if find_spec(module) is None:
            raise Misconfigured(
                f"store.url is for {extra}, whose client isn't installed ({module} is missing):"
                f" install rehydra[{extra}]."
            )
    return extra


async def _open(scheme: str, settings: Settings) -> SessionStore:
    if _require_client(scheme) == "dynamodb":
        from actors.stores.dynamodb.store import DynamoStore  # noqa: PLC0415

        return await DynamoStore.open(settings)
    from actors.stores.mongodb.store import MongoStore  # noqa: PLC0415

    return await MongoStore.open(settings)


def _connect(scheme: str, settings: Settings) -> MembershipStore:
    timeout_s = settings.ring.beat_interval_s
    if _require_client(scheme) == "dynamodb":
        from actors.stores.dynamodb.membership import DynamoMembership  # noqa: PLC0415

        return DynamoMembership.connect(settings.store, timeout_s)
    from actors.stores.mongodb.membership import MongoMembership  # noqa: PLC0415

    return MongoMembership.connect(settings.store, timeout_s)


async def _unfit(scheme: str, settings: Settings) -> str:
    """As ``unfit_store``, from a thread: these clients block."""
    try:
        if _require_client(scheme) == "dynamodb":
            from actors.stores.dynamodb import fit  # noqa: PLC0415

            await asyncio.to_thread(fit.require_fit, settings.store)
        else:
            from actors.stores.mongodb import fit as mongodb_fit  # noqa: PLC0415

            await asyncio.to_thread(mongodb_fit.require_fit, settings.store)
    except Misconfigured as error:
        return error.detail
    return ""
