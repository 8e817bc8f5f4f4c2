"""The membership table in DynamoDB, for a host's beat thread and for the edge.

Blocking, with short time-outs and without repeats: the next beat is the repeat. The table is one item, a
:class:`~actors.stores.roster.Roster`, which is written on the condition that it is still the one that was read; if two
hosts join, leave or evict at one moment, one of them reads again. Each host's beats are an item of their own.

A beat is two requests: write one's own, read everybody's together with the table, which stand in one partition. They
aren't read at one moment, as a script would: a beat may be younger than the table beside it by some milliseconds.
Nothing depends on that: beats are judged by whether they go on, and an eviction names the very incarnation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from actors.errors import StoreUnavailable
from actors.model import Beat, BeatReply, HostState, Member, Table
from actors.settings import StoreSettings
from actors.stores import roster as rosters
from actors.stores.dynamodb import items
from actors.stores.dynamodb.address import Address, blocking_client
from actors.stores.dynamodb.errors import Contested, as_store_error
from actors.stores.roster import Beats, Roster

CLEARED_AFTER_S: Final = 86_400
"""DynamoDB may clear the beats of a host away after so long a silence, if no host did."""
TRIES: Final = 50
"""Looks at the table until nobody had changed it in between. Each in vain means that another's change was done."""


class DynamoMembership:
    """The :class:`~actors.stores.base.MembershipStore` in the table that has the sessions. Threads may share it."""

    def __init__(
        self, client: Any, table: str, prefix: str, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._client = client
        self._table_name = table
        self._pk = items.Names(prefix).members
        self._now_ms = now_ms

    @classmethod
    def connect(cls, settings: StoreSettings, timeout_s: float) -> Self:
        """Opens nothing yet. ``timeout_s`` bounds one request: shorter than the time a host may be silent."""
        address = Address.of(settings.url)
        client = blocking_client(address, min(timeout_s, settings.timeout_s))
        return cls(client, address.table, settings.prefix)

    def join(self, incarnation: str, address: str, health_port: int, weight: int, slots_max: int) -> Table:
        host = Member("", incarnation, address, health_port, weight)
        return self._change(lambda roster, _: rosters.joined(roster, host, slots_max, self._now_ms()))

    def beat(self, incarnation: str, address: str, state: HostState, known_ring_version: int) -> BeatReply:
        now_ms = self._now_ms()
        update = "SET #counter = if_not_exists(#counter, :first) + :one, #seen_ms = :now, #state = :state, "
        update += "#address = :address, #expire_at = :expire_at"
        self._call(
            "update_item",
            Key=items.key_of(self._pk, items.BEAT + incarnation),
            UpdateExpression=update,
            ExpressionAttributeNames=items.names_in(update),
            ExpressionAttributeValues={
                # A first count at the clock, so that one who was forgotten never seems to go backwards.
                ":first": items.number(now_ms - 1),
                ":one": items.number(1),
                ":now": items.number(now_ms),
                ":state": items.text(state.value),
                ":address": items.text(address),
                ":expire_at": items.number(now_ms // 1000 + CLEARED_AFTER_S),
            },
        )
        roster, _, beats = self._look()
        for name in rosters.forgotten(roster, beats, now_ms):
            del beats[name]
            self._call("delete_item", Key=items.key_of(self._pk, items.BEAT + name))
        return rosters.reply(roster, incarnation, beats, known_ring_version)

    def leave(self, incarnation: str, gone: bool = False) -> Table:
        def change(roster: Roster, beats: Beats) -> Roster:
            return rosters.left(roster, incarnation, beats, self._now_ms())

        return self._change(change, forget=incarnation if gone else "")

    def evict(self, slot: str, incarnation: str) -> Table:
        def change(roster: Roster, beats: Beats) -> Roster:
            return rosters.evicted(roster, slot, incarnation, beats, self._now_ms())

        return self._change(change, forget=incarnation, only_with_change=True)

    def table(self) -> Table:
        answer = self._call("get_item", Key=items.key_of(self._pk, items.ROSTER), ConsistentRead=True)
        return _roster_in(answer["Item"])[0].table if "Item" in answer else Table(0)

    def close(self) -> None:
        self._client.close()

    def _change(
        self, change: Callable[[Roster, Beats], Roster], forget: str = "", only_with_change: bool = False
    ) -> Table:
        """Write what ``change`` makes of the table, if nobody has written in between, else again.

        ``forget``: whose beats go in the same step; with ``only_with_change`` only if the table is another then.
        """
        for _ in range(TRIES):
            roster, rev, beats = self._look()
            after = change(roster, beats)
            writes = [] if after == roster else [{"Put": self._put(after, rev)}]
            if forget in beats and (writes or not only_with_change):
                key = items.key_of(self._pk, items.BEAT + forget)
                writes.append({"Delete": {"TableName": self._table_name, "Key": key}})
            if not writes:
                return roster.table
            try:
                self._call("transact_write_items", TransactItems=writes)
                return after.table
            except Contested:
                continue
        raise StoreUnavailable("Too many change the membership table at one time.")

    def _put(self, roster: Roster, rev: int) -> dict[str, Any]:
        record = {"record": {"B": rosters.encode_roster(roster)}, "rev": items.number(rev + 1)}
        put: dict[str, Any] = {
            "TableName": self._table_name,
            "Item": {**items.key_of(self._pk, items.ROSTER), **record},
            "ConditionExpression": "rev = :rev" if rev else "attribute_not_exists(pk)",
        }
        if rev:
            put["ExpressionAttributeValues"] = {":rev": items.number(rev)}
        return put

    def _look(self) -> tuple[Roster, int, dict[str, tuple[Beat, int]]]:
        """The table, its rev (0: there is none yet), and everybody's last beat."""
        roster, rev = Roster(), 0
        beats: dict[str, tuple[Beat, int]] = {}
        request: dict[str, Any] = {
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": items.text(self._pk)},
            "ConsistentRead": True,
        }
        while True:
            answer = self._call("query", **request)
            for item in answer["Items"]:
                name = item["sk"]["S"]
                if name == items.ROSTER:
                    roster, rev = _roster_in(item)
                else:
                    beats[name.removeprefix(items.BEAT)] = _beat_in(item)
            if "LastEvaluatedKey" not in answer:
                return roster, rev, beats
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _call(self, operation: str, **request: Any) -> Any:
        if operation != "transact_write_items":
            request["TableName"] = self._table_name
        try:
            return getattr(self._client, operation)(**request)
        except (BotoCoreError, ClientError, OSError) as error:
            raise as_store_error(error) from error


def _roster_in(item: items.Item) -> tuple[Roster, int]:
    return rosters.decode_roster(item["record"]["B"]), int(item["rev"]["N"])


def _beat_in(item: items.Item) -> tuple[Beat, int]:
    beat = Beat(int(item["counter"]["N"]), HostState(item["state"]["S"]), item["address"]["S"])
    return beat, int(item["seen_ms"]["N"])
