"""A host's own HTTP server: its address, its limits, its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.api_answers import Answer, json_answer
from actors.asgi import WRITER, Receive, Scope, Send, send_answer
from actors.errors import Misconfigured
from actors.listener import Listener
from actors.settings import HttpSettings
from tests.runtime.api_world import Raw, Wire, request_bytes, settings_with, wire


class App:
    """Answers once it may; counts who asks and who leaves."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.headers: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        self.headers.append(scope["headers"])
        if scope["path"] == "/watch":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        await self.may.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def listening(app: App, **http: Any) -> AsyncIterator[Listener]:
    listener = Listener(app, settings_with(http=http).http)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.aclose(0.1)


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


async def served(connection: Wire) -> bool:
    await connection.send(request_bytes("GET", "/"))
    return (await connection.answer()).body == b"ok"


async def test_the_address_is_known_before_anything_is_served() -> None:
    app = App()
    listener = Listener(app, settings_with().http)
    address = listener.bind()
    assert address == listener.address == listener.bind()
    async with wire(port_of(listener)) as connection:
        await connection.send(request_bytes("GET", "/"))
        assert not app.asked.is_set()
        assert await listener.start() == address
        assert (await connection.answer()).body == b"ok"
    await listener.aclose()


def two_free_ports() -> int:
    """The lower of two neighbours that nobody uses now."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            low = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", low + 1))
                return low


async def test_a_port_is_taken_from_the_range_and_never_twice() -> None:
    low = two_free_ports()
    http = settings_with(http={"port_min": low, "port_max": low + 1}).http
    first, second, third = (Listener(App(), http) for _ in range(3))
    try:
        assert {first.bind(), second.bind()} == {f"127.0.0.1:{low}", f"127.0.0.1:{low + 1}"}
        with pytest.raises(Misconfigured, match=f"{low}-{low + 1}"):
            third.bind()
    finally:
        await first.aclose()
        await second.aclose()


def anywhere(bind: str) -> HttpSettings:
    """An address that others reach, which needs a secret of one's own."""
    return settings_with(http={"bind": bind}, edge={"secret": "b25lJ3Mgb3du"}).http


async def test_a_host_on_all_addresses_tells_others_its_nodes_own() -> None:
    listener = Listener(App(), anywhere("0.0.0.0"), node_address="10.9.8.7")
    assert listener.bind().startswith("10.9.8.7:")
    await listener.aclose()
    with pytest.raises(Misconfigured):
        Listener(App(), anywhere("192.0.2.1")).bind()


async def test_no_signal_handler_is_installed() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with listening(App()) as listener, wire(port_of(listener)) as connection:
        assert await served(connection)
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_a_running_request_is_finished_before_the_end_and_new_connections_are_refused() -> None:
    app = App()
    app.may.clear()
    async with listening(app) as listener, wire(port_of(listener)) as connection, asyncio.timeout(5):
        await connection.send(request_bytes("GET", "/"))
        await app.asked.wait()
        closing = asyncio.create_task(listener.aclose(5))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port_of(listener))
        assert not closing.done()
        app.may.set()
        answer = await connection.answer()
        assert (answer.body, answer.header("connection")) == (b"ok", "close")
        await closing


async def test_an_idle_connection_doesnt_hold_up_the_end() -> None:
    async with listening(App()) as listener, wire(port_of(listener)) as connection:
        assert await served(connection)
        began = time.monotonic()
        await listener.aclose(10)
        assert time.monotonic() - began < 1
        assert await connection.reader.read() == b""


async def test_a_request_that_takes_too_long_is_cut_off_without_an_answer() -> None:
    app = App()
    async with listening(app) as listener, wire(port_of(listener)) as connection, asyncio.timeout(5):
        await connection.send(request_bytes("GET", "/watch"))
        await app.asked.wait()
        await listener.aclose(0.1)
        assert app.left.is_set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await connection.head()


async def test_one_connection_too_many_is_told_so() -> None:
    async with listening(App(), connections_max=1) as listener, wire(port_of(listener)) as one:
        assert await served(one)
        async with wire(port_of(listener)) as two:
            answer = await two.answer()
            assert answer.status == 503
            assert answer.header("content-type") == "application/problem+json"
            assert answer.header("retry-after") == "1"
            assert answer.json["outcome"] == "unknown"
            assert await two.reader.read() == b""
        assert await served(one)


