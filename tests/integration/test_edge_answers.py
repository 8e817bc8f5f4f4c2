"""What the edge answers by itself: the same problems as a host's, with what is known of the turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.settings import Settings
from router.edge.answers import own_answers
from router.edge.config import Paths, render
from tests.integration import test_edge
from tests.integration.edge_backend import Backend
from tests.integration.test_edge import Stack, backends
from tests.runtime.api_world import Raw, World, request_bytes, serving, wire

run_dir, stack = test_edge.run_dir, test_edge.stack

KEYED = [([], "not_done"), ([("Idempotency-Key", "k")], "unknown")]
"""A request that did nothing knows nothing of another one under its key."""


def problem(answer: Raw, status: int, code: str, outcome: str) -> None:
    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json"), answer.body
    document = answer.json
    assert set(document) >= {"type", "title", "status", "detail", "outcome"}
    assert (document["type"], document["status"]) == (f"urn:rehydra:problem:{code}", status)
    assert document["outcome"] == outcome
    assert answer.header("retry-after") == ("1" if status == 503 else None)


async def ask(port: int, sent: bytes) -> Raw:
    async with wire(port) as connection, asyncio.timeout(15):
        await connection.send(sent)
        return await connection.answer()


@asynccontextmanager
async def host_behind(stack: Stack) -> AsyncIterator[World]:
    """A host with the real HTTP surface, as the only one."""
    async with serving() as world, backends(Backend) as (a,):
        a.port = world.port
        await stack.become(s0=a)
        yield world


MESSAGE = b'{"message": "m", "session_id": "s"}'


def chat_of(head_bytes: int) -> bytes:
    """A chat whose head is measured so."""
    target, fixed = len("/chat"), 2
    lines = [("host", "test"), ("content-length", str(len(MESSAGE)))]
    rest = head_bytes - target - fixed - sum(len(name) + len(value) + 4 for name, value in lines) - len("x: \r\n")
    return request_bytes("POST", "/chat", MESSAGE, ("x", "v" * rest))


async def test_edge_and_host_refuse_the_same_heads_in_the_same_words(stack: Stack) -> None:
    http = stack.settings.http
    over = http.head_bytes_max + 2_000
    async with host_behind(stack) as world:
        for sent, status, code in (
            (request_bytes("GET", "/" + "p" * over), 414, "target-too-long"),
            (request_bytes("GET", "/ring?" + "q" * over), 414, "target-too-long"),
            (chat_of(over), 431, "head-too-large"),
            (request_bytes("GET", "/ring", None, ("x", "v" * 400_000)), 431, "head-too-large"),
            (request_bytes("GET", "/ring", None, *[(f"x{n}", "v") for n in range(150)]), 431, "head-too-large"),
            (request_bytes("GET", "/ring", None, *[(f"x{n}", "v") for n in range(900)]), 431, "head-too-large"),
        ):
            answers = [await ask(port, sent) for port in (stack.port, world.port)]
            for answer in answers:
                problem(answer, status, code, "not_done")
            assert answers[0].json == answers[1].json
        assert world.host.chats == []


async def test_a_head_at_its_limit_reaches_a_host_and_one_byte_more_does_not(stack: Stack) -> None:
    most = stack.settings.http.head_bytes_max
    lines = [(f"x{number}", "v") for number in range(stack.settings.http.headers_max - 1)]
    async with host_behind(stack) as world:
        assert (await ask(stack.port, chat_of(most))).status == 200
        assert len(world.host.chats) == 1
        problem(await ask(stack.port, chat_of(most + 1)), 431, "head-too-large", "not_done")
        assert (await ask(stack.port, request_bytes("GET", "/ring", None, *lines))).status == 200
        one_more = request_bytes("GET", "/ring", None, *lines, ("more", "v"))
        problem(await ask(stack.port, one_more), 431, "head-too-large", "not_done")
        assert len(world.host.chats) == 1


@pytest.mark.parametrize(("headers", "outcome"), KEYED)
async def test_a_slow_body_is_given_up_and_nothing_was_done(
    stack: Stack, headers: list[tuple[str, str]], outcome: str
) -> None:
    stack.settings = stack.settings.model_copy(update={"http": stack.settings.http.model_copy(update={"body_s": 1.0})})
    await stack.edge.aclose(last=False)
    stack.edge = stack.another_edge()
    await stack.edge.start()
    async with host_behind(stack) as world:
        slow = request_bytes("POST", "/chat", b'{"mess', ("Content-Length", "20"), *headers)
        problem(await ask(stack.port, slow), 408, "body-too-slow", outcome)
        assert world.host.chats == []


@pytest.mark.parametrize(("headers", "outcome"), KEYED)
async def test_without_a_live_host_nothing_was_done_and_the_answer_says_when_to_come_back(
    stack: Stack, headers: list[tuple[str, str]], outcome: str
) -> None:
    problem(await ask(stack.port, request_bytes("POST", "/chat", MESSAGE, *headers)), 503, "no-host", outcome)


async def test_a_host_that_can_no_longer_be_reached_leaves_the_outcome_unknown(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        assert isinstance(a, Backend)
        # Its health check goes on: the edge finds out by the request itself, and has no other host.
        a._servers[0].close()
        problem(await ask(stack.port, request_bytes("POST", "/chat", b"{}")), 503, "no-host", "unknown")


async def test_an_answer_that_is_none_leaves_the_outcome_unknown(stack: Stack) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"this is no HTTP\r\n\r\n")
        writer.close()

    async with backends(Backend) as (a,), await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        a.port = server.sockets[0].getsockname()[1]
        await stack.become(s0=a)
        problem(await ask(stack.port, request_bytes("POST", "/chat", b"{}")), 502, "host-failed", "unknown")


@pytest.mark.parametrize("sent", [b"hello there\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n"])
async def test_what_isnt_http_reaches_no_host(stack: Stack, sent: bytes) -> None:
    async with host_behind(stack) as world:
        # In HAProxy's own words: no setting reaches those.
        assert (await ask(stack.port, sent)).status == 400
        assert world.host.chats == []


async def test_a_hosts_own_answers_pass_as_they_are(stack: Stack) -> None:
    async with host_behind(stack):
        wrong = await ask(stack.port, request_bytes("OPTIONS", "/chat"))
        problem(wrong, 405, "method-not-allowed", "not_done")
        assert wrong.header("allow") == "POST"
        problem(await ask(stack.port, request_bytes("POST", "/chat", b"{}")), 400, "bad-request", "not_done")
        big = request_bytes("POST", "/chat", b"x" * 450_000)
        problem(await ask(stack.port, big), 413, "too-large", "not_done")
        problem(await ask(stack.port, request_bytes("POST", "/internal/x", b"{}")), 404, "path-unknown", "not_done")
        async with wire(stack.port) as connection:
            await connection.send(request_bytes("HEAD", "/ring") + request_bytes("GET", "/nothing"))
            assert (await connection.head())[0] == 200
            problem(await connection.answer(), 404, "path-unknown", "not_done")


@pytest.mark.parametrize("name", ["X-Session-Id", "Idempotency-Key", "If-Match"])
async def test_a_header_that_comes_twice_is_refused_through_the_edge_too(stack: Stack, name: str) -> None:
    async with host_behind(stack) as world:
        twice = request_bytes("POST", "/chat", b'{"message": "m"}', (name, '"1"'), (name, '"1"'))
        problem(await ask(stack.port, twice), 400, "bad-request", "not_done")
        assert world.host.chats == []


def test_every_page_of_haproxys_that_can_be_set_is_a_problem_document() -> None:
    lines = [line.split(None, 5) for line in own_answers().splitlines()]
    assert {int(words[2]) for words in lines} == {400, 408, 413, 500, 502, 503, 504}
    for _, _, status, _, kind, rest in lines:
        assert kind == "application/problem+json"
        text = rest.split("'", 1)[1].rsplit("'", 1)[0].replace(r"'\''", "'")
        document = json.loads(text)
        assert (document["status"], document["type"][:20]) == (int(status), "urn:rehydra:problem:")
        assert ("retry-after" in rest) == (status == "503")
        if status in ("500", "502", "503", "504"):
            assert document["outcome"] == "unknown"
    assert own_answers() in render(Settings.load(), Paths("/run/rehydra"))
