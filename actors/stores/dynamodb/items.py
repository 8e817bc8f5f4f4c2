"""How everything is laid out in the one table: names of items, and what is in them. Pure.

Partition key ``pk``, sort key ``sk``, both strings. ``prefix`` comes first, so that deployments may share a table.

| pk | sk | what |
| --- | --- | --- |
| PREFIX:TENANT:SESSION | ``lease`` | the :class:`~actors.stores.lease_rules.Record` |
| | BORN ``#id#`` DIGEST | a turn id: its turn_seq and fingerprint |
| | BORN ``#state`` | the agent's state, and the turn_seq that wrote it |
| | BORN ``#turn#`` SEQ ``#`` PART | a turn's record, or a part of it: an item has 400 KB at most |
| PREFIX:members | ``roster`` | the membership table |
| | ``beat#`` INCARNATION | a host's last beat |
| PREFIX:schema | ``schema`` | the schema_version in use |

All of one life of a session begins with its ``born``. So what is left of an expired life never gets into the next, in
whatever order things are cleared away, and one query brings state and turns together, in order, without the ids.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from actors.errors import StoreFull
from actors.model import HostRef, SessionKey
from actors.stores.lease_rules import Record

Item = Mapping[str, Mapping[str, Any]]

ITEM_BYTES_MAX: Final = 380_000
"""Of a value in one item, bytes. DynamoDB allows 400 KB with all names and numbers."""
PARTS_MAX: Final = 99
TRANSACTION_BYTES_MAX: Final = 3_900_000
"""Of one commit. DynamoDB allows 4 MB with all names, conditions and numbers."""
EXPIRE_AT: Final = "expire_at"
"""The attribute for DynamoDB's own clearing away (TTL), in seconds. Only what no other item depends on has it."""

LEASE: Final = "lease"
ROSTER: Final = "roster"
SCHEMA: Final = "schema"
BEAT: Final = "beat#"


def number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def text(value: str) -> dict[str, str]:
    return {"S": value}


@cache
def names_in(*expressions: str) -> dict[str, str]:
    """The attribute names behind every ``#name``: half of all words are reserved in DynamoDB's expressions. One answer
    for all who ask: not to be changed."""
    return {f"#{name}": name for name in re.findall(r"#(\w+)", " ".join(expressions))}


def key_of(pk: str, sk: str) -> Item:
    return {"pk": text(pk), "sk": text(sk)}


class Names:
    """Every partition under one ``prefix``, which has no colon."""

    __slots__ = ("members", "prefix", "schema")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.members = f"{prefix}:members"
        self.schema = f"{prefix}:schema"

    def session(self, key: SessionKey) -> str:
        return f"{self.prefix}:{key.tenant}:{key.session_id}"

    def is_session(self, pk: str) -> bool:
        return pk.startswith(f"{self.prefix}:") and pk.count(":") >= 2


# --- what belongs to one life of a session ------------------------------------------------------------------------


def life(born: int) -> str:
    """How the names of all items of that life begin. They sort as numbers do."""
    return f"{born:016d}#"


def born_in(sk: str) -> int:
    """The ``born`` in such a name; 0 if it is another item's."""
    stem, _, rest = sk.partition("#")
    return int(stem) if rest and stem.isdigit() else 0


def id_name(born: int, turn_id: str) -> str:
    # A digest, because a sort key has 1,024 bytes at most, whatever a client chose for an id.
    return f"{life(born)}id#{hashlib.sha256(turn_id.encode()).hexdigest()}"


def state_name(born: int) -> str:
    return f"{life(born)}state"


def turn_name(born: int, turn_seq: int, part: int = 0) -> str:
    return f"{life(born)}turn#{turn_seq:010d}#{part:02d}"


