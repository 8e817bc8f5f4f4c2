"""``deploy/nginx/nginx.conf`` as it stands, in a real nginx before two edges that say what they saw."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from actors.errors import TooLarge
from actors.settings import Settings
from deploy.processes import leashed
from loadtest.lab.edges import placed
from router.edge.answers import NoHost
from tests.servers import ServerMissing, free_port, in_ci

START_S = 10.0

pytestmark = pytest.mark.timeout(30)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EdgeStub:
    """One edge: notes every request and answers with its own name, or as ``answer`` says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.seen: list[web.Request] = []
        self.answer: Answer = self._name
        application = web.Application(client_max_size=1 << 20)
        application.router.add_route("*", "/{path:.*}", self._note)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, max_field_size=1 << 17)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def end(self) -> None:
        """From now on its port refuses connections. Idempotent."""
        await self._runner.cleanup()

    async def _note(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.seen.append(request)
        return await self.answer(request)

    async def _name(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"edge": self.name})


async def dies(request: web.Request) -> web.StreamResponse:
    """The request has arrived and its connection breaks."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Front:
    """Two edges and an nginx before them."""

    def __init__(self, folder: Path) -> None:
        self.edges = EdgeStub("one"), EdgeStub("two")
        self.port = free_port()
        self.http: aiohttp.ClientSession
        self._config = folder / "nginx.conf"
        self._config.write_text(placed(folder, self.port, [edge.port for edge in self.edges]))
        self._nginx: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        for edge in self.edges:
            await edge.start()
        command = [nginx_binary(), "-p", str(self._config.parent), "-c", str(self._config), "-g", "daemon off;"]
        self._nginx = await asyncio.create_subprocess_exec(*leashed(command, signal.SIGTERM), stderr=PIPE)
        async with asyncio.timeout(START_S):
            while not await self._listens():  # noqa: ASYNC110 - it comes about in another process
                await asyncio.sleep(0.01)
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", timeout=aiohttp.ClientTimeout(10))
        return self

    async def _listens(self) -> bool:
        if self._nginx.returncode is not None:
            _, complaint = await self._nginx.communicate()
            raise AssertionError(complaint.decode())
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        self._nginx.terminate()
        await self._nginx.communicate()
        for edge in self.edges:
            await edge.end()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Status, headers, and the JSON of the answer."""
        async with self.http.request(method, path, data=body, headers=headers) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def edge_of(self, session: str) -> str:
        status, _, answer = await self.ask("POST", "/chat", b"{}", {"X-Session-Id": session})
        assert status == 200, answer
        return str(answer["edge"])

    async def owner(self, session: str) -> EdgeStub:
        """The edge by which the session goes. What it has seen of it is forgotten."""
        name = await self.edge_of(session)
        for edge in self.edges:
            edge.seen.clear()
        return next(edge for edge in self.edges if edge.name == name)

    def seen(self) -> list[web.Request]:
        return [request for edge in self.edges for request in edge.seen]


def nginx_binary() -> str:
    """Skipped where there is none, and in CI a failure."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        if in_ci():
            raise ServerMissing("nginx is not on PATH (apt-get install nginx-light)")
        pytest.skip("nginx is not on PATH (apt-get install nginx-light)")
    return found


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with Front(tmp_path) as front:
        yield front


async def test_a_session_stays_at_one_edge_however_it_is_named_and_sessions_are_spread(front: Front) -> None:
    sessions = [f"talk-{number}" for number in range(100)]
    first = [await front.edge_of(session) for session in sessions]
    assert [await front.edge_of(session) for session in sessions] == first
    in_path = [(await front.ask("GET", f"/sessions/{session}/turns?after=2"))[2]["edge"] for session in sessions]
    assert in_path == first
    assert min(Counter(first)[edge.name] for edge in front.edges) > 25


async def test_when_an_edge_has_gone_its_sessions_go_by_the_other_and_nobody_elses_move(front: Front) -> None:
    sessions = [f"talk-{number}" for number in range(60)]
    before = {session: await front.edge_of(session) for session in sessions}
    await front.edges[0].end()
    after = {session: await front.edge_of(session) for session in sessions}
    assert set(before.values()) == {"one", "two"} and set(after.values()) == {"two"}


@pytest.mark.parametrize("key", ["", "my-key"], ids=["no key", "a key"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/chat"), ("DELETE", "/sessions/talk")])
async def test_what_an_edge_died_under_is_repeated_on_the_other_as_one_and_the_same_turn(
    front: Front, method: str, path: str, key: str
) -> None:
    """I3: both attempts have one key: the client's own, or one that nobody can guess."""
    owner = await front.owner("talk")
    owner.answer = dies
    headers = {"X-Session-Id": "talk"} | ({"Idempotency-Key": key} if key else {})
    status, _, answer = await front.ask(method, path, b'{"message": "Hello"}', headers)
    assert status == 200 and answer["edge"] != owner.name
    first, second = front.seen()
    assert await first.read() == await second.read() == b'{"message": "Hello"}'
    used = first.headers["Idempotency-Key"]
    assert second.headers["Idempotency-Key"] == used
    assert used == key if key else re.fullmatch("[0-9a-f]{32}", used)


