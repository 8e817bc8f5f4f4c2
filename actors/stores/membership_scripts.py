"""The membership's Lua scripts as typed functions, beside :mod:`actors.stores.scripts`, which has the sessions'.

Pure, as those are: each function returns a :class:`~actors.stores.scripts.Call` that somebody else sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from actors.model import Beat, BeatReply, HostState, Member, Table
from actors.stores.codec import decode_member, encode_member
from actors.stores.keys import Keys
from actors.stores.scripts import SCRIPTS, Call

BEATS_KEEP_MS: Final = 600_000
"""A host outside of the table that has been silent for this long is forgotten (its process was killed)."""


def join(keys: Keys, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Call[Table]:
    """:meth:`actors.stores.base.MembershipStore.join`."""
    record = encode_member(Member("", incarnation, address, health_port, weight))
    return Call(SCRIPTS["join"], _members(keys), (incarnation, record, slots_max), _table)


def beat(keys: Keys, incarnation: str, address: str, state: HostState, known_ring_version: int) -> Call[BeatReply]:
    """:meth:`actors.stores.base.MembershipStore.beat`."""

    def decode(reply: Any) -> BeatReply:
        ring_version, listed, waits, beats, fields = reply
        return BeatReply(
            ring_version,
            bool(listed),
            bool(waits),
            {incarnation: _beat(line) for incarnation, line in _pairs(beats)},
            None if ring_version == known_ring_version else _table((ring_version, fields)),
        )

    arguments = (incarnation, state.value, address, known_ring_version, BEATS_KEEP_MS)
    return Call(SCRIPTS["beat"], _members(keys), arguments, decode)


def leave(keys: Keys, incarnation: str, gone: bool) -> Call[Table]:
    """:meth:`actors.stores.base.MembershipStore.leave`."""
    return Call(SCRIPTS["leave"], _members(keys), (incarnation, int(gone)), _table)


def evict(keys: Keys, slot: str, incarnation: str) -> Call[Table]:
    """:meth:`actors.stores.base.MembershipStore.evict`."""
    return Call(SCRIPTS["evict"], _members(keys), (slot, incarnation), _table)


def table(keys: Keys) -> Call[Table]:
    """:meth:`actors.stores.base.MembershipStore.table`."""
    return Call(SCRIPTS["table"], _members(keys), (), _table)


def _members(keys: Keys) -> tuple[str, str]:
    return (keys.table, keys.beats)


def _table(reply: Any) -> Table:
    ring_version, fields = reply
    members = {}
    for name, value in _pairs(fields):
        kind, _, slot = name.partition(":")
        if kind == "slot":
            members[slot] = decode_member(slot, value)
    return Table(ring_version, members)


def _beat(line: bytes) -> Beat:
    counter, _, state, address = line.decode().split(" ", 3)
    return Beat(int(counter), HostState(state), address)


def _pairs(flat: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]
