"""Is this table fit to keep sessions? Asked before a host takes its first turn, and when somebody asks if it is ready.

Each fault is one sentence (:class:`~actors.errors.Misconfigured`) that names the table and what to change. The calls
block: whoever has an event loop asks from a thread.
"""

from __future__ import annotations

import logging
import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError

from actors.errors import Misconfigured
from actors.model import SCHEMA_VERSION
from actors.settings import Settings, StoreSettings
from actors.stores.codec import newer_schema
from actors.stores.dynamodb import items
from actors.stores.dynamodb.address import Address, blocking_client
from actors.stores.dynamodb.errors import REFUSED, code_of

log = logging.getLogger(__name__)

SKEW_S_MAX: Final = 60.0
"""How far this host's clock may be from the service's: hosts' clocks decide when a session expires."""
MAKING_S: Final = 60.0
"""How long a new table may take to be there."""
LOOK_S: Final = 0.5
KEYS: Final = [("pk", "HASH", "S"), ("sk", "RANGE", "S")]


def require_limits(settings: Settings) -> None:
    """Misconfigured unless every turn that the settings allow fits into DynamoDB's items and transactions."""
    agent, session = settings.agent, settings.session
    if agent.state_bytes_max > items.ITEM_BYTES_MAX:
        raise Misconfigured(
            f"agent.state_bytes_max is {agent.state_bytes_max}; DynamoDB's items have 400 KB: set it to"
            f" {items.ITEM_BYTES_MAX} or less, or choose another store."
        )
    turn_bytes = agent.reply_bytes_max + session.body_bytes_max + agent.state_bytes_max
    if turn_bytes > items.TRANSACTION_BYTES_MAX:
        raise Misconfigured(
            f"A turn may have {turn_bytes} bytes (agent.reply_bytes_max, session.body_bytes_max and"
            f" agent.state_bytes_max together); DynamoDB takes {items.TRANSACTION_BYTES_MAX} in one transaction."
        )
    loaded_s = session.idle_s + agent.deadline_s + session.commit_patience_s
    if session.ttl_s and session.ttl_s <= loaded_s + 2 * SKEW_S_MAX:
        raise Misconfigured(
            f"session.ttl_s must exceed session.idle_s + agent.deadline_s + session.commit_patience_s by"
            f" {2 * SKEW_S_MAX:.0f} s: with DynamoDB the hosts' clocks say what has expired, and they differ."
        )


def require_fit(settings: StoreSettings, begin: bool = False) -> None:
    """Misconfigured unless the table is there, is ours, and lets us in.

    ``begin``: make it if it is missing and the URL allows that, note the schema_version, and warn of a clock that is
    wrong. Without, nothing is written.
    """
    address = Address.of(settings.url)
    client = _client(address, settings.timeout_s)
    try:
        description = _description(client, address, begin)
        judge(description["Table"], address, warn=begin)
        _require_clock(description, address)
        if begin:
            _note_schema(client, address, items.Names(settings.prefix))
    except NoCredentialsError as error:
        raise Misconfigured(f"There are no credentials for {address}: set AWS_ACCESS_KEY_ID and"
                            " AWS_SECRET_ACCESS_KEY, a profile, or a role.") from error  # fmt: skip
    except ClientError as error:
        if code_of(error) in REFUSED or isinstance(error, PartialCredentialsError):
            raise Misconfigured(f"DynamoDB doesn't let us in to {address}: {_one_line(error)}") from error
        raise Misconfigured(f"DynamoDB can't be used for {address}: {_one_line(error)}") from error
    except (BotoCoreError, OSError) as error:
        raise Misconfigured(f"DynamoDB can't be reached for {address}: {_one_line(error)}") from error


@lru_cache(maxsize=8)
def _client(address: Address, timeout_s: float) -> Any:
    try:
        return blocking_client(address, timeout_s)
    except Misconfigured as error:
        if isinstance(error.__cause__, NoRegionError):
            raise Misconfigured(
                f"No region is known for {address}: add region=... to store.url, or set AWS_REGION."
            ) from None
        raise


