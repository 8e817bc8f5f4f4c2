"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores.base import MembershipStore, SessionStore
from actors.stores.guard import SPARE_S, Guard, MemoryGuard


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
    raise Misconfigured(
        f"store.url begins with {scheme or 'nothing'!r}; redis://, rediss://, unix:// and memory:// work."
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
    if urlsplit(settings.store.url).scheme == "memory":
        return ""
    from actors.stores.redis_fit import require_fit  # noqa: PLC0415

    try:
        await require_fit(settings.store.url, settings.store.timeout_s, warn=False)
    except Misconfigured as error:
        return error.detail
    return ""


def open_membership(settings: Settings) -> MembershipStore:
    """The membership table alone, for whoever follows it without taking part: the edge. Connects on first use."""
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
