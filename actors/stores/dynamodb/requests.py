"""The writes of a session as requests: what is written, and on which condition. Pure."""

from __future__ import annotations

from typing import Any, Final

from actors.model import Lease, Turn
from actors.stores.dynamodb import items
from actors.stores.lease_rules import Record

Request = dict[str, Any]

CURRENT: Final = (
    "#born = :born AND #epoch = :epoch AND #token = :token AND #turn_seq = :before AND #last_turn_id = :previous"
    " AND attribute_not_exists(#deleted) AND (#expires_ms = :zero OR #expires_ms > :now)"
)
"""The lease is the caller's, and its log is the store's."""
APPENDED: Final = (
    "SET #turn_seq = :turn_seq, #last_turn_id = :turn_id, #takeovers = :zero, #expires_ms = :expires_ms ADD #rev :one"
)
UNCHANGED: Final = "#rev = :rev"
NEW: Final = "attribute_not_exists(#pk)"


def write_record(table: str, pk: str, found: Record | None, after: Record) -> Request:
    """``put_item``: ``after`` in the place of ``found``, if that is still what stands there."""
    condition = NEW if found is None else UNCHANGED
    request: Request = {
        "TableName": table,
        "Item": items.lease_item(pk, after),
        "ConditionExpression": condition,
        "ExpressionAttributeNames": items.names_in(condition),
    }
    if found is not None:
        request["ExpressionAttributeValues"] = {":rev": items.number(found.rev)}
    return request


def append_turn(
    table: str,
    pk: str,
    lease: Lease,
    previous_turn_id: str,
    turn: Turn,
    record: bytes,
    state: bytes | None,
    now_ms: int,
    expires_ms: int,
) -> Request:
    """``transact_write_items``: the lease moves on, the id is known, the turn is in the log; all or nothing.

    StoreFull if it is more than DynamoDB takes.
    """
    update = {
        "TableName": table,
        "Key": items.key_of(pk, items.LEASE),
        "ConditionExpression": CURRENT,
        "UpdateExpression": APPENDED,
        "ExpressionAttributeNames": items.names_in(CURRENT, APPENDED),
        "ExpressionAttributeValues": {
            ":born": items.number(lease.born),
            ":epoch": items.number(lease.epoch),
            ":token": items.text(lease.token),
            ":before": items.number(turn.turn_seq - 1),
            ":previous": items.text(previous_turn_id),
            ":now": items.number(now_ms),
            ":turn_seq": items.number(turn.turn_seq),
            ":turn_id": items.text(turn.turn_id),
            ":expires_ms": items.number(expires_ms),
            ":zero": items.number(0),
            ":one": items.number(1),
        },
    }
    known = {
        **items.key_of(pk, items.id_name(lease.born, turn.turn_id)),
        "turn_seq": items.number(turn.turn_seq),
        "fingerprint": items.text(turn.fingerprint),
    }
    # A turn is never written over, whatever else has gone wrong: a cancelled transaction is seen, a lost turn isn't.
    unseen = {"ConditionExpression": NEW, "ExpressionAttributeNames": items.names_in(NEW)}
    new = [known, *items.turn_items(pk, lease.born, turn.turn_seq, record)]
    puts: list[Request] = [{"TableName": table, "Item": item, **unseen} for item in new]
    if state is not None:
        puts.append({"TableName": table, "Item": items.state_item(pk, lease.born, turn.turn_seq, state)})
    return {"TransactItems": [{"Update": update}, *({"Put": put} for put in puts)]}


def look(table: str, pk: str, born: int, *turn_ids: str) -> Request:
    """``transact_get_items``: the lease, and what is known under these ids in that life, at one moment."""
    wanted = [items.LEASE, *(items.id_name(born, turn_id) for turn_id in turn_ids)]
    return {"TransactItems": [{"Get": {"TableName": table, "Key": items.key_of(pk, sk)}} for sk in wanted]}