def _description(client: Any, address: Address, may_make: bool) -> Any:
    try:
        return client.describe_table(TableName=address.table)
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
    if not (may_make and address.create):
        raise Misconfigured(
            f"There is no {str(address).removeprefix('the ')}: make it with the keys pk (HASH) and sk (RANGE), both"
            " strings, or add create=true to store.url."
        )
    return _made(client, address)


def _made(client: Any, address: Address) -> Any:
    """A new table, paid by request. Another host may make it at the same moment."""
    try:
        client.create_table(
            TableName=address.table,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind, _ in KEYS],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, _, kind in KEYS],
            BillingMode="PAY_PER_REQUEST",
        )
    except ClientError as error:
        if code_of(error) != "ResourceInUseException":
            raise
    waiter = client.get_waiter("table_exists")
    waiter.wait(TableName=address.table, WaiterConfig={"Delay": LOOK_S, "MaxAttempts": int(MAKING_S / LOOK_S)})
    try:
        client.update_time_to_live(
            TableName=address.table, TimeToLiveSpecification={"Enabled": True, "AttributeName": items.EXPIRE_AT}
        )
    except ClientError as error:
        # Another host has done it, or we may not. Without it tombstones stay, which nobody minds but the bill.
        log.info("%s has no clearing away of its own: %s", address, _one_line(error))
    return client.describe_table(TableName=address.table)


def judge(table: Any, address: Address, warn: bool = False) -> None:
    """Misconfigured unless the table is ours, and there to be used."""
    kinds = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    keys = [(one["AttributeName"], one["KeyType"], kinds[one["AttributeName"]]) for one in table["KeySchema"]]
    if keys != KEYS:
        found = ", ".join(f"{name} ({kind}, {type_})" for name, kind, type_ in keys)
        raise Misconfigured(
            f"{str(address).capitalize()} isn't Rehydra's: its keys are {found}, not pk (HASH, S), sk (RANGE, S)."
        )
    if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
        raise Misconfigured(f"{str(address).capitalize()} is {table['TableStatus']}.")
    if warn and table.get("Replicas"):
        log.warning("%s has replicas in other regions: all hosts must use one and the same region.", address)


def _require_clock(answer: Any, address: Address) -> None:
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if told is None:
        return
    skew_s = time.time() - parsedate_to_datetime(told).timestamp()
    if abs(skew_s) > SKEW_S_MAX:
        raise Misconfigured(
            f"This machine's clock is {skew_s:+.0f} s from DynamoDB's for {address}; {SKEW_S_MAX:.0f} s are allowed,"
            " as it decides when sessions expire: set it (NTP)."
        )


def _note_schema(client: Any, address: Address, names: items.Names) -> None:
    """An older program must not lower it."""
    key = items.key_of(names.schema, items.SCHEMA)
    found = client.get_item(TableName=address.table, Key=key, ConsistentRead=True).get("Item")
    if found is not None:
        noted = found.get("schema_version", {}).get("N", "")
        if not noted.isdigit():
            raise Misconfigured(f"The item {names.schema!r} in {address} isn't Rehydra's: choose another store.prefix.")
        if int(noted) > SCHEMA_VERSION:
            raise newer_schema("Something", int(noted))
        if int(noted) == SCHEMA_VERSION:
            return
    try:
        client.put_item(
            TableName=address.table,
            Item={**key, "schema_version": items.number(SCHEMA_VERSION)},
            ConditionExpression="attribute_not_exists(pk) OR schema_version <= :ours",
            ExpressionAttributeValues={":ours": items.number(SCHEMA_VERSION)},
        )
    except ClientError as error:
        if code_of(error) != "ConditionalCheckFailedException":
            raise
        _note_schema(client, address, names)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
