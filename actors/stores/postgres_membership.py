"""The membership table in PostgreSQL, for a host's beat thread and for the edge.

Blocking, with short time-outs and without repeats: the next beat is the repeat. Every change locks the one row of the
table ``ring``, so two hosts that join, leave or evict at one moment do it one after the other (see ``sql/join.sql``
and its siblings).
"""

from __future__ import annotations

from typing import Final, Self

from actors.model import Beat, BeatReply, HostState, Member, Table
from actors.settings import StoreSettings
from actors.stores.codec import decode_member, encode_member
from actors.stores.postgres_functions import OF_MEMBERSHIP, Answer, Call
from actors.stores.postgres_sync import SyncTransport

BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""


class PostgresMembership:
    """The :class:`~actors.stores.base.MembershipStore` over one connection of its own. Threads may share it."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    @classmethod
    def connect(cls, settings: StoreSettings, timeout_s: float) -> Self:
        """Opens nothing yet. ``timeout_s`` bounds one call: shorter than the time a host may be silent."""
        return cls(SyncTransport(settings, OF_MEMBERSHIP, min(timeout_s, settings.timeout_s)))

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        record = encode_member(Member("", incarnation, address, health_port, weight))
        return self._transport.call(Call("join", (incarnation, record, slots_max), _table))

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        arguments = (incarnation, state.value, address, known_ring_version, BEATS_KEEP_MS)
        return self._transport.call(Call("beat", arguments, _reply))

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        return self._transport.call(Call("leave", (incarnation, gone), _table))

    def evict(self, slot: str, incarnation: str) -> Table:
        return self._transport.call(Call("evict", (slot, incarnation), _table))

    def table(self) -> Table:
        return self._transport.call(Call("table", (), _table))

    def close(self) -> None:
        self._transport.close()


def _table(row: Answer) -> Table:
    members = {slot: decode_member(slot, record) for slot, record in zip(row["slots"], row["records"], strict=True)}
    return Table(row["ring_version"], members)


def _reply(row: Answer) -> BeatReply:
    columns = (row["incarnations"], row["counters"], row["states"], row["addresses"])
    return BeatReply(
        row["ring_version"],
        row["listed"],
        row["waits"],
        {
            incarnation: Beat(counter, HostState(state), address)
            for incarnation, counter, state, address in zip(*columns, strict=True)
        },
        None if row["slots"] is None else _table(row),
    )