async def test_what_isnt_http_is_told_so() -> None:
    async with listening(App()) as listener, wire(port_of(listener)) as connection:
        await connection.send(b"hello there\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.header("content-type")) == (400, "application/problem+json")
        assert await connection.reader.read() == b""


def problem(answer: Raw, status: int, code: str) -> None:
    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json")
    assert (answer.json["type"], answer.json["status"]) == (f"urn:rehydra:problem:{code}", status)
    assert (answer.json["outcome"], answer.header("connection")) == ("not_done", "close")


@pytest.mark.parametrize(("first", "status"), [(b"GET / HTTP/1.1\r\nx: ", 431), (b"GET /", 414)])
async def test_a_head_that_never_ends_is_refused_by_its_size(first: bytes, status: int) -> None:
    app = App()
    async with listening(app, head_bytes_max=10_000) as listener, wire(port_of(listener)) as connection:
        await connection.send(first)
        async with asyncio.timeout(5):
            for _ in range(100):
                await connection.send(b"x" * 1000)
                await asyncio.sleep(0.001)
            # All of it was taken, so the answer isn't lost to a reset.
            problem(await connection.answer(), status, "head-too-large" if status == 431 else "target-too-long")
            assert await connection.reader.read() == b""
        assert not app.headers


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/" + "p" * 11_000, [], "target-too-long"),
        ("/?" + "q" * 11_000, [], "target-too-long"),
        ("/", [("x", "v" * 12_000)], "head-too-large"),
        ("/" + "p" * 6_000, [("x", "v" * 6_000)], "head-too-large"),
        ("/", [(f"x{n}", "v") for n in range(40)], "head-too-large"),
    ],
)
async def test_a_head_over_a_limit_is_refused_whole_as_well(
    path: str, headers: list[tuple[str, str]], code: str
) -> None:
    app = App()
    async with listening(app, head_bytes_max=10_000, headers_max=30) as listener, wire(port_of(listener)) as connection:
        assert await served(connection)
        await connection.send(request_bytes("GET", path, None, *headers) + b"more")
        problem(await connection.answer(), 414 if code == "target-too-long" else 431, code)
        assert await connection.reader.read() == b""
        assert len(app.headers) == 1


async def test_a_head_at_its_limits_is_taken() -> None:
    async with (
        listening(App(), head_bytes_max=10_000, headers_max=30) as listener,
        wire(port_of(listener)) as connection,
    ):
        more = [("x", "v" * 300) for _ in range(29)]
        await connection.send(request_bytes("GET", "/" + "p" * 1_000, None, *more))
        assert (await connection.answer()).body == b"ok"
        assert await served(connection)


async def test_a_bad_head_behind_a_running_request_leaves_that_one_its_answer() -> None:
    app = App()
    app.may.clear()
    async with listening(app) as listener, wire(port_of(listener)) as connection, asyncio.timeout(5):
        await connection.send(request_bytes("GET", "/") + b"hello there\r\n\r\n")
        await app.asked.wait()
        app.may.set()
        answer = await connection.answer()
        assert (answer.body, answer.header("connection")) == (b"ok", "close")
        assert await connection.reader.read() == b""


async def test_who_goes_on_sending_after_a_refusal_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.connection.EXCESS_BYTES_MAX", 100_000)
    async with listening(App(), head_bytes_max=10_000) as listener, wire(port_of(listener)) as connection:
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while True:
                    await connection.send(b"GET /" + b"x" * 10_000)
                    await asyncio.sleep(0.001)


CHUNKED = request_bytes("POST", "/", b"", ("transfer-encoding", "chunked"))


