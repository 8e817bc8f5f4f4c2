"""The clients of ``loadtest``: what they may call done, not done and unknown, and that they notice wrong answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtest.client import Client, Kind
from loadtest.conversations import BUILT_IN, load
from loadtest.generator import Generator
from loadtest.redis_counts import between

Handler = Callable[[bytes, bytes, asyncio.StreamWriter], Awaitable[None]]

TURN = {"session_id": "s", "turn_id": "k:1", "turn_seq": 1, "reply": "one two", "replayed": False}


@asynccontextmanager
async def server_that(handler: Handler) -> AsyncIterator[str]:
    """A server that hands head and body of every request to ``handler``; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await handler(head, await reader.readexactly(int(length[1]) if length else 0), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(status: int, document: object, kind: str = "application/json") -> Handler:
    body = json.dumps(document).encode()

    async def handler(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nX-Served-By: slot-1\r\n".encode()
        head += b"X-Served-By-Host: 12-ab\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    return handler


def streaming(*events: tuple[str, object], whole: bool = True, cut: int = 0) -> Handler:
    """Chunked events; not ``whole``: the connection ends without the last chunk, ``cut`` bytes short."""
    text = "".join(f"event: {name}\nid: 7-1\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()

    async def handler(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (text[:9], text[9:]))
        writer.write(head + (sent + b"0\r\n\r\n" if whole else sent[: len(sent) - cut]))
        writer.close()

    return handler


async def silent(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hanging_up(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


DELTAS = (("turn", {"turn_id": "k:1"}), ("delta", {"text": "one "}), ("delta", {"text": "two"}))
NOT_DONE = {"type": "urn:x", "title": "no", "outcome": "not_done"}
UNKNOWN = {"type": "urn:x", "title": "perhaps", "outcome": "unknown"}


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (answering(200, TURN), Kind.OK),
        (answering(429, NOT_DONE), Kind.FAIL),
        (answering(409, UNKNOWN), Kind.INFO),
        (answering(503, NOT_DONE), Kind.INFO),
        (answering(200, {"reply": "half a turn"}), Kind.INFO),
        (answering(502, "not even a document"), Kind.INFO),
        (hanging_up, Kind.INFO),
        (silent, Kind.INFO),
        (streaming(*DELTAS, ("done", TURN)), Kind.OK),
        (streaming(*DELTAS, ("error", UNKNOWN | {"status": 503})), Kind.INFO),
        (streaming(*DELTAS), Kind.INFO),
        (streaming(*DELTAS, ("done", TURN), whole=False, cut=40), Kind.INFO),
    ],
)
async def test_only_a_4xx_that_says_so_is_a_failure_and_whatever_is_torn_or_silent_is_unknown(
    handler: Handler, kind: Kind
) -> None:
    async with server_that(handler) as url:
        answer = await Client(url, timeout_s=0.3).chat("s", "hello", streams=True)
    assert answer.kind is kind, answer


async def test_an_answer_names_the_life_of_the_host_that_ran_it() -> None:
    async with server_that(answering(200, TURN)) as url:
        answer = await Client(url).chat("s", "hello")
    assert (answer.slot, answer.host) == ("slot-1", "12-ab")


async def test_a_refused_connection_is_unknown() -> None:
    async with server_that(silent) as url:
        pass
    assert (await Client(url).chat("s", "hello")).kind is Kind.INFO


async def test_a_new_turn_event_voids_the_deltas_before_it() -> None:
    events = (*DELTAS, *DELTAS, ("done", TURN))
    async with server_that(streaming(*events)) as url:
        answer = await Client(url).chat("s", "hello", streams=True)
    assert (answer.streamed, answer.reply, answer.epoch) == ("one two", "one two", 7)


async def test_a_request_is_never_sent_twice() -> None:
    seen: list[bytes] = []

    async def handler(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.close()

    async with server_that(handler) as url:
        await Client(url).chat("s", "hello")
    assert len(seen) == 1


def echo_after(changed: Callable[[dict[str, object]], object], status: int = 200) -> Handler:
    """An echo that counts its turns, with every answer ``changed``."""
    turns: dict[str, int] = {}

    async def handler(head: bytes, request: bytes, writer: asyncio.StreamWriter) -> None:
        found = re.search(rb"X-Session-Id: (\S+)", head)
        session = found[1].decode() if found else ""
        turns[session] = turns.get(session, 0) + 1
        document: dict[str, object] = {
            "session_id": session,
            "turn_id": "r:1",
            "turn_seq": turns[session],
            "reply": json.loads(request)["message"],
            "replayed": False,
        }
        changed(document)
        await answering(status, document)(head, request, writer)

    return handler


async def rounds_against(handler: Handler) -> tuple[int, list[str]]:
    async with server_that(handler) as url:
        generator = Generator(url, connections=2, sessions=4, redis_url=None)
        await generator.connect()
        warm, measured = await generator.warm_up(), await generator.measure(0.05)
    return len(warm.latencies_s) + len(measured.latencies_s), warm.errors + measured.errors


async def test_the_generator_counts_right_answers() -> None:
    turns, errors = await rounds_against(echo_after(lambda document: None))
    assert turns > 8 and not errors


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        (lambda document: document.update(reply="another's"), 200),
        (lambda document: document.update(turn_seq=7), 200),
        (lambda document: document.update(session_id="another"), 200),
        (lambda document: document.update(replayed=True), 200),
        (lambda document: None, 503),
    ],
)
async def test_the_generator_counts_no_turn_that_was_answered_wrongly(
    changed: Callable[[dict[str, object]], object], status: int
) -> None:
    turns, errors = await rounds_against(echo_after(changed, status))
    assert turns == 0 and errors


async def test_a_connection_that_breaks_under_the_generator_is_an_error() -> None:
    turns, errors = await rounds_against(hanging_up)
    assert turns == 0 and errors


def test_a_second_command_per_turn_shows_in_the_counts() -> None:
    before = {"evalsha": 10, "hmget": 8, "hgetall": 2, "rpush": 5, "info": 1}
    lean = {"evalsha": 112, "hmget": 108, "hgetall": 4, "rpush": 105, "pexpire": 2, "info": 2}
    cost = between(before, lean, turns=100)
    assert (cost.calls_per_turn, cost.commits, cost.unexplained, cost.direct) == (1.0, 100, 0, {})
    read_too = between(before, lean | {"evalsha": 212, "hmget": 208}, turns=100)
    assert read_too.calls_per_turn == 2.0
    get_too = between(before, lean | {"get": 100}, turns=100)
    assert get_too.direct == {"get": 100}
    another_script = between(before, lean | {"evalsha": 212}, turns=100)
    assert another_script.unexplained == 100


def test_conversations_come_from_a_file_or_are_built_in(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text('{"id": 7, "category": "x", "user": ["first", "второй"]}\n', encoding="utf-8")
    assert [(talk.name, talk.messages) for talk in load(file)] == [("talk-7", ("first", "второй"))]
    assert len(load()) == len(BUILT_IN)
    file.write_text('{"id": 7}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        load(file)
