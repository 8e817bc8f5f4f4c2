"""The connections of the suite against a server that answers rightly, or nearly: the difference is an error."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtest.bench.agents import DELTAS, answer
from loadtest.bench.load import Spec, load
from loadtest.bench.traffic import KINDS, MESSAGE_BYTES, Talk, outcome, told, unchunked
from loadtest.generator import Generator, Round

Change = Callable[[dict[str, Any]], object]
"""What a faulty server does to a right answer: a document, or ``{"deltas": [...], "done": document}``."""


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def event(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\nid: 1-1\ndata: {json.dumps(document)}\n\n".encode()


async def pieces_of(message: str) -> list[str]:
    class Conversation:
        def __init__(self) -> None:
            self.message = message

    return [piece async for piece in answer(Conversation())]


@asynccontextmanager
async def server(change: Change = lambda _: None, status: int = 200) -> AsyncIterator[tuple[str, Counter[str]]]:
    """Its URL, and how many turns each session has."""
    seen: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                request = json.loads(await reader.readexactly(int(fields["Content-Length"])))
                name = fields["X-Session-Id"]
                seen[name] += 1
                pieces = await pieces_of(request["message"])
                reply = "".join(pieces)
                done = {"session_id": name, "turn_seq": seen[name], "reply": reply, "replayed": False}
                if not request["stream"]:
                    change(done)
                    body = json.dumps(done).encode()
                    told_head = (
                        f"HTTP/1.1 {status} X\r\nX-Session-State: resident\r\nContent-Length: {len(body)}\r\n\r\n"
                    )
                    writer.write(told_head.encode() + body)
                    continue
                stream: dict[str, Any] = {"deltas": pieces, "done": done}
                change(stream)
                events = [event("delta", {"text": piece}) for piece in stream["deltas"]]
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                writer.write(chunked(event("turn", {}), *events, event("done", stream["done"])))
        except (EOFError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", seen


async def talked(url: str, kind: str, turns: int = 3, zipf: bool = False) -> tuple[Round, list[Talk]]:
    generator = Generator(url, 2, 6, None, kind=KINDS[kind])
    await generator.connect()
    talks = [connection for connection in generator.connections if isinstance(connection, Talk)]
    for talk in talks:
        talk.begin(zipf)
    return await generator.warm_up(turns), talks


@pytest.mark.parametrize("kind", ["json", "stream", "instant"])
async def test_right_answers_are_turns(kind: str) -> None:
    async with server() as (url, seen):
        round_, talks = await talked(url, kind)
    found = outcome(round_, talks)
    assert (found["turns"], found["errors"]) == (18, 0)
    assert set(seen.values()) == {3}
    if kind == "stream":
        assert sum(len(talk.firsts_s) for talk in talks) == 18
        assert found["deltas_per_turn"] == DELTAS
        assert all(first > 0 for talk in talks for first in talk.firsts_s)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("json", lambda document: document.update(reply="x" * 1000)),
        ("json", lambda document: document.update(turn_seq=9)),
        ("json", lambda document: document.update(replayed=True)),
        ("stream", lambda stream: stream["deltas"].pop()),
        ("stream", lambda stream: stream["deltas"].reverse()),
        ("stream", lambda stream: stream["done"].update(turn_seq=9)),
        ("stream", lambda stream: stream["done"].update(reply="x")),
    ],
)
async def test_an_answer_that_is_nearly_right_is_an_error(kind: str, change: Change) -> None:
    async with server(change) as (url, _):
        round_, _ = await talked(url, kind)
    assert not round_.latencies_s and round_.errors


@pytest.mark.parametrize("kind", ["json", "instant"])
async def test_a_refusal_is_an_error_for_everybody(kind: str) -> None:
    async with server(status=503) as (url, _):
        round_, _ = await talked(url, kind)
    assert not round_.latencies_s and round_.errors


async def test_by_zipf_the_first_session_is_asked_most_and_every_turn_is_still_its_own() -> None:
    async with server() as (url, seen):
        round_, _ = await talked(url, "json", turns=60, zipf=True)
    assert not round_.errors
    by_rank = [count for _, count in sorted(seen.items())]
    assert min(by_rank[:2]) > 1.5 * max(by_rank[4:])


async def test_a_message_has_200_bytes_and_its_reply_a_thousand() -> None:
    for kind in KINDS.values():
        generator = Generator("http://127.0.0.1:1", 1, 1, None, kind=kind)
        talk = kind(generator.sessions, lambda: None)
        assert len(talk.text()) == MESSAGE_BYTES
        assert talk.request().endswith(talk.body(talk.text()))
        head, _, body = talk.request().partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        pieces = await pieces_of(talk.text())
        assert "".join(pieces) == talk.expected() and len(talk.expected()) == 1000
        assert len(pieces) == (DELTAS if kind.stream == b"true" else 1)


def test_a_chunked_body_comes_out_as_it_went_in() -> None:
    assert unchunked(chunked(b"one", b"two" * 100)) == b"one" + b"two" * 100
    assert told(event("delta", {"text": "a"}) + event("delta", {"text": "\n"}) + event("done", {})) == "a\n"
    with pytest.raises(ValueError):
        unchunked(chunked(b"one")[:-5])


async def test_the_generator_as_a_process_warms_up_waits_and_measures() -> None:
    async with server() as (url, seen):
        async with load(Spec(url, 2, 4, "talk", warm_turns=2, seconds=0.1)) as running:
            warm = await running.warm()
            assert warm["turns"] == 8 and set(seen.values()) == {2}
            measured = await running.measured()
            assert await running.verified() == [], "this server keeps no log, and wasn't asked"
        assert measured["errors"] == 0 and measured["turns"] > 4
        assert sum(seen.values()) == 8 + measured["turns"]
        assert measured["generator_s"] > 0 and measured["latency_ms"]["p50"] > 0
        async with load(Spec(url, 2, 4, "again", again=True)) as running:
            await running.warm()
            assert (await running.measured())["turns"] == 4
