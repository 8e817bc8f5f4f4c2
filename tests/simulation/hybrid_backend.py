"""A hybrid store on a real Redis and a real PostgreSQL, driven from the simulation over one blocking connection each.

All hosts of a run share the one store, as they share what stands in its servers: what is tried here is that its answers
are the contract's in any schedule. Hosts with memories of their own are in ``tests/contract/test_hybrid_chaos.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.model import SessionKey
from actors.settings import SessionSettings, StoreSettings
from actors.stores.hybrid import HybridStore
from actors.stores.postgres_membership import PostgresMembership
from actors.stores.url import halves
from tests.simulation.postgres_backend import TOMBSTONE_S, TTL_S, PostgresBackend
from tests.simulation.redis_backend import RedisBackend
from tests.simulation.store_faults import at_once

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


class HybridBackend:
    """The stores of one run, on servers that are emptied first."""

    def __init__(self, url: str) -> None:
        redis_url, postgres_url = halves(url)
        self._redis, self._postgres = RedisBackend(redis_url), PostgresBackend(postgres_url)
        session = SessionSettings(ttl_s=TTL_S, tombstone_s=TOMBSTONE_S)
        own = StoreSettings(url=url, prefix="sim", ack="hot")
        # Nobody writes in the background, where a step of the simulation would end: commits do, once the lag is there.
        self.sessions: HybridStore = HybridStore(self._redis.wire, self._postgres.wire, session, own, writers=0)
        self.members: PostgresMembership = self._postgres.members

    @classmethod
    def on(cls, url: str) -> Callable[[Cluster], HybridBackend]:
        return lambda cluster: cls(url)

    def expire(self, key: SessionKey) -> None:
        at_once(self.sessions.settle())
        self._postgres.expire(key)
        self._redis.forget(key)

    def snapshot(self) -> None:
        at_once(self.sessions.settle())
        self._postgres.snapshot()
        self._redis.snapshot()

    def restore(self) -> None:
        at_once(self.sessions.settle())
        self._postgres.restore()
        self._redis.restore()

    def close(self) -> list[str]:
        return [*self._postgres.close(), *self._redis.close()]
