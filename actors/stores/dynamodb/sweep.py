"""Clearing away what has expired: ``python -m deploy.sweep``, once a day or so, from one machine.

DynamoDB can delete items by itself at a moment that stands in each (TTL). For a session that won't do: its moment moves
on with every turn, and so would have to be written anew into every item of its log. So the items of a log have none.
Expired sessions can't be seen by hosts from their moment on; this takes them off the bill, a day later, so that no
difference between clocks matters. It also takes what a delete left behind whose host died.

It may run at any time, beside hosts, and more than once at one time: it deletes items of lives that have ended, which
nobody reads any more, and a lease only if it is still the one that was read. Reading the table costs half a unit for
every 4 KB of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from actors.stores.dynamodb import items
from actors.stores.dynamodb.errors import Contested
from actors.stores.dynamodb.log import clear
from actors.stores.dynamodb.transport import Transport
from actors.stores.lease_rules import Record

AFTER_MS: Final = 86_400_000
"""How long a session must have expired."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was looked at and what was deleted, in items."""

    seen: int = 0
    deleted: int = 0


async def sweep(transport: Transport, prefix: str, now_ms: int) -> Swept:
    """Go through the whole table once. StoreUnavailable: it was broken off; what is left is found the next time."""
    names = items.Names(prefix)
    scan: dict[str, Any] = {"TableName": transport.table, "ProjectionExpression": "pk, sk"}
    seen = deleted = 0
    while True:
        page = await transport.call("scan", **scan)
        for pk, found in groupby(page["Items"], lambda item: str(item["pk"]["S"])):
            if names.is_session(pk):
                deleted += await _sweep_session(transport, pk, list(found), now_ms)
        seen += len(page["Items"])
        if "LastEvaluatedKey" not in page:
            return Swept(seen, deleted)
        scan["ExclusiveStartKey"] = page["LastEvaluatedKey"]


async def _sweep_session(transport: Transport, pk: str, found: list[items.Item], now_ms: int) -> int:
    """How many of these items were deleted. The lease is read after them: a life that begins later isn't among them."""
    key = items.key_of(pk, items.LEASE)
    answer = await transport.call("get_item", TableName=transport.table, Key=key, ConsistentRead=True)
    record = items.record_in(answer["Item"]) if "Item" in answer else None
    over = record is not None and record.expired(now_ms - AFTER_MS)
    ended = record is None or over or record.deleted
    alive = 0 if record is None else record.born
    gone = [item for item in found if (born := items.born_in(item["sk"]["S"])) and (ended or born < alive)]
    await clear(transport, gone)
    if record is None or not over or all(item["sk"]["S"] != items.LEASE for item in found):
        return len(gone)
    return len(gone) + await _drop(transport, key, record)


async def _drop(transport: Transport, key: items.Item, record: Record) -> int:
    """Delete the lease, unless the session has begun again."""
    try:
        await transport.call(
            "delete_item",
            TableName=transport.table,
            Key=key,
            ConditionExpression="rev = :rev",
            ExpressionAttributeValues={":rev": items.number(record.rev)},
        )
    except Contested:
        return 0
    return 1
