"""Every kind of bad input, sent to a real host: what it answers, and that the session is as it was."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_core import to_json

from actors.agent import Agent, Conversation
from actors.agents.echo import echo
from actors.api import batch_of
from actors.api_request import parsed
from actors.asgi import Message, read_body
from actors.errors import TooLarge
from tests.runtime.api_world import Raw, World, ask, chat, request_bytes, wire
from tests.runtime.test_api_hosts import Cluster, all_turns, cluster

LIMITS: dict[str, dict[str, Any]] = {
    "session": {"message_bytes_max": 1_000, "body_bytes_max": 4_000, "mailbox_max": 2},
    "http": {"body_s": 0.3, "turns_page_max": 10, "head_bytes_max": 20_000},
    "agent": {"reply_bytes_max": 1 << 20, "state_bytes_max": 1_000},
}
Header = tuple[str, str]


async def counting(conversation: Conversation) -> str:
    """An echo that keeps count in its state, and tells it when asked."""
    turns = conversation.state["turns"] = conversation.state.get("turns", 0) + 1
    return str(turns) if conversation.message == "count" else conversation.message


@pytest.fixture
async def hosts() -> AsyncIterator[Cluster]:
    async with cluster(counting, LIMITS) as made:
        await chat(made.one, {"message": "first", "session_id": "s"}, ("Idempotency-Key", "used"))
        yield made


def problem(answer: Raw, status: int, code: str) -> dict[str, Any]:
    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json"), answer.body
    document: dict[str, Any] = answer.json
    assert (document["type"], document["status"]) == (f"urn:rehydra:problem:{code}", status)
    assert document["title"] and document["detail"]
    assert document["outcome"] == "not_done"
    return document


async def unharmed(world: World, before: list[dict[str, Any]]) -> None:
    """The session has the turns and the state that it had, and takes the next turn."""
    assert await all_turns(world, "s") == before
    answer = await chat(world, {"message": "count", "session_id": "s"})
    assert (answer.status, answer.json["turn_seq"]) == (200, len(before) + 1)
    assert answer.json["reply"] == str(len(before) + 1)


def post(body: Any, *headers: Header) -> bytes:
    return request_bytes("POST", "/chat", body if isinstance(body, bytes) else json.dumps(body).encode(), *headers)


def to_s(*headers: Header, **more: Any) -> bytes:
    return post({"message": "m", "session_id": "s"} | more, *headers)


def nested(levels: int) -> dict[str, Any]:
    """So many objects and arrays within each other."""
    return {"x": [nested(levels - 2)]} if levels > 2 else {"x": []} if levels == 2 else {}


CHUNKED = ("Transfer-Encoding", "chunked")
BAD: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (post(b"message=m"), 400, "bad-request"),
    "no body": (post(b""), 400, "bad-request"),
    "half a JSON": (post(b'{"message": "m", "session_id": "s"'), 400, "bad-request"),
    "no object": (post([{"message": "m", "session_id": "s"}]), 400, "bad-request"),
    "no message": (post({"session_id": "s"}), 400, "bad-request"),
    "empty message": (to_s(message=""), 400, "bad-request"),
    "message null": (to_s(message=None), 400, "bad-request"),
    "message a number": (to_s(message=5), 400, "bad-request"),
    "message a list": (to_s(message=["m"]), 400, "bad-request"),
    "stream a text": (to_s(stream="true"), 400, "bad-request"),
    "metadata a list": (to_s(metadata=[]), 400, "bad-request"),
    "metadata too deep": (to_s(metadata=nested(129)), 400, "bad-request"),
    "session_id a number": (to_s(session_id=5), 400, "bad-request"),
    "message too long": (to_s(message="m" * 1_001), 413, "too-large"),
    "message too long in bytes": (to_s(message="é" * 501), 413, "too-large"),
    "body too long": (to_s(metadata={"x": "x" * 4_000}), 413, "too-large"),
    "body too long in chunks": (
        request_bytes("POST", "/chat", b"", CHUNKED) + (b"3e8\r\n" + b" " * 1_000 + b"\r\n") * 5 + b"0\r\n\r\n",
        413,
        "too-large",
    ),
    "a length and chunks": (to_s(CHUNKED, ("Content-Length", "5")), 400, "bad-request"),
    "content-length too long": (post(b"", ("Content-Length", "9" * 15)), 413, "too-large"),
    "session id empty": (to_s(session_id=""), 400, "bad-request"),
    "session id of 129": (to_s(session_id="s" * 129), 400, "bad-request"),
    "session id with a line end": (to_s(session_id="s\n"), 400, "bad-request"),
    "session id with a NUL": (to_s(session_id="s\x00"), 400, "bad-request"),
    "session id with a space": (to_s(session_id="s s"), 400, "bad-request"),
    "session id with braces": (to_s(session_id="{s}"), 400, "bad-request"),
    "session id a dot": (to_s(session_id="."), 400, "bad-request"),
    "session id two dots": (to_s(session_id=".."), 400, "bad-request"),
    "session id a dot, in the path": (request_bytes("GET", "/sessions/."), 400, "bad-request"),
    "session id two dots, in the path": (request_bytes("GET", "/sessions/%2E%2E"), 400, "bad-request"),
    "session id empty, as a header": (post({"message": "m"}, ("X-Session-Id", "")), 400, "bad-request"),
    "session id of 129, as a header": (post({"message": "m"}, ("X-Session-Id", "s" * 129)), 400, "bad-request"),
    "session id with braces, as a header": (post({"message": "m"}, ("X-Session-Id", "{s}")), 400, "bad-request"),
    "session id with a space, as a header": (post({"message": "m"}, ("X-Session-Id", "s s")), 400, "bad-request"),
    "two ids that differ": (to_s(("X-Session-Id", "t")), 400, "bad-request"),
    "session id header repeated": (to_s(("X-Session-Id", "s"), ("X-Session-Id", "s")), 400, "bad-request"),
    "key repeated": (to_s(("Idempotency-Key", "k"), ("Idempotency-Key", "k")), 400, "bad-request"),
    "if-match repeated": (to_s(("If-Match", '"1"'), ("If-Match", '"1"')), 400, "bad-request"),
    "key of 0": (to_s(("Idempotency-Key", "")), 400, "bad-request"),
    "key of 0, quoted": (to_s(("Idempotency-Key", '""')), 400, "bad-request"),
    "key of 256": (to_s(("Idempotency-Key", "k" * 256)), 400, "bad-request"),
    "key of 256, quoted": (to_s(("Idempotency-Key", '"' + "k" * 256 + '"')), 400, "bad-request"),
    "key of 10,000": (to_s(("Idempotency-Key", "k" * 10_000)), 400, "bad-request"),
    "key not ASCII": (to_s(("Idempotency-Key", "clé")), 400, "bad-request"),
    "key with a space": (to_s(("Idempotency-Key", "a b")), 400, "bad-request"),
    "key quoted by half": (to_s(("Idempotency-Key", '"k')), 400, "bad-request"),
    "key used for another message": (to_s(("Idempotency-Key", "used")), 422, "key-mismatch"),
    "key used for another message, quoted": (to_s(("Idempotency-Key", '"used"')), 422, "key-mismatch"),
    "at another turn": (to_s(("If-Match", '"2"')), 412, "precondition-failed"),
    "not a new session": (to_s(("If-Match", '"0"')), 412, "precondition-failed"),
    "if-match no tag": (to_s(("If-Match", "one")), 400, "bad-request"),
    "lone surrogate": (post(b'{"session_id": "s", "message": "\\ud800"}'), 400, "bad-request"),
    "lone surrogate in metadata": (
        post(b'{"session_id": "s", "message": "m", "metadata": {"\\udc00": 1}}'),
        400,
        "bad-request",
    ),
    "not UTF-8": (post(b'{"session_id": "s", "message": "\xff"}'), 400, "bad-request"),
    "GET on /chat": (request_bytes("GET", "/chat"), 405, "method-not-allowed"),
    "PUT on /chat": (request_bytes("PUT", "/chat", b'{"message": "m"}'), 405, "method-not-allowed"),
    "OPTIONS on /chat": (request_bytes("OPTIONS", "/chat"), 405, "method-not-allowed"),
    "gzip": (post(gzip.compress(b'{"message": "m"}'), ("Content-Encoding", "gzip")), 415, "encoding-unsupported"),
    "a slow client": (post(b'{"message": "m", ', ("Content-Length", "400")), 408, "body-too-slow"),
    "a head too large": (to_s(("X-More", "x" * 30_000)), 431, "head-too-large"),
    "a path too long": (request_bytes("GET", "/sessions/" + "s" * 30_000), 414, "target-too-long"),
    "another protocol": (
        request_bytes("GET", "/sessions/s", None, ("Connection", "upgrade"), ("Upgrade", "websocket")),
        400,
        "bad-request",
    ),
    "no HTTP": (b"POST /chat\r\n\r\n", 400, "bad-request"),
    "a session without a good name": (request_bytes("POST", "/sessions", b'{"session_id": "{s}"}'), 400, "bad-request"),
    "a session of two names": (
        request_bytes("POST", "/sessions", b'{"session_id": "s"}', ("X-Session-Id", "t")),
        400,
        "bad-request",
    ),
    "a session whose name is a number": (request_bytes("POST", "/sessions", b'{"session_id": 5}'), 400, "bad-request"),
    "a session of no JSON": (request_bytes("POST", "/sessions", b"s"), 400, "bad-request"),
    "unknown session": (request_bytes("GET", "/sessions/unknown"), 404, "session-unknown"),
    "turns of an unknown session": (request_bytes("GET", "/sessions/unknown/turns"), 404, "session-unknown"),
    "deleting an unknown session": (request_bytes("DELETE", "/sessions/unknown"), 404, "session-unknown"),
    "session id with braces, in the path": (request_bytes("GET", "/sessions/%7Bs%7D"), 400, "bad-request"),
    "session id of 129, in the path": (request_bytes("GET", "/sessions/" + "s" * 129), 400, "bad-request"),
    "limit 0": (request_bytes("GET", "/sessions/s/turns?limit=0"), 400, "bad-request"),
    "limit over the most": (request_bytes("GET", "/sessions/s/turns?limit=11"), 400, "bad-request"),
    "limit no number": (request_bytes("GET", "/sessions/s/turns?limit=ten"), 400, "bad-request"),
    "limit with a point": (request_bytes("GET", "/sessions/s/turns?limit=1.0"), 400, "bad-request"),
    "after with a line": (request_bytes("GET", "/sessions/s/turns?after=1_0"), 400, "bad-request"),
    "after with a sign": (request_bytes("GET", "/sessions/s/turns?after=%2B1"), 400, "bad-request"),
    "after negative": (request_bytes("GET", "/sessions/s/turns?after=-1"), 400, "bad-request"),
    "after too high": (request_bytes("GET", "/sessions/s/turns?after=" + "9" * 20), 400, "bad-request"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_input_is_refused_and_leaves_its_session_as_it_was(hosts: Cluster, kind: str) -> None:
    sent, status, code = BAD[kind]
    before = await all_turns(hosts.one, "s")
    async with wire(hosts.one.port) as connection, asyncio.timeout(5):
        await connection.send(sent)
        answer = await connection.answer()
    problem(answer, status, code)
    assert (answer.header("allow") is not None) == (status == 405)
    await unharmed(hosts.one, before)


async def test_a_client_that_leaves_in_mid_body_leaves_the_session_as_it_was(hosts: Cluster) -> None:
    before = await all_turns(hosts.one, "s")
    async with wire(hosts.one.port) as connection:
        await connection.send(to_s(("Content-Length", "400")))
    await unharmed(hosts.one, before)


async def test_a_slow_body_under_a_key_doesnt_say_that_nothing_came_of_the_key(hosts: Cluster) -> None:
    async with wire(hosts.one.port) as connection, asyncio.timeout(5):
        await connection.send(post(b'{"mess', ("Content-Length", "400"), ("Idempotency-Key", "used")))
        answer = await connection.answer()
    assert (answer.status, answer.json["outcome"]) == (408, "unknown")


async def test_a_key_on_another_session_is_another_turn(hosts: Cluster) -> None:
    before = await all_turns(hosts.one, "s")
    answer = await chat(hosts.one, {"message": "elsewhere", "session_id": "t"}, ("Idempotency-Key", "used"))
    assert (answer.status, answer.json["turn_seq"], answer.json["replayed"]) == (200, 1, False)
    await unharmed(hosts.one, before)


async def test_what_may_be_nested_deepest_is_kept_and_can_be_handed_over(hosts: Cluster) -> None:
    deepest = nested(128)
    answer = await chat(hosts.one, {"message": "m", "session_id": "s", "metadata": deepest})
    assert answer.status == 200
    assert (await all_turns(hosts.two, "s"))[-1]["metadata"] == deepest
    turn = {"message": "m", "turn_id": "k:1", "metadata": deepest}
    _, batch, _ = batch_of(parsed(to_json({"session_id": "s", "tenant": "-", "under": 2, "batch": [turn]})))
    assert batch[0].metadata == deepest


@pytest.mark.parametrize("declared", ["", "+1", "\u00b2", "1_0", "9" * 5_000])
async def test_a_length_that_is_no_number_is_no_length(declared: str) -> None:
    async def nothing() -> Message:
        raise AssertionError("nobody reads such a body")

    with pytest.raises(TooLarge):
        await read_body({}, nothing, declared, 4_000, 1.0)


@pytest.mark.parametrize("session_id", ["...", ".a", "..a", "a.", "." * 128, "a" * 128])
async def test_dots_in_a_session_id_are_no_harm(hosts: Cluster, session_id: str) -> None:
    assert (await chat(hosts.one, {"message": "m", "session_id": session_id})).status == 200
    assert (await ask(hosts.one, "GET", f"/sessions/{session_id}")).json["turn_seq"] == 1


TEXTS = {
    "emoji": "\U0001f469\U0001f3fd\u200d\U0001f680",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    "NUL": "a\x00b",
    "controls": "\x01\x1b\x7f\x85\u2028",
    "not a character": "\ufffe\U0010ffff",
    "composed and not": "\u00e9 e\u0301",
}


@pytest.mark.parametrize("kind", TEXTS)
async def test_any_text_is_kept_byte_for_byte_in_the_record(hosts: Cluster, kind: str) -> None:
    text = TEXTS[kind]
    answer = await chat(hosts.one, {"message": text, "session_id": "s", "metadata": {text: text}})
    assert answer.json["reply"] == text
    for world in (hosts.one, hosts.two):
        turn = (await all_turns(world, "s"))[-1]
        assert (turn["message"], turn["reply"], turn["metadata"]) == (text, text, {text: text})


async def test_a_full_mailbox_refuses_and_the_session_has_those_that_it_took() -> None:
    running, release = asyncio.Event(), asyncio.Event()

    async def gated(conversation: Conversation) -> str:
        running.set()
        await release.wait()
        return conversation.message

    async with cluster(gated, LIMITS) as hosts:
        taken = [asyncio.create_task(chat(hosts.one, {"message": "m0", "session_id": "s"}))]
        await running.wait()
        for number in (1, 2):
            taken.append(asyncio.create_task(chat(hosts.one, {"message": f"m{number}", "session_id": "s"})))
            await hosts.members[0].host.requests(number + 1)
        answer = await chat(hosts.one, {"message": "m3", "session_id": "s"})
        problem(answer, 429, "mailbox-full")
        assert answer.header("retry-after") is not None
        release.set()
        assert [(await one).status for one in taken] == [200, 200, 200]
        assert [turn["message"] for turn in await all_turns(hosts.one, "s")] == ["m0", "m1", "m2"]


# --- agents ---------------------------------------------------------------------------------------------------------


async def _ten_megabytes(conversation: Conversation) -> AsyncIterator[str]:
    for _ in range(160):
        yield "x" * 65_536


async def _bytes(conversation: Conversation) -> AsyncIterator[Any]:
    yield b"bytes"


async def _no_json(conversation: Conversation) -> str:
    conversation.state["x"] = object()
    return "a reply"


async def _cycle(conversation: Conversation) -> str:
    conversation.state["x"] = conversation.state
    return "a reply"


async def _big_state(conversation: Conversation) -> str:
    conversation.state["x"] = "x" * 1_001
    return "a reply"


def _keeps(value: Any) -> Agent:
    async def agent(conversation: Conversation) -> str:
        conversation.state["x"] = value
        return "a reply"

    return agent


BAD_AGENTS: dict[str, Agent] = {
    "yields 10 MB": _ten_megabytes,
    "yields bytes": _bytes,
    "changes its state to what isn't JSON": _no_json,
    "changes its state to a circle": _cycle,
    "has too large a state": _big_state,
    "keeps a set": _keeps({1, 2}),
    "keeps a tuple": _keeps((1, 2)),
    "keeps bytes": _keeps(b"bytes"),
    "keeps a time": _keeps(datetime(2026, 1, 1, tzinfo=UTC)),
    "keeps numbers as keys": _keeps({1: 2}),
    "keeps nothing as a key": _keeps({None: 1}),
    "keeps no number": _keeps([float("nan")]),
    "keeps a lone surrogate": _keeps("\ud800"),
}


@pytest.mark.parametrize("kind", BAD_AGENTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_does_what_it_must_not_fails_its_turn_and_no_more(kind: str, stream: bool) -> None:
    async def agent(conversation: Conversation) -> AsyncIterator[Any]:
        good = await counting(conversation)
        if conversation.message != "bad":
            yield good
            return
        answer: Any = BAD_AGENTS[kind](conversation)
        if hasattr(answer, "__aiter__"):
            async for piece in answer:
                yield piece
        else:
            yield await answer

    async with cluster(agent, LIMITS) as hosts:
        await chat(hosts.one, {"message": "first", "session_id": "s"})
        before = await all_turns(hosts.one, "s")
        answer = await chat(hosts.one, {"message": "bad", "session_id": "s", "stream": stream})
        if stream:
            said = answer.body.decode().rstrip().rsplit("\n\n", 1)[-1].split("\n")
            assert said[0] == "event: error"
            document = json.loads(said[-1].removeprefix("data: "))
        else:
            document = problem(answer, 500, "agent-failed")
        assert (document["status"], document["outcome"]) == (500, "not_done")
        await unharmed(hosts.one, before)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_yields_nothing_has_an_empty_reply(stream: bool) -> None:
    async def silent(conversation: Conversation) -> AsyncIterator[str]:
        return
        yield ""

    async with cluster(silent, LIMITS) as hosts:
        answer = await chat(hosts.one, {"message": "m", "session_id": "s", "stream": stream})
        assert answer.status == 200
        assert [(turn["message"], turn["reply"]) for turn in await all_turns(hosts.one, "s")] == [("m", "")]
        assert (await chat(hosts.one, {"message": "m", "session_id": "s"})).json["turn_seq"] == 2


async def test_an_echo_is_no_bad_agent() -> None:
    async with cluster(echo, LIMITS) as hosts:
        assert (await chat(hosts.one, {"message": "m" * 1_000, "session_id": "s"})).status == 200
