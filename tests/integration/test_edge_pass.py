"""By what hosts know the edge, and what of a client's own inventions reaches a real host through a real HAProxy."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from actors.api_headers import edge_secret, internal_pass
from tests.integration import test_edge
from tests.integration.edge_backend import Backend
from tests.integration.test_edge import Stack, backends
from tests.integration.test_edge_answers import host_behind
from tests.runtime.api_world import request_bytes, serving, wire

run_dir, stack = test_edge.run_dir, test_edge.stack


async def test_the_edge_shows_hosts_the_pass_that_they_compute_and_clients_never_see_it(stack: Stack) -> None:
    right = internal_pass(edge_secret(stack.settings))
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        for method, path in (("POST", "/chat"), ("GET", "/sessions/talk/turns"), ("DELETE", "/sessions/talk")):
            async with stack.http.request(method, stack.url + path) as response:
                assert (await response.json())["headers"]["x-rehydra-pass"] == right
                assert [name for name in response.headers if name.lower().startswith("x-rehydra-")] == []
        # A hop-by-hop header of the client's choice is still no way to take it off.
        seen = (await stack.post(connection="x-rehydra-pass"))["headers"]
        assert seen["x-rehydra-pass"] == right


async def test_only_its_owner_can_read_the_configuration_that_holds_the_pass(stack: Stack) -> None:
    right = internal_pass(edge_secret(stack.settings))
    held = [path for path in Path(stack.run_dir).iterdir() if path.is_file() and right in path.read_text()]  # noqa: ASYNC240
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in held] == [("haproxy.cfg", 0o600)]


async def test_trailers_and_forged_headers_reach_a_real_host_as_nothing(stack: Stack) -> None:
    async with serving() as world, backends(Backend) as (a,):
        a.port = world.port
        await stack.become(s0=a)
        body = b'{"message": "m", "session_id": "s"}'
        theirs = b"x-rehydra-to: inc-1\r\nx-rehydra-turn: k:theirs\r\nx-rehydra-tenant: theirs\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        head = b"POST /chat HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n%b\r\n" % theirs
        writer.write(head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, theirs))
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        ((request, hops),) = world.host.chats
        assert (hops, request.key.tenant) == (0, "-")
        # What the edge itself says is believed: its id of the request.
        assert len(request.turn_id) == len("r:") + 36


HIDDEN = request_bytes("POST", "/chat", b'{"message": "hidden", "session_id": "theirs"}')
UPGRADES = [("foo", "Upgrade"), ("h2c", "Upgrade, HTTP2-Settings"), ("websocket", "keep-alive, upgrade")]


@pytest.mark.parametrize(("upgrade", "connection"), UPGRADES)
async def test_a_body_is_a_body_whatever_protocol_its_head_asks_for(
    stack: Stack, upgrade: str, connection: str
) -> None:
    asks = (("Connection", connection), ("Upgrade", upgrade), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
    # Line ends between requests are skipped, so one of these would be found wherever a read happens to begin.
    hidden = ((b"\r\n" * 5_000 + HIDDEN) * 40)[:390_000]
    async with host_behind(stack) as world:
        for body, status in ((b'{"message": "m", "session_id": "s"}', 200), (hidden, 400)):
            async with wire(stack.port) as sent, asyncio.timeout(10):
                await sent.send(request_bytes("POST", "/chat", body, *asks))
                assert (await sent.answer()).status == status
                # The connection is still in step: the next answer is the next request's own.
                await sent.send(request_bytes("GET", "/healthz"))
                assert (await sent.answer()).status == 200
        assert [request.message for request, _ in world.host.chats] == ["m"]


async def test_http_2_isnt_spoken_even_to_who_begins_with_it(stack: Stack) -> None:
    empty_settings = b"\0\0\0\x04\0\0\0\0\0"
    async with host_behind(stack), wire(stack.port) as sent, asyncio.timeout(10):
        await sent.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        assert (await sent.reader.read()).startswith(b"HTTP/1.1 4")