def turn_items(pk: str, born: int, turn_seq: int, record: bytes) -> list[Item]:
    """The items of one turn. StoreFull if it is more than a transaction can carry: nothing was written.

    What doesn't fit into one item is compressed first: talk shrinks to a third.
    """
    packed = len(record) > ITEM_BYTES_MAX
    value = zlib.compress(record) if packed else record
    if len(value) > TRANSACTION_BYTES_MAX:
        raise StoreFull(f"The turn has {len(value)} bytes; DynamoDB takes {TRANSACTION_BYTES_MAX} in one transaction.")
    pieces = [value[at : at + ITEM_BYTES_MAX] for at in range(0, len(value), ITEM_BYTES_MAX)]
    return [
        {
            **key_of(pk, turn_name(born, turn_seq, part)),
            "record": {"B": piece},
            "parts": number(len(pieces)),
            "packed": {"BOOL": packed},
        }
        for part, piece in enumerate(pieces)
    ]


def state_item(pk: str, born: int, turn_seq: int, state: bytes) -> Item:
    """``turn_seq``: of the turn that was committed with it."""
    return {**key_of(pk, state_name(born)), "data": {"B": state}, "turn_seq": number(turn_seq)}


def known_in(item: Item) -> tuple[int, str]:
    """(turn_seq, fingerprint) of a turn id."""
    return int(item["turn_seq"]["N"]), str(item["fingerprint"]["S"])


def records_in(items: Iterable[Item]) -> Iterator[tuple[int, bytes]]:
    """(turn_seq, record) of each whole turn in ``items``, in the order of their names. Torn ones are left out."""
    pieces: list[bytes] = []
    for item in items:
        _, kind, *where = item["sk"]["S"].split("#")
        if kind != "turn":
            continue
        turn_seq, part = map(int, where)
        pieces = [*pieces, item["record"]["B"]] if part else [item["record"]["B"]]
        if part + 1 == int(item["parts"]["N"]) == len(pieces):
            whole = b"".join(pieces)
            yield turn_seq, zlib.decompress(whole) if item["packed"]["BOOL"] else whole


# --- the lease ----------------------------------------------------------------------------------------------------


def lease_item(pk: str, record: Record) -> Item:
    """``expire_at`` only in a tombstone, the rest of whose session is gone: nothing would clear a log away after it."""
    item: dict[str, Mapping[str, Any]] = {
        **key_of(pk, LEASE),
        "schema_version": number(record.schema_version),
        "born": number(record.born),
        "epoch": number(record.epoch),
        "rev": number(record.rev),
        "takeovers": number(record.takeovers),
        "turn_seq": number(record.turn_seq),
        "last_turn_id": text(record.last_turn_id),
        "expires_ms": number(record.expires_ms),
    }
    if record.token:
        item["token"] = text(record.token)
    if record.holder is not None:
        item["incarnation"] = text(record.holder.incarnation)
        item["slot"] = text(record.holder.slot)
        item["address"] = text(record.holder.address)
    if record.running:
        item["running"] = text(record.running)
    if record.suspects:
        item["suspects"] = {"L": [text(turn_id) for turn_id in record.suspects]}
    if record.deleted:
        item["deleted"] = text(record.deleted)
        item[EXPIRE_AT] = number(record.expires_ms // 1000 + 1)
    return item


def record_in(item: Item) -> Record:
    """The record that :func:`lease_item` made."""

    def string(name: str) -> str:
        return str(item[name]["S"]) if name in item else ""

    def integer(name: str) -> int:
        return int(item[name]["N"])

    holder = None
    if "incarnation" in item:
        holder = HostRef(string("incarnation"), string("slot"), string("address"))
    return Record(
        integer("born"),
        integer("epoch"),
        integer("rev"),
        string("token"),
        holder,
        integer("takeovers"),
        string("running"),
        tuple(str(one["S"]) for one in item["suspects"]["L"]) if "suspects" in item else (),
        string("deleted"),
        integer("turn_seq"),
        string("last_turn_id"),
        integer("expires_ms"),
        integer("schema_version"),
    )
