"""DynamoDB's stand-ins under the suite: one table for a run, a prefix and a clock that stands still for each lab."""

from __future__ import annotations

import itertools
import os
from functools import cache
from typing import Any, Final, cast

from actors.model import SessionKey
from actors.settings import StoreSettings
from actors.stores.dynamodb import items
from actors.stores.dynamodb.address import Address, blocking_client
from actors.stores.dynamodb.fit import require_fit
from actors.stores.dynamodb.log import DELETES_MAX
from actors.stores.dynamodb.membership import DynamoMembership
from actors.stores.dynamodb.store import DynamoStore
from actors.stores.dynamodb.transport import Transport
from tests.contract.lab import PAGE_BYTES_MAX, TOMBSTONE_S, TTL_S

ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "of-a-test",
    "AWS_SECRET_ACCESS_KEY": "of-a-test",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""A person's own credentials are never sent anywhere."""
TIMEOUT_S: Final = 20.0
_numbers = itertools.count(1)


class Counted(Transport):
    """A transport that knows what it has sent."""

    def __init__(self, address: Address, settings: StoreSettings) -> None:
        super().__init__(address, settings)
        self.sent: list[str] = []

    async def call(self, operation: str, **request: Any) -> dict[str, Any]:
        self.sent.append(operation)
        return await super().call(operation, **request)


@cache
def _client_of(url: str) -> Any:
    """A client for the table that it has made. One for a run: each costs more than the calls of a test."""
    settings = StoreSettings.model_validate({"url": url, "timeout_s": TIMEOUT_S})
    require_fit(settings, begin=True)
    return blocking_client(Address.of(url), TIMEOUT_S)


class DynamoLab:
    """All items with a prefix of their own."""

    def __init__(self, kind: str, endpoint: str) -> None:
        self.kind = kind
        self.table = "sessions-of-tests"
        url = f"dynamodb://{self.table}?region=eu-west-1&endpoint={endpoint}&create=true"
        values = {"url": url, "prefix": f"test-{next(_numbers)}", "timeout_s": TIMEOUT_S}
        self.settings = StoreSettings.model_validate(values)
        self.names = items.Names(self.settings.prefix)
        self.address = Address.of(url)
        self.client = _client_of(url)
        self.transports: list[Counted] = []
        self._now_ms = 1_700_000_000_000

    def store(
        self, ttl_s: float = TTL_S, tombstone_s: float = TOMBSTONE_S, page_bytes_max: int = PAGE_BYTES_MAX
    ) -> DynamoStore:
        self.transports.append(Counted(self.address, self.settings))
        return DynamoStore(
            self.transports[-1], self.settings.prefix, ttl_s, tombstone_s, page_bytes_max, now_ms=self.now_ms
        )

    def membership(self) -> DynamoMembership:
        return DynamoMembership(self.client, self.table, self.settings.prefix, self.now_ms)

    def lose_membership(self) -> None:
        self._now_ms += 1000
        self.replace(self.names.members, [])

    def age_beats(self) -> None:
        self._now_ms += 3_600_000

    def keep_for_ever(self, key: SessionKey) -> None:
        """Nothing to be done: no lab of this kind looks for what stays."""

    async def snapshot(self, key: SessionKey) -> object:
        return self.stored(self.names.session(key))

    async def restore(self, key: SessionKey, snapshot: object) -> None:
        self.replace(self.names.session(key), cast(list[items.Item], snapshot))

    async def expire(self, key: SessionKey) -> None:
        """The lease alone is gone: what else there was of that life must not be seen again."""
        self.client.delete_item(TableName=self.table, Key=items.key_of(self.names.session(key), items.LEASE))

    async def ttl_ms(self, key: SessionKey) -> int | None:
        lease = self.item(self.names.session(key), items.LEASE)
        expires_ms = int(lease["expires_ms"]["N"]) if lease else 0
        return expires_ms - self._now_ms if expires_ms else None

    async def pass_ms(self, duration_ms: int) -> None:
        self._now_ms += duration_ms

    def now_ms(self) -> int:
        return self._now_ms

    async def aclose(self) -> None:
        for transport in self.transports:
            await transport.aclose()
        self.delete(self.stored())

    # --- what is stored ---------------------------------------------------------------------------------------------

    def item(self, pk: str, sk: str) -> Any:
        """One item, or None."""
        return self.client.get_item(TableName=self.table, Key=items.key_of(pk, sk)).get("Item")

    def stored(self, pk: str = "") -> list[Any]:
        """A whole partition, or all that the lab has."""
        found: list[Any] = []
        request: dict[str, Any] = {"TableName": self.table, "ConsistentRead": True}
        while True:
            page = self.client.scan(**request)
            found += [item for item in page["Items"] if item["pk"]["S"].startswith(pk or f"{self.names.prefix}:")]
            if "LastEvaluatedKey" not in page:
                return found
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def delete(self, those: list[items.Item]) -> None:
        keys = [{"DeleteRequest": {"Key": {"pk": item["pk"], "sk": item["sk"]}}} for item in those]
        for at in range(0, len(keys), DELETES_MAX):
            self.client.batch_write_item(RequestItems={self.table: keys[at : at + DELETES_MAX]})

    def replace(self, pk: str, those: list[items.Item]) -> None:
        """``those`` are all that the partition has."""
        self.delete(self.stored(pk))
        for item in those:
            self.client.put_item(TableName=self.table, Item=item)
