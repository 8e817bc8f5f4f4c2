"""By what hosts know the edge, and what of a client's own inventions reaches a real host through a real HAProxy."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from actors.api_headers import edge_secret, internal_pass
from tests.integration import test_edge
from tests.integration.edge_backend import Backend
from tests.integration.test_edge import Stack, backends
from tests.runtime.api_world import serving

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
