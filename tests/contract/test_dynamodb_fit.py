"""Starting on a table that isn't fit: one clear sentence each, and no secret in it. And what each error then means."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.errors import Misconfigured, Outcome, StoreFull, StoreUnavailable
from actors.model import SCHEMA_VERSION, HostState
from actors.settings import Settings, StoreSettings
from actors.stores import open_membership, open_store, unfit_store
from actors.stores.base import Granted
from actors.stores.dynamodb import address, fit, items, transport
from actors.stores.dynamodb.address import Address
from actors.stores.dynamodb.errors import Contested
from actors.stores.dynamodb.membership import DynamoMembership
from tests.contract.dynamodb_lab import ENVIRONMENT, DynamoLab
from tests.contract.dynamodb_stub import answering
from tests.contract.lab import ANNA, fresh_key, turn
from tests.servers import free_port


@pytest.fixture(autouse=True)
def nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    """No region from anywhere but the URL."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No credentials at all; the client remembers whom it has found."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    address._session.cache_clear()
    yield
    address._session.cache_clear()


def settings_for(url: str, **more: Any) -> Settings:
    return Settings.load({"store": {"url": url, "timeout_s": 5.0, **more.pop("store", {})}, **more})


async def refusal(url: str, **more: Any) -> str:
    with pytest.raises(Misconfigured) as refused:
        await open_store(settings_for(url, **more))
    assert "\n" not in refused.value.detail
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in refused.value.detail
    return refused.value.detail


async def test_a_table_that_is_missing_is_made_if_the_url_says_so_and_then_opened_and_used(
    dynamo_lab: DynamoLab,
) -> None:
    url = dynamo_lab.settings.url.replace(dynamo_lab.table, "made-by-a-test")
    for _ in range(2):
        settings = settings_for(url)
        store, membership = await open_store(settings)
        assert isinstance(await store.claim(fresh_key(), "token", ANNA), Granted)
        assert open_membership(settings).join("inc-1", "a:1", 1, 1, 4) == membership.table()
        assert membership.beat("inc-1", "a:1", HostState.SERVING, -1).listed
        await store.aclose()
        membership.close()
        assert await unfit_store(settings) == ""
    noted = dynamo_lab.client.get_item(TableName="made-by-a-test", Key=items.key_of("rehydra:schema", items.SCHEMA))
    assert int(noted["Item"]["schema_version"]["N"]) == SCHEMA_VERSION
    clearing = dynamo_lab.client.describe_time_to_live(TableName="made-by-a-test")["TimeToLiveDescription"]
    assert clearing["AttributeName"] == items.EXPIRE_AT
    dynamo_lab.client.delete_table(TableName="made-by-a-test")


async def test_a_table_that_is_missing_is_said_and_not_made(dynamo_lab: DynamoLab) -> None:
    url = dynamo_lab.settings.url.replace(dynamo_lab.table, "nowhere").replace("create=true", "create=false")
    sentence = await refusal(url)
    assert "There is no table 'nowhere'" in sentence
    assert "create=true" in sentence
    assert await unfit_store(settings_for(url)) == sentence


