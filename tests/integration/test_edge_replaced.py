"""An Edge with other settings, as a rolling update brings it: HAProxy is replaced under load, and nobody notices."""

from __future__ import annotations

import asyncio

from router.edge.admin import Admin
from tests.integration import test_edge
from tests.integration.edge_backend import Backend
from tests.integration.test_edge import Stack, backends, load, until

run_dir, stack = test_edge.run_dir, test_edge.stack


async def test_an_edge_with_other_settings_replaces_haproxy_under_load_without_an_error_and_streams_go_on(
    stack: Stack,
) -> None:
    """As in a rolling update: the old Edge runs until the new one does, and neither fights the other."""
    async with backends(Backend, Backend) as (a, b):
        await stack.become(s0=a, s1=b)
        pid, old = stack.edge.haproxy.pid(), stack.edge
        assert pid is not None

        async def stream() -> int:
            async with stack.http.post(f"{stack.url}/chat", json={"pieces": 15, "wait_s": 0.2}) as response:
                return len([piece async for piece in response.content])

        streaming = asyncio.create_task(stream())
        other = stack.settings.edge.model_copy(update={"connections_max": 99})
        stack.settings = stack.settings.model_copy(update={"edge": other})
        async with load(stack, 8, {"wait_s": 0.02}) as answers:
            await until(lambda: len(answers) > 50)
            stack.edge = stack.another_edge()
            await stack.edge.start()
            successor = stack.edge.haproxy.pid()
            assert successor != pid
            await until(lambda: old._sync is not None and old._sync._pid == successor)
            await old.aclose()
            await stack.become(s1=b)
            sent = len(answers)
            await until(lambda: len(answers) > sent + 50 and answers[-1][1] == "host-1")
            assert stack.edge.haproxy.pid() == successor
        assert await streaming == 15
        await stack.http.close()  # Idle connections would live on, until their next answer or their time-out.
        await until(lambda: not test_edge._runs(pid))
        info = await Admin(stack.edge.haproxy.paths.socket).info()
        assert (int(info["Pid"]), int(info["Maxconn"])) == (successor, 99 + 64)


async def test_the_last_edge_takes_a_replaced_haproxy_away_as_well(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        pid = stack.edge.haproxy.pid()
        assert pid is not None
        async with stack.http.post(f"{stack.url}/chat", json={"pieces": 50, "wait_s": 0.2}):
            other = stack.settings.edge.model_copy(update={"connections_max": 99})
            stack.settings = stack.settings.model_copy(update={"edge": other})
            successor = stack.another_edge()
            await successor.start()
            await stack.edge.aclose()
            assert test_edge._runs(pid), "it has a stream to finish"
            await successor.aclose()
            assert not test_edge._runs(pid)
