"""The membership table in Redis, for a host's beat thread and for the edge.

Blocking, with short time-outs and without repeats: the next beat is the repeat. Every change is one script, so two
hosts that join, leave or evict at one moment do it one after the other (see ``lua/join.lua`` and its siblings).
"""

from __future__ import annotations

from typing import Self

from actors.model import BeatReply, HostState, Table
from actors.settings import StoreSettings
from actors.stores import membership_scripts as scripts
from actors.stores.keys import Keys
from actors.stores.redis_sync import SyncTransport


class RedisMembership:
    """The :class:`~actors.stores.base.MembershipStore` over one connection of its own. Threads may share it."""

    def __init__(self, transport: SyncTransport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    @classmethod
    def connect(cls, settings: StoreSettings, timeout_s: float) -> Self:
        """Opens nothing yet. ``timeout_s`` bounds one call: shorter than the time a host may be silent."""
        return cls(SyncTransport(settings.url, min(timeout_s, settings.timeout_s)), Keys(settings.prefix))

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        return self._transport.call(scripts.join(self._keys, incarnation, address, health_port, weight, slots_max))

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        return self._transport.call(scripts.beat(self._keys, incarnation, address, state, known_ring_version))

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        return self._transport.call(scripts.leave(self._keys, incarnation, gone))

    def evict(self, slot: str, incarnation: str) -> Table:
        return self._transport.call(scripts.evict(self._keys, slot, incarnation))

    def table(self) -> Table:
        return self._transport.call(scripts.table(self._keys))

    def close(self) -> None:
        self._transport.close()
