"""The turns and the state of sessions, read in pages as DynamoDB gives them out: a megabyte a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.errors import StoreUnavailable
from actors.model import Checkpoint, SessionKey, Turn
from actors.stores.codec import decode_turn, decode_turns
from actors.stores.dynamodb import items
from actors.stores.dynamodb.transport import Transport
from actors.stores.lease_rules import Record

DELETES_MAX = 25
"""Items in one request to delete, as DynamoDB has it."""


class Log:
    """What belongs to the lives of sessions beside their leases. None of it says whether it still counts."""

    def __init__(self, transport: Transport, names: items.Names) -> None:
        self._transport = transport
        self._names = names

    async def load(self, key: SessionKey, record: Record, window: int | None) -> Checkpoint | None:
        """The state, and all turns that ``record`` counts, or the last ``window`` of them. None: they aren't what it
        counts."""
        if not record.turn_seq:
            return Checkpoint()
        before = max(0, record.turn_seq - window) if window else 0
        first, last = items.state_name(record.born), items.turn_name(record.born, record.turn_seq, items.PARTS_MAX)
        if before:  # The state's name comes before all turns'.
            found = await self._query(key, first, first)
            found += await self._query(key, items.turn_name(record.born, before + 1), last)
        else:
            found = await self._query(key, first, last)
        state, written = b"", 0
        if found and found[0]["sk"]["S"] == first:
            state, written = found[0]["data"]["B"], int(found[0]["turn_seq"]["N"])
        records = [one for _, one in items.records_in(found)]
        if written > record.turn_seq or len(records) != record.turn_seq - before:
            return None
        return Checkpoint(decode_turns(key.tenant, records), state)

    async def page(self, key: SessionKey, born: int, after: int, last: int, bytes_max: int) -> Sequence[Turn] | None:
        """Turns ``after`` to ``last``, fewer if their records have more than ``bytes_max``. None: some are missing."""
        first = items.turn_name(born, after + 1)
        found = await self._query(key, first, items.turn_name(born, last, items.PARTS_MAX), bytes_max)
        page: list[bytes] = []
        size_bytes = 0
        for turn_seq, record in items.records_in(found):
            size_bytes += len(record)
            if page and size_bytes > bytes_max:
                break
            if turn_seq != after + len(page) + 1:
                return None
            page.append(record)
        return decode_turns(key.tenant, page) or None

    async def turn(self, key: SessionKey, born: int, turn_seq: int) -> Turn | None:
        """One that was known to be there; None: it is gone."""
        first, last = items.turn_name(born, turn_seq), items.turn_name(born, turn_seq, items.PARTS_MAX)
        for _, record in items.records_in(await self._query(key, first, last)):
            return decode_turn(key.tenant, record)
        return None

    async def clear(self, key: SessionKey, born: int) -> None:
        """Take away all of a life that nobody can see any more."""
        await clear(
            self._transport, await self._query(key, items.life(born), items.life(born) + "~", projection="pk, sk")
        )

    async def _query(
        self, key: SessionKey, first: str, last: str, bytes_max: int | None = None, projection: str = ""
    ) -> list[items.Item]:
        """The session's items from one name to another; those after ``bytes_max`` of records may be left out."""
        request: dict[str, Any] = {
            "TableName": self._transport.table,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": {
                ":pk": items.text(self._names.session(key)),
                ":first": items.text(first),
                ":last": items.text(last),
            },
            "ConsistentRead": True,
        }
        if projection:
            request["ProjectionExpression"] = projection
        found: list[items.Item] = []
        size_bytes = 0
        while True:
            answer = await self._transport.call("query", **request)
            found += answer["Items"]
            size_bytes += sum(len(item["record"]["B"]) for item in answer["Items"] if "record" in item)
            if "LastEvaluatedKey" not in answer or (bytes_max is not None and size_bytes > bytes_max):
                return found
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


async def clear(transport: Transport, gone: list[items.Item]) -> None:
    """Delete these items. StoreUnavailable if the store deletes only some of them."""
    for at in range(0, len(gone), DELETES_MAX):
        deletes = [
            {"DeleteRequest": {"Key": {"pk": item["pk"], "sk": item["sk"]}}} for item in gone[at : at + DELETES_MAX]
        ]
        answer = await transport.call("batch_write_item", RequestItems={transport.table: deletes})
        if left := answer.get("UnprocessedItems", {}).get(transport.table):
            raise StoreUnavailable(f"The checkpoint store was too busy to delete {len(left)} items.")