async def test_a_table_with_other_keys_is_not_ours(dynamo_lab: DynamoLab) -> None:
    dynamo_lab.client.create_table(
        TableName="orders",
        KeySchema=[{"AttributeName": "order", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    sentence = await refusal(dynamo_lab.settings.url.replace(dynamo_lab.table, "orders"))
    dynamo_lab.client.delete_table(TableName="orders")
    assert "isn't Rehydra's: its keys are order (HASH, N)" in sentence


async def test_what_a_newer_program_wrote_is_refused(dynamo_lab: DynamoLab) -> None:
    noted = {**items.key_of(dynamo_lab.names.schema, items.SCHEMA), "schema_version": items.number(SCHEMA_VERSION + 1)}
    dynamo_lab.client.put_item(TableName=dynamo_lab.table, Item=noted)
    sentence = await refusal(dynamo_lab.settings.url, store={"prefix": dynamo_lab.names.prefix})
    assert f"schema_version {SCHEMA_VERSION + 1}" in sentence
    assert dynamo_lab.item(dynamo_lab.names.schema, items.SCHEMA) == noted


async def test_what_an_older_program_wrote_is_noted_anew(dynamo_lab: DynamoLab) -> None:
    noted = {**items.key_of(dynamo_lab.names.schema, items.SCHEMA), "schema_version": items.number(0)}
    dynamo_lab.client.put_item(TableName=dynamo_lab.table, Item=noted)
    store, membership = await open_store(
        settings_for(dynamo_lab.settings.url, store={"prefix": dynamo_lab.names.prefix})
    )
    await store.aclose()
    membership.close()
    assert dynamo_lab.item(dynamo_lab.names.schema, items.SCHEMA)["schema_version"]["N"] == str(SCHEMA_VERSION)


async def test_a_foreign_item_under_our_name_is_refused(dynamo_lab: DynamoLab) -> None:
    dynamo_lab.client.put_item(
        TableName=dynamo_lab.table,
        Item={**items.key_of(dynamo_lab.names.schema, items.SCHEMA), "price": items.number(12)},
    )
    assert "store.prefix" in await refusal(dynamo_lab.settings.url, store={"prefix": dynamo_lab.names.prefix})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dynamodb://", "names no table"),
        ("dynamodb://ab", "names no table"),
        ("dynamodb://my table", "names no table"),
        ("dynamodb://sessions/0", "names no table"),
        ("dynamodb://key:hush@sessions", "AWS_ACCESS_KEY_ID"),
        ("dynamodb://sessions?regoin=eu-west-1", "'regoin'"),
        ("dynamodb://sessions?region", "isn't one"),
        ("dynamodb://sessions?create=yes", "create is 'yes'"),
        ("dynamodb://sessions?region=eu-west-1&endpoint=localhost:8000", "endpoint is 'localhost:8000'"),
        ("dynamodb://sessions?region=eu_west%2F1", "eu_west/1"),
        ("dynamodb://sessions", "region=..."),
    ],
)
async def test_a_url_that_is_none_is_said(url: str, said: str) -> None:
    sentence = await refusal(url)
    assert said in sentence
    assert "hush" not in sentence


async def test_nobody_listening_is_said() -> None:
    port = free_port()
    sentence = await refusal(f"dynamodb://sessions?region=eu-west-1&endpoint=http://127.0.0.1:{port}")
    assert f"can't be reached for the table 'sessions' at http://127.0.0.1:{port}" in sentence


async def test_no_credentials_are_said(nobody: None) -> None:
    with answering("InternalServerError") as endpoint:
        assert "no credentials" in await refusal(f"dynamodb://sessions?region=eu-west-1&endpoint={endpoint}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("UnrecognizedClientException", "doesn't let us in"),
        ("InvalidSignatureException", "doesn't let us in"),
        ("AccessDeniedException", "doesn't let us in"),
        ("ExpiredTokenException", "doesn't let us in"),
        ("ThrottlingException", "can't be used"),
    ],
)
async def test_a_service_that_does_not_let_us_in_is_said(code: str, said: str) -> None:
    with answering(code, "The security token included in the request is invalid.") as endpoint:
        sentence = await refusal(f"dynamodb://sessions?region=eu-west-1&endpoint={endpoint}")
    assert said in sentence
    assert "token included" in sentence


async def test_a_clock_that_is_wrong_is_said(dynamo_lab: DynamoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = time.time() - 900
    monkeypatch.setattr("actors.stores.dynamodb.fit.time.time", lambda: wrong)
    assert re.search(r"clock is -\d+ s from DynamoDB's", await refusal(dynamo_lab.settings.url))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"TableStatus": "DELETING"}, "is DELETING"), ({"KeySchema": []}, "isn't Rehydra's")],
)
def test_a_table_that_is_going_or_another_ones_is_said(
    dynamo_lab: DynamoLab, changed: dict[str, Any], said: str
) -> None:
    table = dynamo_lab.client.describe_table(TableName=dynamo_lab.table)["Table"]
    fit.judge(table, dynamo_lab.address)
    with pytest.raises(Misconfigured, match=said):
        fit.judge({**table, **changed}, dynamo_lab.address)


def test_a_table_with_replicas_is_used_with_a_warning(dynamo_lab: DynamoLab, caplog: pytest.LogCaptureFixture) -> None:
    """Conditions hold within a region alone."""
    table = dynamo_lab.client.describe_table(TableName=dynamo_lab.table)["Table"]
    fit.judge({**table, "Replicas": [{"RegionName": "us-east-1"}]}, dynamo_lab.address, warn=True)
    assert "one and the same region" in caplog.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"agent": {"state_bytes_max": 400_000}}, "agent.state_bytes_max is 400000"),
        ({"agent": {"reply_bytes_max": 4 << 20}}, "in one transaction"),
        ({"session": {"ttl_s": 500}}, "session.ttl_s must exceed"),
    ],
)
async def test_settings_that_dynamodb_cannot_keep_are_said(more: dict[str, Any], said: str) -> None:
    assert said in await refusal("dynamodb://sessions?region=eu-west-1", **more)


