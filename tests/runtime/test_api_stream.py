"""Streamed turns on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from actors.agent import Conversation
from actors.agents.echo import paced
from actors.errors import AgentFailed, MailboxFull
from actors.following import follow
from actors.model import SessionKey, Turn, TurnRequest
from actors.ports import Done, Requester, Residence
from actors.sse import PING, WAITING_BYTES_MAX, StreamRequester, frame
from actors.ticket import Ticket
from tests.runtime.api_world import SmallHost, World, chat, events, request_bytes, serving, wire

STREAM: dict[str, Any] = {"message": "one two three", "session_id": "s", "stream": True}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(SmallHost(agent=paced)) as served:
        yield served


def texts(body: bytes) -> str:
    """What a client has after the last ``turn``."""
    said = ""
    for event, _, data in events(body):
        said = "" if event == "turn" else said + data["text"] if event == "delta" else said
    return said


async def test_a_stream_tells_the_turn_its_pieces_and_the_committed_end(world: World) -> None:
    answer = await chat(world, STREAM, ("Idempotency-Key", "k"))
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("x-session-id") == "s"
    assert answer.header("x-served-by") == "slot-0"
    told = events(answer.body)
    assert [event for event, _, _ in told] == ["turn", "delta", "delta", "delta", "done"]
    assert [event_id for _, event_id, _ in told] == ["7-1", "7-2", "7-3", "7-4", "7-5"]
    assert told[0][2] == {"session_id": "s", "turn_id": "k:k", "epoch": 7}
    assert texts(answer.body) == "one two three"
    document = await chat(world, STREAM | {"stream": False}, ("Idempotency-Key", "k"))
    assert told[-1][2] | {"replayed": True} == document.json


async def test_the_accept_header_asks_for_a_stream_unless_the_body_says_otherwise(world: World) -> None:
    accept = ("Accept", "application/json;q=0.1, text/event-stream")
    wanted = await chat(world, {"message": "m"}, accept)
    assert wanted.header("content-type") == "text/event-stream"
    refused = await chat(world, {"message": "m", "stream": False}, accept)
    assert refused.header("content-type") == "application/json"


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("application/json, text/event-stream;q=0", False),
        ("text/event-stream; q=0.000, */*", False),
        ("text/event-stream;q=0.001", True),
        ("Text/Event-Stream; charset=utf-8 , */*;q=0", True),
        ("*/*", False),
        ("", False),
    ],
)
async def test_who_refuses_a_stream_gets_none(world: World, accept: str, streams: bool) -> None:
    answer = await chat(world, {"message": "m"}, ("Accept", accept))
    assert (answer.header("content-type") == "text/event-stream") == streams


async def test_a_replayed_turn_is_streamed_whole(world: World) -> None:
    first = await chat(world, STREAM, ("Idempotency-Key", "k"))
    answer = await chat(world, STREAM, ("Idempotency-Key", "k"))
    # Which turn it is was known before the first byte this time.
    for name, told in (("etag", '"1"'), ("idempotent-replayed", "true")):
        assert (first.header(name), answer.header(name)) == (None, told)
    assert (first.header("x-session-state"), answer.header("x-session-state")) == ("new", "resident")
    assert [event for event, _, _ in events(answer.body)] == ["turn", "delta", "done"]
    assert texts(answer.body) == "one two three" == events(answer.body)[-1][2]["reply"]
    assert events(answer.body)[-1][2]["replayed"] is True


async def test_an_error_before_the_first_event_has_its_own_status(world: World) -> None:
    world.host.fail_with = MailboxFull()
    answer = await chat(world, STREAM)
    assert answer.status == 429
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("retry-after") == "1"


async def test_an_error_after_the_first_event_is_the_last_event(world: World) -> None:
    async def breaks(conversation: Conversation) -> AsyncIterator[str]:
        yield "half"
        raise RuntimeError("no")

    world.host.agent = breaks
    answer = await chat(world, STREAM)
    told = events(answer.body)
    assert (answer.status, [event for event, _, _ in told]) == (200, ["turn", "delta", "error"])
    assert told[-1][2]["type"] == "urn:rehydra:problem:agent-failed"
    assert told[-1][2]["outcome"] == "not_done"
    assert told[-1][1] == "7-3"


async def test_pieces_come_while_the_turn_still_runs() -> None:
    go_on = asyncio.Event()

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "first"
        await go_on.wait()
        yield " last"

    async with serving(SmallHost(agent=gated)) as world, wire(world.port) as connection:
        await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
        status, _ = await connection.head()
        async with asyncio.timeout(5):
            seen = b""
            while b"first" not in seen:
                seen += await connection.chunk()
            go_on.set()
            while chunk := await connection.chunk():
                seen += chunk
        assert (status, texts(seen)) == (200, "first last")


async def test_a_client_that_leaves_in_mid_stream_has_its_turn_committed() -> None:
    go_on = asyncio.Event()

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "first"
        await go_on.wait()
        yield " last"

    async with serving(SmallHost(agent=gated)) as world:
        async with wire(world.port) as connection:
            await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
            await connection.head()
            await connection.chunk()
        async with asyncio.timeout(5):
            await world.host.quiet.wait()
            go_on.set()
            assert (await world.host.turns_of("s", 1))[0].reply == "first last"


async def test_silence_is_broken_by_comments_before_and_after_the_first_event() -> None:
    start, go_on = asyncio.Event(), asyncio.Event()

    class Late(SmallHost):
        async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None:
            await start.wait()
            await super().chat(request, requester, hops)

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()

    async with serving(Late(agent=gated), http={"ping_s": 0.05}) as world, wire(world.port) as connection:
        await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
        async with asyncio.timeout(5):
            await connection.head()
            assert await connection.chunk() == PING
            start.set()
            seen = b""
            while b"delta" not in seen or not seen.endswith(PING):
                seen += await connection.chunk()
            go_on.set()
            while chunk := await connection.chunk():
                seen += chunk
        assert texts(seen) == "a"


async def test_an_error_after_a_ping_comes_as_an_event() -> None:
    pinged = asyncio.Event()

    class Refusing(SmallHost):
        async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None:
            await pinged.wait()
            assert requester.begun
            await requester.finish(AgentFailed())

    async with serving(Refusing(), http={"ping_s": 0.05}) as world, wire(world.port) as connection:
        await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
        assert (await connection.head())[0] == 200
        seen = await connection.chunk()
        pinged.set()
        while chunk := await connection.chunk():
            seen += chunk
    assert [event for event, _, _ in events(seen)] == ["error"]


# --- the requester by itself: a client that is a list --------------------------------------------------------------


class Taker:
    """An ASGI ``send`` that keeps what it gets, and takes it only while it may."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.may = asyncio.Event()
        self.may.set()
        self.took = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        await self.may.wait()
        self.messages.append(message)
        self.took.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)


