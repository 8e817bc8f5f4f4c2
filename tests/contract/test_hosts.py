"""Whole hosts on the stores that no integration test starts: they join, talk, hand a session on, and are ready."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from actors.errors import Misconfigured
from actors.replica import HostLife
from actors.settings import Settings
from actors.stores.mongodb import documents
from router.routing import HostView
from tests.contract.dynamodb_lab import DynamoLab
from tests.contract.mongodb_lab import MongoLab


def settings(url: str, **session: Any) -> Settings:
    return Settings.load(
        {
            "store": {"url": url, "timeout_s": 20.0, "prefix": "hosts"},
            "session": session,
            "agent": {"path": "actors.agents.recall:recall"},
            "ring": {"beat_interval_s": 0.2, "beat_ttl_s": 20.0},
            "http": {"bind": "127.0.0.1"},
            "edge": {"poll_s": 0.01},
        }
    )


async def chat(life: HostLife, message: str) -> dict[str, Any]:
    url = f"http://{life.host.ref.address}/chat"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, json={"session_id": "s", "message": message}) as answer,
    ):
        assert answer.status == 200
        return {**await answer.json(), "state": answer.headers["x-session-state"]}


async def talk_across_hosts(chosen: Settings) -> None:
    """One host after the other, the second knowing what was said to the first."""
    first = HostLife(chosen, HostView)
    await first.start()
    try:
        assert first.host.ref.slot == "slot-0"
        assert not await first.not_ready()
        said = await chat(first, "My name is Ada.")
        assert (said["turn_seq"], said["state"]) == (1, "new")
        assert (await chat(first, "I live in London."))["state"] == "resident"
    finally:
        await first.end()
    second = HostLife(chosen, HostView)
    await second.start()
    try:
        said = await chat(second, "What is my name?")
        assert (said["turn_seq"], said["state"]) == (3, "rehydrated")
        assert "Ada" in said["reply"]
    finally:
        await second.end()


async def test_a_talk_goes_on_from_host_to_host_on_dynamodb(dynamo_lab: DynamoLab) -> None:
    chosen = settings(dynamo_lab.settings.url)
    await talk_across_hosts(chosen)
    dynamo_lab.delete(dynamo_lab.stored("hosts:"))


async def test_a_talk_goes_on_from_host_to_host_on_mongodb(
    mongo_lab: MongoLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_store(_: Settings) -> tuple[Any, Any]:
        return mongo_lab.store(), mongo_lab.membership()

    async def unfit_store(_: Settings) -> str:
        return ""

    monkeypatch.setattr("actors.replica.open_store", open_store)
    monkeypatch.setattr("actors.replica.unfit_store", unfit_store)
    await talk_across_hosts(settings("mongodb://mock", log_bytes_max=documents.LOG_BYTES_MAX))


@pytest.mark.parametrize(
    ("url", "word"),
    [("dynamodb://ab", "names no table"), ("mongodb://127.0.0.1:1", "session.log_bytes_max"), ("mongo://h", "work")],
)
async def test_a_host_that_is_misconfigured_says_so_in_one_sentence(url: str, word: str) -> None:
    with pytest.raises(Misconfigured, match=word) as refused:
        await HostLife(settings(url), HostView).start()
    assert "\n" not in refused.value.detail