async def test_a_client_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiobotocore", None)
    url = "dynamodb://sessions?region=eu-west-1"
    sentence = await refusal(url)
    assert "aiobotocore is missing" in sentence
    assert "pip install 'rehydra[dynamodb]'" in sentence
    assert await unfit_store(settings_for(url)) == sentence
    with pytest.raises(Misconfigured):
        open_membership(settings_for(url))


# --- errors of calls ----------------------------------------------------------------------------------------------


def reasons(*codes: str, message: str = "") -> dict[str, Any]:
    return {"CancellationReasons": [{"Code": code, "Message": message} for code in codes]}


@pytest.mark.parametrize(
    ("code", "more", "raised", "outcome"),
    [
        ("ThrottlingException", {}, StoreUnavailable, Outcome.UNKNOWN),
        ("ProvisionedThroughputExceededException", {}, StoreUnavailable, Outcome.UNKNOWN),
        ("InternalServerError", {"status": 500}, StoreUnavailable, Outcome.UNKNOWN),
        ("ExpiredTokenException", {}, StoreUnavailable, Outcome.UNKNOWN),
        ("ResourceNotFoundException", {}, StoreUnavailable, Outcome.UNKNOWN),
        ("ValidationException", {"message": "a bug of ours"}, StoreUnavailable, Outcome.UNKNOWN),
        ("ValidationException", {"message": "Item size has exceeded the maximum"}, StoreFull, Outcome.NOT_DONE),
        ("TransactionCanceledException", reasons("None", "ThrottlingError"), StoreUnavailable, Outcome.UNKNOWN),
        ("TransactionCanceledException", {}, StoreUnavailable, Outcome.UNKNOWN),
        (
            "TransactionCanceledException",
            reasons("None", "ValidationError", message="Item size to update has exceeded the maximum allowed size"),
            StoreFull,
            Outcome.NOT_DONE,
        ),
    ],
)
async def test_what_the_service_answers_is_told_as_what_is_known(
    code: str, more: dict[str, Any], raised: type[StoreUnavailable], outcome: Outcome
) -> None:
    """I10: nothing is called not done that an earlier try may have done."""
    with answering(code, **more) as endpoint:
        settings = StoreSettings(url=f"dynamodb://sessions?region=eu-west-1&endpoint={endpoint}")
        calls = transport.Transport(Address.of(settings.url), settings)
        with pytest.raises(StoreUnavailable) as failed:
            await calls.call("transact_write_items", TransactItems=[])
        membership = DynamoMembership.connect(settings, 1.0)
        with pytest.raises(StoreUnavailable):
            membership.table()
        membership.close()
        await calls.aclose()
    assert type(failed.value) is raised
    assert failed.value.outcome is outcome


@pytest.mark.parametrize("codes", [("TransactionConflict", "None"), ("ConditionalCheckFailed", "TransactionConflict")])
async def test_a_cancelled_transaction_that_met_another_is_looked_at_again(codes: tuple[str, ...]) -> None:
    with answering("TransactionCanceledException", **reasons(*codes)) as endpoint:
        settings = StoreSettings(url=f"dynamodb://sessions?region=eu-west-1&endpoint={endpoint}")
        calls = transport.Transport(Address.of(settings.url), settings)
        with pytest.raises(Contested):
            await calls.call("transact_write_items", TransactItems=[])
        await calls.aclose()


async def test_a_service_that_does_not_answer_is_unknown_after_the_time_out(dynamo_lab: DynamoLab) -> None:
    """I10, I6: and the repeat finds what was done."""
    store = dynamo_lab.store()
    granted = await store.claim(key := fresh_key(), "token", ANNA)
    assert isinstance(granted, Granted)
    call = dynamo_lab.transports[0]
    call._settings = call._settings.model_copy(update={"timeout_s": 1e-4})
    with pytest.raises(StoreUnavailable) as lost:
        await store.commit(key, granted.lease, "", turn(1, "a"), None)
    assert lost.value.outcome is Outcome.UNKNOWN


async def test_a_service_that_is_gone_or_hangs_up_is_unknown() -> None:
    """I10: of a request whose answer never comes nobody knows what became of it."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    for port in (server.sockets[0].getsockname()[1], free_port()):
        settings = StoreSettings(url=f"dynamodb://sessions?region=eu-west-1&endpoint=http://127.0.0.1:{port}")
        calls = transport.Transport(Address.of(settings.url), settings)
        with pytest.raises(StoreUnavailable) as lost:
            await calls.call("transact_write_items", TransactItems=[])
        assert lost.value.outcome is Outcome.UNKNOWN
        await calls.aclose()
        membership = DynamoMembership.connect(settings, 0.5)
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(membership.table)
        membership.close()
    server.close()
    await server.wait_closed()