def requester_to(taker: Taker, stall_s: float = 5.0, gap_s: float = 0.0) -> StreamRequester:
    return StreamRequester(taker, "s", (b"x-served-by", b"slot-0"), ping_s=5.0, stall_s=stall_s, gap_s=gap_s)


def done(reply: str, epoch: int) -> Done:
    return Done(Turn(1, "k:k", "f", "m", reply, None, epoch), False, Residence.RESIDENT)


async def test_what_is_ready_at_once_leaves_in_one_piece() -> None:
    taker = Taker()
    requester = requester_to(taker)
    writing = asyncio.create_task(requester.write())
    await requester.turn("k:k", 1, Residence.NEW)
    for piece in ("a", "b", "c"):
        await requester.delta(piece)
    await requester.finish(done("abc", 1))
    await writing
    assert len(taker.bodies) == 1
    assert texts(taker.body) == "abc"
    assert taker.messages[-1]["more_body"] is False


async def test_deltas_that_come_soon_after_others_leave_together_and_the_end_takes_them_along() -> None:
    taker = Taker()
    requester = requester_to(taker, gap_s=60.0)
    writing = asyncio.create_task(requester.write())
    await requester.turn("k:k", 1, Residence.NEW)
    await _steps()
    for piece in ("a", "b", "c"):
        await requester.delta(piece)
        await _steps()
    assert list(map(texts, taker.bodies)) == ["", "a"], "the first one doesn't wait, the others do"
    await requester.finish(done("abc", 1))
    await writing
    assert len(taker.bodies) == 3
    assert texts(taker.body) == "abc"


async def test_what_waits_for_others_leaves_when_the_gap_is_over_or_it_is_much() -> None:
    taker = Taker()
    requester = requester_to(taker, gap_s=0.02)
    writing = asyncio.create_task(requester.write())
    await requester.turn("k:k", 1, Residence.NEW)
    await requester.delta("a")
    await _steps()
    before = asyncio.get_running_loop().time()
    await requester.delta("b")
    await _steps()
    assert texts(taker.body) == "a"
    taker.took.clear()
    await taker.took.wait()
    assert texts(taker.body) == "ab"
    assert asyncio.get_running_loop().time() - before >= 0.015
    await requester.delta("c" * WAITING_BYTES_MAX)
    await _steps()
    assert texts(taker.body) == "ab" + "c" * WAITING_BYTES_MAX
    await requester.finish(AgentFailed())
    await writing


async def test_a_stream_listens_once_in_a_gap_and_tells_what_was_said_as_one_delta() -> None:
    taker = Taker()
    requester = requester_to(taker, gap_s=60.0)
    activation: Any = SimpleNamespace(entitled=True, residence=Residence.NEW)
    ticket = Ticket(TurnRequest(SessionKey("s"), "k:k", "f", "m"), activation)
    writing = asyncio.create_task(requester.write())
    following = asyncio.create_task(follow(ticket, requester))
    await _steps()
    ticket.begin(1)
    for piece in ("a", "b", "c", "d"):
        await _steps()
        ticket.say(piece)
    await _steps()
    assert 50 < requester.quiet_s() <= 60
    assert texts(taker.body) == "a"
    ticket.finish(done("abcd", 1))
    await following
    await requester.finish(done("abcd", 1))
    await writing
    assert [data["text"] for event, _, data in events(taker.body) if event == "delta"] == ["a", "bcd"]


