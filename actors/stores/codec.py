"""Turns and members as bytes: one JSON object each, with the ``schema_version`` under which it was written.

What was written once is readable for ever: ``tests/contract/golden`` holds records of every ``schema_version``.
A newer one than this program knows is refused with :class:`~actors.errors.Misconfigured`, never guessed at. The
tenant stands in the key and again in the record, so that a record under a wrong key is noticed.

This is the hot path (one encoding per turn, a decoding per turn of history at a claim): plain dicts, no models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json, to_json

from actors.errors import Misconfigured
from actors.model import SCHEMA_VERSION, Member, Turn


def encode_turn(tenant: str, turn: Turn) -> bytes:
    """The record of a turn. ValueError if a text can't be written as UTF-8 (a lone surrogate)."""
    return to_json(
        {
            "schema_version": SCHEMA_VERSION,
            "tenant": tenant,
            "turn_seq": turn.turn_seq,
            "turn_id": turn.turn_id,
            "fingerprint": turn.fingerprint,
            "message": turn.message,
            "reply": turn.reply,
            "metadata": turn.metadata,
            "epoch": turn.epoch,
            "committed_ms": turn.committed_ms,
        }
    )


def decode_turn(tenant: str, record: bytes) -> Turn:
    """The turn in ``record``. Misconfigured if it was written by a newer program, or belongs to another tenant."""
    fields = from_json(record)
    if fields["schema_version"] > SCHEMA_VERSION:
        raise newer_schema("A turn", fields["schema_version"])
    if fields["tenant"] != tenant:
        raise Misconfigured(f"A turn of tenant {fields['tenant']!r} stands under a key of tenant {tenant!r}.")
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


def decode_turns(tenant: str, records: Iterable[bytes]) -> tuple[Turn, ...]:
    """The turns in ``records``, in their order."""
    return tuple([decode_turn(tenant, record) for record in records])


def encode_member(member: Member) -> bytes:
    """The record of a slot's holder. The slot itself is where the record stands: only the store knows it."""
    return to_json(
        {
            "schema_version": SCHEMA_VERSION,
            "incarnation": member.incarnation,
            "address": member.address,
            "health_port": member.health_port,
            "weight": member.weight,
        }
    )


def decode_member(slot: str, record: bytes) -> Member:
    """The member in ``record``; ``slot`` is where it stands. Misconfigured if it was written by a newer program."""
    fields: dict[str, Any] = from_json(record)
    if fields["schema_version"] > SCHEMA_VERSION:
        raise newer_schema("A member", fields["schema_version"])
    return Member(slot, fields["incarnation"], fields["address"], fields["health_port"], fields["weight"])


def newer_schema(what: str, found: int) -> Misconfigured:
    """The refusal to read what a newer program wrote."""
    return Misconfigured(
        f"{what} in the store has schema_version {found}, but this program knows only up to {SCHEMA_VERSION}:"
        " start the newer program again, or give this one another store.prefix."
    )
