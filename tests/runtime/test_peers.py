"""Passing on and handing over between real listeners, and to peers that break off wherever it hurts."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from actors.agent import Conversation
from actors.agents.echo import paced
from actors.errors import MailboxFull
from actors.model import HostRef, SessionKey, TurnRequest, fingerprint_of
from actors.peers import HttpPeers
from actors.ports import Passed, Residence
from actors.sse import frame
from tests.runtime.api_world import (
    PASS,
    Raw,
    SmallHost,
    World,
    chat,
    events,
    request_bytes,
    serving,
    settings_with,
    wire,
)

KEY = SessionKey("s")
STREAM: dict[str, Any] = {"message": "one two three", "session_id": "s", "stream": True}
WHOLE: dict[str, Any] = STREAM | {"stream": False}


@asynccontextmanager
async def fronting(held_by: HostRef | None, **groups: dict[str, Any]) -> AsyncIterator[World]:
    """A host that passes everything on to ``held_by`` first, and serves it itself if that fails."""
    peers = HttpPeers(settings_with(**groups))
    host = SmallHost(HostRef("inc-front", "slot-1", ""), peers=peers, held_by=held_by, agent=paced, epoch=9)
    try:
        async with serving(host, **groups) as front:
            yield front
    finally:
        await peers.aclose()


@dataclass
class Scripted:
    """A peer that does, on each connection, what its script says."""

    script: Callable[[Scripted, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    server: asyncio.Server | None = None
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def ref(self) -> HostRef:
        assert self.server is not None
        return HostRef("inc-x", "slot-0", f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}")

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        return self.requests[-1]


@asynccontextmanager
async def scripted(
    script: Callable[[Scripted, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Scripted]:
    peer = Scripted(script)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        try:
            await script(peer, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    peer.server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield peer
    finally:
        peer.server.close()


def free_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{opened.getsockname()[1]}"


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-served-by: theirs\r\n"
    return (
        head
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    )


REPLY = b'{"session_id":"s","turn_id":"k:k","turn_seq":4,"reply":"theirs","replayed":false}'


def texts(answer: Raw) -> str:
    said = ""
    for event, _, data in events(answer.body):
        said = "" if event == "turn" else said + data["text"] if event == "delta" else said
    return said


# --- what the holder says is what the client gets ------------------------------------------------------------------


async def test_a_passed_on_answer_is_the_holders_own_byte_for_byte() -> None:
    async with serving(SmallHost()) as back, fronting(back.host.ref) as front:
        key = ("Idempotency-Key", "k")
        passed = await chat(front, WHOLE | {"metadata": {"a": 1}}, key, ("If-Match", '"0"'))
        assert front.host.passed == [Passed.FINISHED]
        assert passed.header("x-served-by") == "slot-0"
        assert passed.header("x-served-by-host") == back.host.ref.incarnation
        assert passed.header("x-session-state") == "new"
        assert passed.header("etag") == '"1"'
        direct = await chat(back, WHOLE | {"metadata": {"a": 1}}, key)
        assert direct.json == passed.json | {"replayed": True}
        ((request, hops), _) = back.host.chats
        assert (hops, request.turn_id, request.if_match, request.metadata) == (1, "k:k", 0, {"a": 1})
        assert request == front.host.chats[0][0]
        assert front.host.log == {}


async def test_a_passed_on_problem_keeps_its_status_and_headers() -> None:
    async with serving(SmallHost(fail_with=MailboxFull(retry_after_s=7))) as back, fronting(back.host.ref) as front:
        for document in (WHOLE, STREAM):
            answer = await chat(front, document)
            assert answer.status == 429
            assert answer.header("content-type") == "application/problem+json"
            assert answer.header("retry-after") == "7"
        assert front.host.passed == [Passed.FINISHED] * 2


async def test_a_passed_on_stream_is_the_holders_own() -> None:
    async with serving(SmallHost(agent=paced)) as back, fronting(back.host.ref) as front:
        answer = await chat(front, STREAM, ("Idempotency-Key", "k"))
        assert answer.header("content-type") == "text/event-stream"
        assert answer.header("x-served-by") == "slot-0"
        assert answer.header("x-served-by-host") is None
        assert [event_id for _, event_id, _ in events(answer.body)] == ["7-1", "7-2", "7-3", "7-4", "7-5"]
        assert events(answer.body)[0][2]["turn_id"] == "k:k"
        assert texts(answer) == "one two three"
        assert front.host.passed == [Passed.FINISHED]


async def test_a_passed_on_stream_comes_as_it_is_said() -> None:
    go_on = asyncio.Event()

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "first"
        await go_on.wait()
        yield " last"

    async with (
        serving(SmallHost(agent=gated)) as back,
        fronting(back.host.ref) as front,
        wire(front.port) as connection,
        asyncio.timeout(5),
    ):
        await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
        await connection.head()
        seen = b""
        while b"first" not in seen:
            seen += await connection.chunk()
        go_on.set()
        while chunk := await connection.chunk():
            seen += chunk
        assert b"last" in seen


@pytest.mark.parametrize("document", [WHOLE, STREAM])
async def test_a_client_that_leaves_frees_both_hosts_and_stops_no_turn(document: dict[str, Any]) -> None:
    go_on = asyncio.Event()

    async def gated(conversation: Conversation) -> str:
        await go_on.wait()
        return "done"

    async with serving(SmallHost(agent=gated)) as back, fronting(back.host.ref) as front, asyncio.timeout(5):
        async with wire(front.port) as connection:
            await connection.send(request_bytes("POST", "/chat", json.dumps(document).encode()))
            await back.host.busy.wait()
        await front.host.quiet.wait()
        await back.host.quiet.wait()
        go_on.set()
        await back.host.turns_of("s", 1)


async def test_connections_between_hosts_are_used_again() -> None:
    async def answering(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)
            writer.write(whole(REPLY))

    async with scripted(answering) as peer, fronting(peer.ref) as front:
        for _ in range(5):
            assert (await chat(front, WHOLE)).body == REPLY
        assert (peer.connections, len(peer.requests)) == (1, 5)
        assert b"x-rehydra-to: inc-x" in peer.requests[0].lower()
        assert b"x-rehydra-hops: 1" in peer.requests[0].lower()
        assert f"x-rehydra-pass: {PASS[1]}\r\n".encode() in peer.requests[0].lower()


# --- how it ends when it doesn't end well --------------------------------------------------------------------------


async def test_nobody_at_the_address_is_refused_at_once_and_the_request_goes_on() -> None:
    async with fronting(HostRef("inc-x", "slot-0", free_address())) as front:
        began = time.monotonic()
        answer = await chat(front, WHOLE)
        assert time.monotonic() - began < 0.5
        assert front.host.passed == [Passed.REFUSED]
        assert answer.json["reply"] == "one two three"
        assert answer.header("x-served-by") == "slot-1"


async def test_another_incarnation_at_the_address_is_a_stranger() -> None:
    async with serving(SmallHost()) as back, fronting(HostRef("inc-old", "slot-0", back.address)) as front:
        assert (await chat(front, WHOLE)).header("x-served-by") == "slot-1"
        assert front.host.passed == [Passed.STRANGER]
        assert back.host.chats == []


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-",
        whole(REPLY)[:-5],
        b"this is not HTTP\r\n\r\n",
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"a"\r\n',
    ],
)
async def test_half_an_answer_is_broken_and_none_of_it_reaches_the_client(sent: bytes) -> None:
    async def breaking(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(sent)
        await writer.drain()

    async with scripted(breaking) as peer, fronting(peer.ref) as front:
        answer = await chat(front, WHOLE)
        assert front.host.passed == [Passed.BROKEN]
        assert (answer.status, answer.json["reply"]) == (200, "one two three")
        assert answer.header("x-served-by") == "slot-1"


async def test_a_broken_stream_is_voided_by_the_turn_of_the_next_attempt() -> None:
    async def breaking(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        turn = frame(b"turn", "5-1", b'{"turn_id":"k:k","epoch":5}')
        half = frame(b"delta", "5-3", b'{"text":"never"}')[:20]
        writer.write(chunked(turn + frame(b"delta", "5-2", b'{"text":"theirs "}'), half))
        await writer.drain()

    async with scripted(breaking) as peer, fronting(peer.ref) as front:
        answer = await chat(front, STREAM)
        assert front.host.passed == [Passed.BROKEN]
        told = [(event, event_id) for event, event_id, _ in events(answer.body)]
        assert told[:3] == [("turn", "5-1"), ("delta", "5-2"), ("turn", "9-1")]
        assert told[-1][0] == "done"
        assert texts(answer) == "one two three"
        assert b"never" not in answer.body


async def test_a_stream_that_broke_before_its_first_frame_leaves_no_trace() -> None:
    async def breaking(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(chunked(b"event: turn\n"))
        await writer.drain()

    async with scripted(breaking) as peer, fronting(peer.ref) as front:
        answer = await chat(front, STREAM)
        assert front.host.passed == [Passed.BROKEN]
        assert answer.header("x-served-by") == "slot-1"
        assert [event for event, _, _ in events(answer.body)].count("turn") == 1


async def test_a_stream_without_its_last_event_is_broken_even_if_it_ends_well() -> None:
    async def ending(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(chunked(frame(b"turn", "5-1", b"{}")) + b"0\r\n\r\n")
        await writer.drain()

    async with scripted(ending) as peer, fronting(peer.ref) as front:
        answer = await chat(front, STREAM)
        assert front.host.passed == [Passed.BROKEN]
        assert texts(answer) == "one two three"


@pytest.mark.parametrize("cut", range(0, 60, 7))
async def test_the_last_event_is_recognized_however_it_is_cut_into_chunks(cut: int) -> None:
    frames = frame(b"turn", "5-1", b'{"epoch":5}') + frame(b"delta", "5-2", b'{"text":"event: done\\n"}')
    stream = frames + frame(b"done", "5-3", REPLY)

    async def cutting(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(chunked(*[stream[at : at + cut + 1] for at in range(0, len(stream), cut + 1)]))
        await writer.drain()
        await reader.read()

    async with scripted(cutting) as peer, fronting(peer.ref) as front:
        answer = await chat(front, STREAM)
        assert front.host.passed == [Passed.FINISHED]
        assert answer.body == stream
        assert answer.header("x-served-by") == "theirs"


async def test_a_problem_from_the_next_holder_ends_a_stream_that_has_begun() -> None:
    async def breaking(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(chunked(frame(b"turn", "5-1", b"{}")))
        await writer.drain()

    async with (
        serving(SmallHost(fail_with=MailboxFull())) as back,
        scripted(breaking) as peer,
        fronting(peer.ref) as front,
    ):
        peers = front.host.peers
        assert peers is not None

        async def twice(request: TurnRequest, requester: Any, hops: int = 0) -> None:
            assert await peers.pass_on(peer.ref, request, requester, 1) is Passed.BROKEN
            assert await peers.pass_on(back.host.ref, request, requester, 1) is Passed.FINISHED

        front.host.chat = twice  # type: ignore[method-assign]
        answer = await chat(front, STREAM)
        assert answer.status == 200
        told = events(answer.body)
        assert [event for event, _, _ in told] == ["turn", "error"]
        assert told[-1][2]["type"] == "urn:rehydra:problem:mailbox-full"


async def test_an_answer_longer_than_any_reply_is_not_taken() -> None:
    async def endless(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        stream = b"text/event-stream" if b'"stream":true' in peer.requests[-1] else b"application/json"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\n" % stream)
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with scripted(endless) as peer, fronting(peer.ref, agent={"reply_bytes_max": 1000}) as front:
        for document in (WHOLE, STREAM):
            await chat(front, document)
        assert front.host.passed == [Passed.BROKEN] * 2


async def test_a_pooled_connection_that_turns_out_closed_is_no_sign_of_anything() -> None:
    async def once(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(whole(REPLY))
        await reader.read(1)

    async with scripted(once) as peer, fronting(peer.ref) as front:
        for _ in range(3):
            assert (await chat(front, WHOLE)).body == REPLY
        assert front.host.passed == [Passed.FINISHED] * 3


async def test_a_host_that_died_under_a_pooled_connection_may_have_taken_the_request_and_then_is_refused() -> None:
    async def dying(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(whole(REPLY))
        await reader.read(1)
        assert peer.server is not None
        peer.server.close()

    async with scripted(dying) as peer, fronting(peer.ref) as front:
        await chat(front, WHOLE)
        began = time.monotonic()
        await chat(front, WHOLE)
        assert front.host.passed == [Passed.FINISHED, Passed.BROKEN]
        await chat(front, WHOLE)
        assert front.host.passed[2:] == [Passed.REFUSED]
        assert time.monotonic() - began < 0.5


async def test_the_log_of_a_failure_does_not_tell_the_pass(caplog: pytest.LogCaptureFixture) -> None:
    async def gibberish(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(b"this is not HTTP\r\n\r\n")
        await writer.drain()

    caplog.set_level("DEBUG")
    async with scripted(gibberish) as peer, fronting(peer.ref) as front, peers_with() as peers:
        await chat(front, WHOLE)
        assert await peers.hand_off(peer.ref, KEY, BATCH[:1], 7) is False
    records = [record for record in caplog.records if record.name == "rehydra.peers"]
    assert len(records) == 2
    assert PASS[1] not in " ".join(str(vars(record)) for record in caplog.records)


async def test_hosts_with_another_secret_run_nothing_for_each_other() -> None:
    async with serving(edge={"secret": "YW5vdGhlciBrZXk="}) as back, fronting(back.host.ref) as front:
        assert (await chat(front, WHOLE)).status == 400
        async with peers_with() as peers:
            assert await peers.hand_off(back.host.ref, KEY, BATCH, 7) is False
        assert (back.host.chats, back.host.batches) == ([], [])


async def test_a_silent_host_is_waited_for_as_long_as_a_request_may_wait() -> None:
    async def silent(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        await reader.read()

    limits = {"session": {"request_wait_s": 0.3}, "agent": {"deadline_s": 0.2}}
    async with scripted(silent) as peer, fronting(peer.ref, **limits) as front:
        began = time.monotonic()
        await chat(front, WHOLE)
        assert 0.3 <= time.monotonic() - began < 2
        assert front.host.passed == [Passed.BROKEN]


async def test_a_requester_that_takes_no_bytes_of_others_is_a_mistake_of_the_program() -> None:
    class Plain:
        stream = False
        begun = False

        async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None: ...

        async def delta(self, text: str) -> None: ...

        def quiet_s(self) -> float:
            return 0.0

        async def finish(self, final: Any) -> None: ...

    peers = HttpPeers(settings_with())
    request = TurnRequest(KEY, "k:k", fingerprint_of("m", None), "m")
    with pytest.raises(TypeError):
        await peers.pass_on(HostRef("i", "s", free_address()), request, Plain(), 1)
    await peers.aclose()


# --- handing over ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def peers_with(**groups: dict[str, Any]) -> AsyncIterator[HttpPeers]:
    peers = HttpPeers(settings_with(**groups))
    try:
        yield peers
    finally:
        await peers.aclose()


BATCH = [
    TurnRequest(KEY, f"k:{number}", fingerprint_of(text, metadata), text, metadata, if_match, named_by=number - 1)
    for number, (text, metadata, if_match) in enumerate(
        [("a", None, None), ("\x00\u202e\U0001f680", {"b": 1, "a": [0.1, 10**20]}, 3), ("c" * 200_000, None, None)]
    )
]


@pytest.mark.parametrize("named_by", [-1, 0, 1_795_621_936_892])
async def test_a_passed_on_request_says_whose_ring_named_this_host(named_by: int) -> None:
    async with serving(SmallHost()) as back, fronting(back.host.ref) as front:
        peers = front.host.peers
        assert peers is not None

        async def by_ring(request: TurnRequest, requester: Any, hops: int = 0) -> None:
            named = replace(request, named_by=named_by)
            assert await peers.pass_on(back.host.ref, named, requester, 1) is Passed.FINISHED

        front.host.chat = by_ring  # type: ignore[method-assign]
        assert (await chat(front, WHOLE)).status == 200
        assert [(request.named_by, hops) for request, hops in back.host.chats] == [(named_by, 1)]


async def test_a_batch_is_handed_over_whole_and_in_order() -> None:
    async with serving(SmallHost()) as back, peers_with() as peers:
        assert await peers.hand_off(back.host.ref, KEY, BATCH, 7) is True
        assert back.host.batches == [(KEY, BATCH, 7)]


async def test_a_deletion_is_told_to_the_very_host_that_is_meant() -> None:
    async with serving(SmallHost()) as back, peers_with(http={"hand_off_s": 0.2}) as peers:
        assert await peers.tell_deleted(HostRef("inc-old", "slot-0", back.address), KEY) is False
        assert back.host.gone == set()
        assert await peers.tell_deleted(back.host.ref, KEY) is True
        assert back.host.gone == {KEY.session_id}
        assert await peers.tell_deleted(HostRef("inc-x", "slot-0", free_address()), KEY) is False


async def test_a_batch_that_is_not_taken_stays_with_its_sender() -> None:
    async with serving(SmallHost(takes_batches=False)) as back, peers_with() as peers:
        assert await peers.hand_off(back.host.ref, KEY, BATCH, 2) is False
        assert back.host.batches == []


async def test_a_batch_that_nobody_confirmed_is_not_handed_over() -> None:
    async def silent(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        await reader.read()

    async def failing(peer: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(whole(b"{}", b"500 Internal Server Error"))

    async with (
        serving(SmallHost()) as back,
        scripted(silent) as mute,
        scripted(failing) as ill,
        peers_with(http={"hand_off_s": 0.2}) as peers,
    ):
        assert await peers.hand_off(HostRef("inc-old", "slot-0", back.address), KEY, BATCH, 7) is False
        assert await peers.hand_off(HostRef("inc-x", "slot-0", free_address()), KEY, BATCH, 7) is False
        assert await peers.hand_off(mute.ref, KEY, BATCH, 7) is False
        assert await peers.hand_off(ill.ref, KEY, BATCH, 7) is False
        assert back.host.batches == []
