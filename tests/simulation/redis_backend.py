"""The real scripts on a real server, driven from the simulation over one blocking connection.

``RedisStore`` and ``RedisMembership`` are the production classes. Only the sessions' epochs come from the server's
clock, which runs in its own time; so before a session is born again, that clock must have passed its old epochs, as it
would have in real life.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import redis

from actors.model import SessionKey
from actors.stores.keys import Keys
from actors.stores.redis import RedisStore
from actors.stores.redis_membership import RedisMembership
from actors.stores.redis_sync import SyncTransport
from actors.stores.scripts import Call
from tests.servers import leaked

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

A = TypeVar("A")
TIMEOUT_S = 10.0
TTL_S = TOMBSTONE_S = 1e6
"""Longer than any run: sessions expire when the nemesis says so. But every key must have an expiry."""


class Blocking:
    """A transport that has its answer when it returns."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    async def call(self, call: Call[A]) -> A:
        return self._transport.call(call)

    async def aclose(self) -> None:
        self._transport.close()


class RedisBackend:
    """The stores of one run, on a server that is emptied first."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, protocol=2, socket_timeout=TIMEOUT_S)
        self._client.flushall()
        self._keys = Keys("sim")
        self._transport = SyncTransport(url, TIMEOUT_S)
        self.wire = Blocking(self._transport)
        self.sessions: RedisStore = RedisStore(self.wire, self._keys, TTL_S, TOMBSTONE_S)
        self.members: RedisMembership = RedisMembership(self._transport, self._keys)
        self._kept: dict[bytes, bytes] = {}

    @classmethod
    def on(cls, url: str) -> Callable[[Cluster], RedisBackend]:
        return lambda cluster: cls(url)

    def expire(self, key: SessionKey) -> None:
        names = self._keys.of_session(key)
        self._pass(int(self._client.hget(names[0], "epoch") or 0))  # type: ignore[arg-type]
        self._client.delete(*names)

    def forget(self, key: SessionKey) -> None:
        self._client.delete(*self._keys.of_session(key))

    def snapshot(self) -> None:
        self._kept = {name: self._client.dump(name) for name in self._sessions()}  # type: ignore[misc]

    def restore(self) -> None:
        for name in self._sessions():
            epoch = self._client.hget(name, "epoch") if name.endswith(b":lease") else None
            self._pass(int(epoch or 0))  # type: ignore[arg-type]
            self._client.delete(name)
        for name, packed in self._kept.items():
            self._client.restore(name, int(TTL_S * 1000), packed)

    def close(self) -> list[str]:
        left = leaked(self._client)
        self._transport.close()
        self._client.close()
        return left

    def _sessions(self) -> list[bytes]:
        return sorted(name for name in self._client.scan_iter("sim:*") if b"{members}" not in name)

    def _pass(self, epoch: int) -> None:
        """Wait until the server's clock is beyond ``epoch``: a matter of milliseconds."""
        while True:
            seconds, micros = self._client.time()  # type: ignore[misc]
            if seconds * 1000 + micros // 1000 > epoch:
                return
            time.sleep(0.001)
