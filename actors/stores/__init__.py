"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite."""

from __future__ import annotations

import importlib.util
import time
from typing import Final
from urllib.parse import urlsplit

from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores.base import MembershipStore, SessionStore
from actors.stores.url import halves, is_hybrid

POSTGRES: Final = ("postgresql", "postgres")
"""Schemes of a URL that mean PostgreSQL."""


async def open_store(settings: Settings, whole: bool = False) -> tuple[SessionStore, MembershipStore]:
    """The stores that ``store.url`` names, found fit. Misconfigured says in one sentence what is wrong with it.

    ``whole``: also if a part can't be reached that sessions can do without for a while.

    ``memory://`` is for one host alone: nothing survives its process, and no other host can see it.
    """
    scheme = _scheme(settings)
    if settings.store.ack == "hot" and not is_hybrid(scheme):
        raise Misconfigured("store.ack=hot is for a store.url of hybrid+redis://...+postgresql://... alone.")
    if scheme == "memory":
        return _in_memory(settings)
    if scheme in ("redis", "rediss", "unix"):
        # Imported here, so that whoever only needs the contract doesn't load the client.
        from actors.stores.redis import RedisStore  # noqa: PLC0415

        return await RedisStore.open(settings), open_membership(settings)
    if scheme in POSTGRES:
        _require_asyncpg()
        from actors.stores.postgres import PostgresStore  # noqa: PLC0415

        return await PostgresStore.open(settings), open_membership(settings)
    if is_hybrid(scheme):
        halves(settings.store.url)
        _require_asyncpg()
        from actors.stores.hybrid_open import open_hybrid  # noqa: PLC0415

        return await open_hybrid(settings, whole), open_membership(settings)
    raise Misconfigured(
        f"store.url begins with {scheme or 'nothing'!r};"
        " redis://, rediss://, unix://, postgresql://, hybrid+redis://...+postgresql://... and memory:// work."
    )


async def unfit_store(settings: Settings) -> str:
    """What has become wrong with the store since it was opened, in one sentence; "" if nothing has."""
    scheme = _scheme(settings)
    if scheme == "memory":
        return ""
    if is_hybrid(scheme):
        from actors.stores.hybrid_open import unfit  # noqa: PLC0415

        return await unfit(settings.store)
    if scheme in POSTGRES:
        from actors.stores.postgres_fit import require_fit  # noqa: PLC0415
    else:
        from actors.stores.redis_fit import require_fit  # noqa: PLC0415
    try:
        await require_fit(settings.store.url, settings.store.timeout_s, warn=False)
    except Misconfigured as error:
        return error.detail
    return ""


def open_membership(settings: Settings) -> MembershipStore:
    """The membership table alone, for whoever follows it without taking part: the edge. Connects on first use.

    Misconfigured only for what can be seen without asking the store.
    """
    # A beat that takes longer than a beat's interval is a missed one, not one to wait for.
    scheme, own = _scheme(settings), settings.store
    if is_hybrid(scheme):
        # Where the leases are: hosts that can have sessions must be on the ring, whether Redis is there or not.
        own = own.model_copy(update={"url": halves(own.url)[1]})
    if is_hybrid(scheme) or scheme in POSTGRES:
        _require_asyncpg()
        from actors.stores.postgres_membership import PostgresMembership  # noqa: PLC0415

        return PostgresMembership.connect(own, settings.ring.beat_interval_s)
    from actors.stores.redis_membership import RedisMembership  # noqa: PLC0415

    return RedisMembership.connect(settings.store, settings.ring.beat_interval_s)


def _scheme(settings: Settings) -> str:
    try:
        return urlsplit(settings.store.url).scheme
    except ValueError as error:
        raise Misconfigured(f"store.url isn't one: {error}") from error


def _require_asyncpg() -> None:
    if importlib.util.find_spec("asyncpg") is None:
        raise Misconfigured(
            "store.url names PostgreSQL, and its client isn't installed: pip install 'rehydra[postgres]'."
        )


def _in_memory(settings: Settings) -> tuple[SessionStore, MembershipStore]:
    from actors.stores.memory import MemoryStore  # noqa: PLC0415
    from actors.stores.memory_membership import MemoryMembership  # noqa: PLC0415

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    session = settings.session
    sessions = MemoryStore(now_ms, session.ttl_s, session.tombstone_s, settings.store.page_bytes_max)
    return sessions, MemoryMembership(now_ms)