async def test_two_messages_without_a_key_are_two_turns_and_a_read_has_none(front: Front) -> None:
    for _ in range(2):
        await front.ask("POST", "/chat", b"{}", {"X-Session-Id": "talk"})
    await front.ask("GET", "/sessions/talk")
    one, two, read = (request.headers.get("Idempotency-Key") for request in front.seen())
    assert one and two and one != two and read is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_what_an_edge_has_answered_is_passed_on_and_repeated_nowhere(front: Front, status: int) -> None:
    async def refuses(request: web.Request) -> web.StreamResponse:
        return web.json_response({"outcome": "not_done"}, status=status, headers={"Retry-After": "7"})

    for edge in front.edges:
        edge.answer = refuses
    named = {"X-Session-Id": "talk", "Idempotency-Key": "k"}
    for _ in range(3):
        got, headers, answer = await front.ask("POST", "/chat", b"{}", named)
        assert (got, headers["Retry-After"], answer) == (status, "7", {"outcome": "not_done"})
    assert len(front.seen()) == 3, "no edge counts as gone because a host is full"


async def test_pieces_of_a_stream_arrive_as_they_are_sent(front: Front) -> None:
    arrived = asyncio.Event()

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(f"data: {number}\n\n".encode())
            await arrived.wait()
            arrived.clear()
        return response

    for edge in front.edges:
        edge.answer = streams
    async with front.http.post("/chat", data=b'{"stream": true}') as response:
        for number in range(3):
            assert await response.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
            arrived.set()


async def test_an_edge_hears_who_the_client_is_and_nothing_that_the_client_says_of_it(front: Front) -> None:
    spoof = {"X-Forwarded-For": "10.9.9.9", "X-Forwarded-Proto": "gopher", "Connection": "upgrade", "Upgrade": "h2c"}
    await front.ask("GET", "/ring", headers=spoof)
    (request,) = front.seen()
    assert request.headers.getall("X-Forwarded-For") == ["127.0.0.1"]
    assert request.headers["X-Forwarded-Proto"] == "http"
    assert request.headers["Host"] == f"127.0.0.1:{front.port}"
    assert "Upgrade" not in request.headers


async def test_what_the_edge_takes_passes_and_what_is_far_over_is_refused_in_the_edges_words(front: Front) -> None:
    settings = Settings()
    largest = b"x" * settings.session.body_bytes_max
    long = "h" * (settings.http.head_bytes_max - 1)
    status, _, _ = await front.ask("POST", "/chat", largest + b"x", {"X-Long": long})
    (request,) = front.seen()
    assert status == 200 and await request.read() == largest + b"x" and request.headers["X-Long"] == long
    for body in (largest * 2, pieces(largest * 2)):
        async with front.http.post("/chat", data=body) as response:
            problem = await response.json()
            assert response.headers["Content-Type"] == "application/problem+json"
        assert response.status == problem["status"] == 413
        assert problem == TooLarge().problem()
    assert len(front.seen()) == 1


async def test_without_any_edge_the_answer_is_the_edges_own_for_no_host(front: Front) -> None:
    for edge in front.edges:
        await edge.end()
    for method in ("GET", "POST"):
        status, headers, problem = await front.ask(method, "/chat")
        assert (status, headers["Retry-After"], headers["Content-Type"]) == (503, "1", "application/problem+json")
        assert problem == NoHost(problem["detail"]).problem() and problem["outcome"] == "unknown"


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Of a body whose length isn't told before."""
    for at in range(0, len(body), 1 << 16):
        yield body[at : at + (1 << 16)]