async def _steps() -> None:
    """What is ready is done; no timer comes due."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("streamed", "epoch", "committed", "committed_epoch"),
    [(["ab"], 1, "ab", 2), (["ab"], 1, "other", 1), ([], 1, "ab", 1), (["ab"], 1, "", 2)],
)
async def test_a_turn_that_another_attempt_committed_voids_what_was_streamed(
    streamed: list[str], epoch: int, committed: str, committed_epoch: int
) -> None:
    taker = Taker()
    requester = requester_to(taker)
    await requester.turn("k:k", epoch, Residence.NEW)
    for piece in streamed:
        await requester.delta(piece)
    await requester.finish(done(committed, committed_epoch))
    await requester.write()
    assert texts(taker.body) == committed
    told = events(taker.body)
    assert [event for event, _, _ in told].count("turn") == 2
    assert told[-1][1].startswith(f"{committed_epoch}-")


async def test_another_hosts_frames_are_voided_even_by_the_attempt_that_streamed_before_them() -> None:
    taker = Taker()
    requester = requester_to(taker)
    await requester.turn("k:k", 1, Residence.NEW)
    await requester.delta("ab")
    await requester.relay_frames(frame(b"turn", "2-1", b"{}") + frame(b"delta", "2-2", b'{"text":"x"}'), [])
    await requester.finish(done("ab", 1))
    await requester.write()
    assert texts(taker.body) == "ab"


async def test_a_relayed_end_is_the_end_even_if_nobody_waits_until_it_is_written() -> None:
    """Whoever relays is cancelled when the other host is declared dead, while a slow client takes its time."""
    taker = Taker()
    taker.may.clear()
    requester = requester_to(taker)
    writing = asyncio.create_task(requester.write())
    await asyncio.sleep(0)
    whole = frame(b"delta", "5-2", b'"%b"' % (b"x" * 2 * WAITING_BYTES_MAX)) + frame(b"done", "5-3", b"{}")
    relaying = asyncio.create_task(requester.relay_frames(frame(b"turn", "5-1", b"{}") + whole, []))
    await asyncio.sleep(0)
    relaying.cancel()
    await requester.turn("k:k", 6, Residence.REHYDRATED)
    await requester.finish(done("other", 6))
    taker.may.set()
    await writing
    assert [(event, event_id) for event, event_id, _ in events(taker.body)] == [
        ("turn", "5-1"), ("delta", "5-2"), ("done", "5-3"),
    ]  # fmt: skip


async def test_event_ids_go_on_from_those_of_the_host_whose_frames_were_relayed() -> None:
    taker = Taker()
    requester = requester_to(taker)
    await requester.relay_frames(frame(b"turn", "5-1", b"{}") + frame(b"delta", "5-2", b'{"text":"x"}') + PING, [])
    await requester.finish(AgentFailed())
    await requester.write()
    assert [event_id for _, event_id, _ in events(taker.body)] == ["5-1", "5-2", "5-3"]


async def test_a_final_answer_is_given_once() -> None:
    taker = Taker()
    requester = requester_to(taker)
    await requester.turn("k:k", 1, Residence.NEW)
    await requester.finish(done("", 1))
    await requester.finish(AgentFailed())
    await requester.delta("late")
    await requester.write()
    assert [event for event, _, _ in events(taker.body)] == ["turn", "done"]


async def test_a_slow_client_holds_up_the_telling_at_a_bounded_number_of_bytes() -> None:
    taker = Taker()
    taker.may.clear()
    requester = requester_to(taker)
    writing = asyncio.create_task(requester.write())
    await requester.turn("k:k", 1, Residence.NEW)
    await asyncio.sleep(0)

    async def tell() -> None:
        for _ in range(100):
            await requester.delta("x" * 10_000)
        await requester.finish(done("x" * 1_000_000, 1))

    telling = asyncio.create_task(tell())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not telling.done()
    taker.may.set()
    await asyncio.gather(telling, writing)
    assert max(len(body) for body in taker.bodies[:-1]) < WAITING_BYTES_MAX + 20_000
    assert texts(taker.body) == "x" * 1_000_000


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    async def long(conversation: Conversation) -> AsyncIterator[str]:
        for _ in range(400):
            yield "x" * 50_000

    # 20 MB are more than the sockets' buffers hold.
    async with serving(SmallHost(agent=long), http={"body_s": 0.3}) as world, wire(world.port) as connection:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await connection.send(request_bytes("POST", "/chat", json.dumps(STREAM).encode()))
        async with asyncio.timeout(10):
            await world.host.turns_of("s", 1)
            await world.host.quiet.wait()