@pytest.mark.parametrize("pieces", [1, 2, 4])
async def test_what_comes_after_the_head_is_never_a_header(pieces: int) -> None:
    app = App()
    app.may.clear()
    parts = [CHUNKED, b"5\r\nhello\r\n", b"0\r\nx-smuggled: 1\r\n", b"host: other\r\nexpect: 100-continue\r\n\r\n"]
    async with listening(app) as listener, wire(port_of(listener)) as connection, asyncio.timeout(5):
        for at in range(0, 4, 4 // pieces):
            await connection.send(b"".join(parts[at : at + 4 // pieces]))
            await app.asked.wait()
        app.may.set()
        assert (await connection.answer()).body == b"ok"
        assert await served(connection)
        assert app.headers == [[(b"host", b"test"), (b"transfer-encoding", b"chunked")], [(b"host", b"test")]]


HIDDEN = request_bytes("GET", "/hidden")


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    "head",
    [
        request_bytes("POST", "/", None, ("Content-Length", str(len(HIDDEN))), ("Connection", "upgrade"), upgrade)
        for upgrade in (("Upgrade", "foo"), ("Upgrade", "websocket"), ("Upgrade", "h2c"))
    ],
)
async def test_what_comes_after_a_head_that_asks_for_another_protocol_is_never_a_request(
    head: bytes, pieces: int
) -> None:
    app = App()
    async with listening(app) as listener, wire(port_of(listener)) as connection, asyncio.timeout(5):
        assert await served(connection)
        for part in (head, HIDDEN) if pieces == 2 else (head + HIDDEN,):
            await connection.send(part)
            # So that they aren't read as one.
            await asyncio.sleep(0.05)
        problem(await connection.answer(), 400, "bad-request")
        assert await connection.reader.read() == b""
        assert len(app.headers) == 1


@pytest.mark.parametrize(
    ("before", "endless"),
    [
        (b"5\r\nhello\r\n0\r\nx: ", b"x" * 1000),
        (b"5\r\nhello\r\n0\r\n", b"x" * 1000),
        (b"5\r\nhello\r\n0\r\n", b"x: 1\r\n" * 160),
        (b"5;x=", b"x" * 1000),
    ],
)
async def test_what_is_neither_head_nor_body_is_cut_by_its_size(before: bytes, endless: bytes) -> None:
    app = App()
    app.may.clear()
    async with listening(app, head_bytes_max=10_000) as listener, wire(port_of(listener)) as connection:
        await connection.send(CHUNKED + before)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(5):
                for _ in range(1000):
                    await connection.send(endless)
                    await asyncio.sleep(0.001)
                await connection.head()
        assert len(app.headers[0]) == 2
        app.may.set()


async def test_a_body_of_many_small_pieces_is_no_endless_head() -> None:
    async with listening(App(), head_bytes_max=1024) as listener, wire(port_of(listener)) as connection:
        await connection.send(CHUNKED)
        for _ in range(100):
            await connection.send(b"1\r\nx\r\n" * 50)
            await asyncio.sleep(0)
        await connection.send(b"0\r\n\r\n")
        assert (await connection.answer()).body == b"ok"
        for _ in range(100):
            assert await served(connection)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nx: "])
async def test_a_head_that_never_comes_is_cut_by_its_time(sent: bytes) -> None:
    async with listening(App(), body_s=0.1) as listener, wire(port_of(listener)) as connection:
        await connection.send(sent)
        async with asyncio.timeout(5):
            try:
                assert await connection.reader.read() == b""
            except ConnectionError:
                pass


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with listening(App(), keep_alive_s=0.1) as listener, wire(port_of(listener)) as connection:
        assert await served(connection)
        async with asyncio.timeout(5):
            assert await connection.reader.read() == b""


async def test_ending_twice_or_without_a_beginning_is_harmless() -> None:
    listener = Listener(App(), settings_with().http)
    await listener.aclose()
    listener = Listener(App(), settings_with().http)
    await listener.start()
    await listener.aclose(0.1)
    await listener.aclose(0.1)


class Written:
    """A transport that notes each write."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Noting(App):
    """``/stream`` has no length, everything else has; ``/at-once`` is written by the answer's writer, if that does."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        joined = send.__self__.transport  # type: ignore[attr-defined]
        joined._transport = Written(joined._transport, self.writes)
        if scope["path"] == "/at-once":
            await send_answer(send, json_answer(200, {"path": "/at-once"}), scope[WRITER])
            return
        if scope["path"] != "/stream":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("method", "path", "pieces"),
    [
        ("GET", "/whole", ["head and body"]),
        ("GET", "/at-once", ["head and body"]),
        ("HEAD", "/whole", ["head"]),
        ("HEAD", "/at-once", ["head"]),
        ("GET", "/stream", ["head", "a", "end"]),
    ],
)
async def test_head_and_body_of_a_whole_answer_leave_in_one_write_so_that_no_kill_comes_between(
    method: str, path: str, pieces: list[str]
) -> None:
    app = Noting()
    async with listening(app) as listener, wire(port_of(listener)) as connection:
        await connection.send(f"{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        await connection.reader.read()
    assert [_piece(data) for data in app.writes] == pieces


class Telling(App):
    """Answers each request by its writer, and notes whether that took it."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.taken: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.answers.pop(0)
        self.taken.append(scope[WRITER].write_whole(answer))
        if not self.taken[-1]:
            await send_answer(send, answer)


async def test_answers_written_at_once_are_what_two_sends_make_of_them_on_a_connection_that_lives_on() -> None:
    unsized = Answer(200, [(b"x-a", b"b")], b"body")
    app = Telling(json_answer(200, [1]), unsized, json_answer(429, [2]), json_answer(200, [3]))
    heads = []
    async with listening(app) as listener, wire(port_of(listener)) as connection:
        # The first two come at once: the second waits for the end of the first.
        await connection.send(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi" * 2)
        for at in range(4):
            if at > 1:
                close = b"connection: close\r\n" if at == 3 else b""
                await connection.send(b"POST /a HTTP/1.1\r\nhost: a\r\n%bcontent-length: 2\r\n\r\nhi" % close)
            heads.append(await connection.answer())
    assert app.taken == [True, False, True, False]
    told = [(each.status, each.body) for each in heads]
    assert told == [(200, b"[1]"), (200, b"body"), (429, b"[2]"), (200, b"[3]")]
    assert all(each.header("date") for each in heads)
    assert heads[-1].header("connection") == "close"


def _piece(data: bytes) -> str:
    if not data.startswith(b"HTTP/1.1 200"):
        return "end" if data == b"0\r\n\r\n" else "a"
    return "head" if data.endswith(b"\r\n\r\n") else "head and body"
