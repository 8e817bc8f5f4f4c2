"""The rivals do what the guides say, so that what is measured is their way and not a mistake of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import HTTPException

from actors.agents.chained import chained_reply
from loadtest import agents
from loadtest.baselines.chat import Message, Server, Way
from loadtest.baselines.ways.client_state import SECRET, Base64State, SealedState
from loadtest.baselines.ways.in_memory import InMemory
from loadtest.baselines.ways.redis_guarded import TRIES_MAX, CompareAndSet, RedisLock
from loadtest.baselines.ways.redis_json import ProcessLocks, RedisJson
from loadtest.checker import check
from loadtest.compare.visitor import Sample, Visitor
from loadtest.history import History
from loadtest.wire import Address


class FakeRedis:
    """The few commands of the rivals. ``share``: two clients of one server."""

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self.values: dict[str, Any] = {} if values is None else values

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    async def setex(self, key: str, _: int, value: str) -> None:
        self.values[key] = value

    async def set(self, key: str, value: str, *, nx: bool, ex: int) -> bool:
        assert nx
        assert ex
        return self.values.setdefault(key, value) == value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def register_script(self, _: str) -> Any:
        async def set_if_version(keys: list[str], args: list[Any]) -> int:
            now = self.values.get(keys[0])
            if (json.loads(now)["version"] if now else 0) != args[0]:
                return 0
            self.values[keys[0]] = args[1]
            return 1

        return set_if_version


def message(number: int, client_state: str = "", over_s: float = 0.0) -> Message:
    return Message("s", f"k:{number}", f"message {number}", over_s, client_state)


async def texts(way: Way) -> list[str]:
    return [turn["message"] for turn in await way.talk("s", "")]


# --- the agent --------------------------------------------------------------------------------------------------------


async def test_the_agent_is_chained_and_every_call_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(agents.CALLS, str(tmp_path / "calls"))
    past = [("hello", "1:a"), ("ä", "2:b")]
    assert await agents.counted_reply(past, "and now", 0) == chained_reply(past, "and now")
    turns = [SimpleNamespace(message=said, reply=replied) for said, replied in past]
    conversation = SimpleNamespace(turns=turns, message="and now", metadata=None)
    assert await agents.counted(conversation) == chained_reply(past, "and now")
    assert (tmp_path / "calls").stat().st_size == 2


# --- each way ---------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[], Way]] = {
    "in-memory": InMemory,
    "redis-json": lambda: RedisJson(FakeRedis()),  # type: ignore[arg-type]
    "process-locks": lambda: ProcessLocks(FakeRedis()),  # type: ignore[arg-type]
    "compare-and-set": lambda: CompareAndSet(FakeRedis()),  # type: ignore[arg-type]
    "redis-lock": lambda: RedisLock(FakeRedis()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WAYS)
async def test_one_message_after_the_other_makes_a_talk_and_a_repeated_one_is_found_in_it(name: str) -> None:
    way = WAYS[name]()
    said = [await way.say(message(number)) for number in (1, 2, 3, 2)]
    assert [each.turn["turn_seq"] for each in said] == [1, 2, 3, 2]
    assert [each.replayed for each in said] == [False, False, False, True]
    assert said[3].turn["reply"] == said[1].turn["reply"]
    assert await texts(way) == ["message 1", "message 2", "message 3"]


async def test_read_modify_write_loses_one_of_two() -> None:
    way = RedisJson(FakeRedis())  # type: ignore[arg-type]
    await asyncio.gather(way.say(message(1, over_s=0.01)), way.say(message(2, over_s=0.01)))
    assert len(await texts(way)) == 1


async def test_locks_of_a_process_keep_both_there_and_one_of_two_processes() -> None:
    values: dict[str, Any] = {}
    here, there = (ProcessLocks(FakeRedis(values)) for _ in range(2))  # type: ignore[arg-type]
    await asyncio.gather(here.say(message(1, over_s=0.01)), here.say(message(2, over_s=0.01)))
    assert await texts(here) == ["message 1", "message 2"]
    await asyncio.gather(here.say(message(3, over_s=0.01)), there.say(message(4, over_s=0.01)))
    assert len(await texts(here)) == 3


async def test_a_version_asks_the_agent_again_and_gives_up_after_three_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(agents.CALLS, str(tmp_path / "calls"))
    redis = FakeRedis()
    way = CompareAndSet(redis)  # type: ignore[arg-type]
    both = await asyncio.gather(way.say(message(1, over_s=0.01)), way.say(message(2, over_s=0.01)))
    assert sorted(said.turn["turn_seq"] for said in both) == [1, 2]
    assert (tmp_path / "calls").stat().st_size == 3

    async def somebody_else_was_first(keys: list[str], args: list[Any]) -> int:
        return 0

    way._set_if_version = somebody_else_was_first  # type: ignore[assignment]
    with pytest.raises(HTTPException) as refused:
        await way.say(message(3))
    assert refused.value.status_code == 409
    assert (tmp_path / "calls").stat().st_size == 3 + TRIES_MAX


async def test_a_lock_refuses_the_second_and_is_given_back() -> None:
    way = RedisLock(FakeRedis())  # type: ignore[arg-type]
    first = asyncio.create_task(way.say(message(1, over_s=0.02)))
    await asyncio.sleep(0)
    with pytest.raises(HTTPException) as refused:
        await way.say(message(2))
    assert refused.value.status_code == 409
    await first
    assert (await way.say(message(2))).turn["turn_seq"] == 2


@pytest.mark.parametrize("kind", [Base64State, SealedState])
async def test_a_talk_that_the_client_has_goes_on_from_there_and_anew_from_anything_else(
    kind: type[Base64State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "one")
    first = await kind().say(message(1))
    second = await kind().say(message(2, first.client_state))
    assert second.turn["turn_seq"] == 2
    again = await kind().say(message(2, second.client_state))
    assert again.replayed
    assert again.client_state in (second.client_state, again.client_state)
    assert [turn["turn_id"] for turn in await kind().talk("s", again.client_state)] == ["k:1", "k:2"]
    assert (await kind().say(message(3, "tampered" + second.client_state))).turn["turn_seq"] == 1
    if kind is SealedState:
        monkeypatch.setenv(SECRET, "two")
        assert (await kind().say(message(3, second.client_state))).turn["turn_seq"] == 1


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_a_server_speaks_as_rehydra_does() -> None:
    app = Server(InMemory, []).app()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for key in ("a", "b", "b"):
            headers = {"X-Session-Id": "s", "Idempotency-Key": key}
            answer = (await client.post("/chat", json={"message": key}, headers=headers)).json()
        assert (answer["session_id"], answer["turn_seq"], answer["turn_id"]) == ("s", 2, "k:b")
        assert answer["replayed"]
        page = (await client.get("/sessions/s/turns", params={"after": 1})).json()
        assert [turn["turn_id"] for turn in page["turns"]] == ["k:b"]
        assert (await client.get("/sessions/nobody/turns")).status_code == 404


async def test_a_visitor_brings_back_what_it_was_given_and_its_history_is_judged(tmp_path: Path) -> None:
    heard, way = list[tuple[str, dict[str, Any]]](), Base64State()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        heard.append((head, body))
        if head.startswith("POST /chat"):
            number = len(heard)
            said = await way.say(Message("s", f"k:s-{number}", body["message"], 0, body.get("client_state", "")))
            answer = said.turn | {"session_id": "s", "replayed": False, "client_state": said.client_state}
        else:
            answer = {"turns": await way.talk("s", body["client_state"])}
        raw = json.dumps(answer).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(raw)}\r\nSet-Cookie: seat=7; Path=/\r\n\r\n"
        writer.write(head.encode() + raw)
        writer.close()

    samples = list[Sample]()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        to = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with History(tmp_path / "history.jsonl") as history:
            history.start("chained")
            visitor = Visitor(to, "s", 3, history, samples)
            await visitor.say()
            await visitor.say(over_s=0.5)
            assert await visitor.read() == ""
    assert [sample.ok for sample in samples] == [True, True]
    assert "Cookie" not in heard[0][0]
    assert "Cookie: seat=7\r\n" in heard[1][0]
    assert "X-Forwarded-For: 198.18.3.1\r\n" in heard[1][0]
    assert heard[1][1]["metadata"] == {"over_s": 0.5}
    verdict = check([tmp_path / "history.jsonl"])
    assert verdict.legal
    assert verdict.counted["turns"] == 2
