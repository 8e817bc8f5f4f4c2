"""How DynamoDB and MongoDB keep sessions and the membership table: golden, as the records in ``test_records`` are.

The files ``golden/dynamodb-vN.json`` and ``golden/mongodb-vN.json`` hold all that is stored after :func:`live`, at a
clock that stands, by programs of ``schema_version`` N. They are never changed; a change of the format is a new
``schema_version`` with new files beside them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from actors.model import SCHEMA_VERSION, HostState, SessionKey
from actors.stores.base import Deleted, Granted, MembershipStore, Ok, Replayed, SessionStore
from actors.stores.mongodb import documents
from tests.contract.dynamodb_lab import DynamoLab
from tests.contract.lab import ANNA, BERT, CARL, Talk, turn
from tests.contract.mongodb_lab import MongoLab

GOLDEN: Final = Path(__file__).with_name("golden")
LIVES, GONE = SessionKey("lives", "red"), SessionKey("gone", "red")
NOW_MS: Final = 1_900_000_000_000
"""In the future, so that no server clears it away."""


async def live(store: SessionStore, membership: MembershipStore) -> None:
    """One session in the middle of its life, one that was deleted, two hosts with a slot and one without."""
    talk = Talk(store, LIVES, ANNA, "token-1")
    await talk.claim()
    await talk.commit("a", b'{"n":1}', metadata={"deep": [1, None]})
    await talk.say("b")
    second = Talk(store, LIVES, BERT, "token-2")
    await second.claim((ANNA.incarnation, talk.lease.epoch))
    await second.check(running="c")
    third = Talk(store, LIVES, CARL, "token-3")
    await third.claim((BERT.incarnation, second.lease.epoch))
    await third.check(running="d")
    other = Talk(store, GONE, ANNA, "token-4")
    await other.claim()
    await other.say("a")
    await store.delete(GONE, "k:delete")
    for at, state in enumerate((HostState.SERVING, HostState.DRAINING, HostState.SPARE)):
        membership.beat(f"inc-{at}", f"a:{at}", state, -1)
        membership.join(f"inc-{at}", f"a:{at}", 9000 + at, 1 + at, 2)


async def goes_on(store: SessionStore, membership: MembershipStore) -> None:
    """What was stored so is understood, and can be built upon."""
    granted = await store.claim(LIVES, "token-5", ANNA, (CARL.incarnation, NOW_MS + 2))
    assert isinstance(granted, Granted)
    assert (granted.lease.epoch, granted.lease.born, granted.takeovers) == (NOW_MS + 3, NOW_MS, 3)
    assert granted.suspects == ("c", "d")
    assert granted.checkpoint.state == b'{"n":1}'
    turns = granted.checkpoint.turns
    assert turns == (turn(1, "a", metadata={"deep": [1, None]}), turn(2, "b"))
    assert await store.commit(LIVES, granted.lease, "b", turn(3, "a"), None) == Replayed(turns[0])
    assert await store.commit(LIVES, granted.lease, "b", turn(3, "c"), None) == Ok()
    assert await store.claim(GONE, "token-5", ANNA) == Deleted()
    assert membership.table().ring_version == NOW_MS + 1
    assert membership.leave("inc-0").members["slot-0"].incarnation == "inc-2"


VERSIONS: Final = range(1, SCHEMA_VERSION + 1)


def golden(name: str, prefix: str = "test", version: int = SCHEMA_VERSION) -> Any:
    """The file, with this prefix in the place of its own."""
    return json.loads((GOLDEN / f"{name}-v{version}.json").read_text("utf-8").replace('"test:', f'"{prefix}:'))


def plain(value: Any) -> Any:
    """As JSON can hold it: bytes are told from text by ``{"bytes": ...}``, or ``{"hex": ...}`` where they are none,
    moments by ``{"ms": ...}``."""
    match value:
        case bytes():
            return {"bytes": value.decode()} if value.isascii() and b"\x00" not in value else {"hex": value.hex()}
        case datetime():
            return {"ms": round(value.replace(tzinfo=UTC).timestamp() * 1000)}
        case dict():
            return {name: plain(one) for name, one in value.items()}
        case list():
            return [plain(one) for one in value]
    return value


def stored(value: Any) -> Any:
    """The way back."""
    match value:
        case {"bytes": str(text)}:
            return text.encode()
        case {"hex": str(digits)}:
            return bytes.fromhex(digits)
        case {"ms": int(ms)}:
            return datetime.fromtimestamp(ms / 1000, UTC)
        case dict():
            return {name: stored(one) for name, one in value.items()}
        case list():
            return [stored(one) for one in value]
    return value


async def test_what_dynamodb_keeps_today_is_golden(dynamo_lab: DynamoLab) -> None:
    dynamo_lab._now_ms = NOW_MS
    await live(dynamo_lab.store(), dynamo_lab.membership())
    kept = sorted(plain(dynamo_lab.stored()), key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
    assert kept == golden("dynamodb", dynamo_lab.names.prefix)


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_that_dynamodb_ever_kept_is_understood(dynamo_lab: DynamoLab, version: int) -> None:
    dynamo_lab._now_ms = NOW_MS
    for item in stored(golden("dynamodb", dynamo_lab.names.prefix, version)):
        dynamo_lab.client.put_item(TableName=dynamo_lab.table, Item=item)
    await goes_on(dynamo_lab.store(), dynamo_lab.membership())


async def test_what_mongodb_keeps_today_is_golden(mongo_lab: MongoLab) -> None:
    mongo_lab._now_ms = NOW_MS
    await live(mongo_lab.store(), mongo_lab.membership())
    names = {"sessions": documents.sessions, "members": documents.members, "schema": documents.schemas}
    kept = {
        what: sorted(map(plain, mongo_lab.database[name(mongo_lab.prefix)].find({})), key=lambda one: str(one["_id"]))
        for what, name in names.items()
    }
    assert kept == golden("mongodb")


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_that_mongodb_ever_kept_is_understood(mongo_lab: MongoLab, version: int) -> None:
    mongo_lab._now_ms = NOW_MS
    kept = stored(golden("mongodb", version=version))
    mongo_lab.sessions.insert_many(kept["sessions"])
    mongo_lab.members.insert_many(kept["members"])
    await goes_on(mongo_lab.store(), mongo_lab.membership())
