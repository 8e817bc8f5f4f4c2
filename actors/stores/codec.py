"""Turns and members as bytes, with the ``schema_version`` under which they were written.

A turn is ``schema_version 1 · turn_seq 4 · bytes of tenant 1 · tenant · what record.py packs``, little-endian; a member
is a JSON object, and so were turns under schema_version 1, whose records begin with ``{``.

What was written once is readable for ever: ``tests/contract/golden`` holds records of every ``schema_version``.
A newer one than this program knows is refused with :class:`~actors.errors.Misconfigured`, never guessed at. The
tenant stands in the key and again in the record, so that a record under a wrong key is noticed.

This is the hot path (one encoding per turn, a look at every turn of history at a claim): plain bytes, no models.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final

from pydantic_core import from_json, to_json

from actors.errors import Misconfigured
from actors.model import MEMBERS_VERSION, SCHEMA_VERSION, Member, Turn
from actors.record import Records, pack, size_of, unpack
from actors.stores.base import LogDamaged

_HEAD: Final = Struct("<BIB")
_JSON: Final = ord("{")
"""No schema_version will be that."""


def encode_turn(tenant: str, turn: Turn) -> bytes:
    """The record of a turn. ValueError if a text can't be written as UTF-8 (a lone surrogate)."""
    named = tenant.encode()
    return _HEAD.pack(SCHEMA_VERSION, turn.turn_seq, len(named)) + named + pack(turn)


def decode_turn(tenant: str, record: bytes) -> Turn:
    """The turn in ``record``. Misconfigured if it was written by a newer program, or belongs to another tenant."""
    return unpack(*_opened(tenant, record))


def decode_turns(tenant: str, records: Iterable[bytes]) -> Records:
    """The turns in ``records``, in their order, each of them made when it is looked at. Misconfigured as above;
    LogDamaged if they don't follow on each other."""
    packed: list[bytes] = []
    first_seq, named = 1, tenant.encode()
    length = len(named)
    begin = _HEAD.size + length
    for at, record in enumerate(records):
        # Nearly all begin with just these bytes, which spares a look at each of them.
        if packed and record.startswith(_HEAD.pack(SCHEMA_VERSION, first_seq + at, length) + named):
            packed.append(_whole(record[begin:]))
            continue
        found, opened = _opened(tenant, record)
        first_seq = first_seq if packed else found
        if found != first_seq + at:
            raise LogDamaged(f"A log in the store is damaged: turn {found} stands where {first_seq + at} should.")
        packed.append(opened)
    return Records(first_seq, packed)


def _opened(tenant: str, record: bytes) -> tuple[int, bytes]:
    """Its turn_seq, and what ``record.pack`` made of it. LogDamaged if it is no record."""
    try:
        if record[0] == _JSON:
            turn = _from_json(tenant, record)
            return turn.turn_seq, pack(turn)
        if record[0] > SCHEMA_VERSION:
            raise newer_schema("A turn", record[0])
        version, turn_seq, length = _HEAD.unpack_from(record)
        begin = _HEAD.size + length
        if record[_HEAD.size : begin] != tenant.encode():
            raise _foreign(record[_HEAD.size : begin].decode(), tenant)
    except (IndexError, KeyError, struct.error, ValueError) as error:
        raise LogDamaged(f"A record in the store is damaged: {type(error).__name__}: {error}") from error
    if version != SCHEMA_VERSION:
        raise LogDamaged(f"A record in the store is damaged: it says that it has schema_version {version}.")
    return turn_seq, _whole(record[begin:])


def _whole(packed: bytes) -> bytes:
    """What is too long or too short for itself would be read as something else: memory has one after the other."""
    try:
        size_bytes = size_of(packed)
    except (IndexError, struct.error) as error:
        raise LogDamaged("A record in the store is damaged: it ends within its head.") from error
    if size_bytes != len(packed):
        raise LogDamaged(f"A record in the store is damaged: it has {len(packed)} bytes, and says {size_bytes}.")
    return packed


def _from_json(tenant: str, record: bytes) -> Turn:
    """As schema_version 1 had it."""
    fields = from_json(record)
    if fields["tenant"] != tenant:
        raise _foreign(fields["tenant"], tenant)
    return Turn(
        fields["turn_seq"],
        fields["turn_id"],
        fields["fingerprint"],
        fields["message"],
        fields["reply"],
        fields["metadata"],
        fields["epoch"],
        fields["committed_ms"],
    )


def encode_member(member: Member) -> bytes:
    """The record of a slot's holder. The slot itself is where the record stands: only the store knows it."""
    return to_json(
        {
            "schema_version": MEMBERS_VERSION,
            "incarnation": member.incarnation,
            "address": member.address,
            "health_port": member.health_port,
            "weight": member.weight,
        }
    )


def decode_member(slot: str, record: bytes) -> Member:
    """The member in ``record``; ``slot`` is where it stands. Misconfigured if it was written by a newer program."""
    fields: dict[str, Any] = from_json(record)
    if fields["schema_version"] > MEMBERS_VERSION:
        raise newer_schema("A member", fields["schema_version"], MEMBERS_VERSION)
    return Member(slot, fields["incarnation"], fields["address"], fields["health_port"], fields["weight"])


def newer_schema(what: str, found: int, known: int = SCHEMA_VERSION) -> Misconfigured:
    """The refusal to read what a newer program wrote."""
    return Misconfigured(
        f"{what} in the store has schema_version {found}, but this program knows only up to {known}:"
        " start the newer program again, or give this one another store.prefix."
    )


def _foreign(found: str, tenant: str) -> Misconfigured:
    return Misconfigured(f"A turn of tenant {found!r} stands under a key of tenant {tenant!r}.")
