"""The edge as clients and hosts see it: a real HAProxy in front of tiny hosts."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.errors import Misconfigured
from actors.settings import Settings
from router.edge import Edge
from router.edge.admin import Admin, EdgeFailed
from router.edge.config import Paths
from router.edge.process import Haproxy
from router.ring import Ring
from tests.integration.edge_backend import Backend, BackendProcess, member
from tests.integration.edge_controller import FileMembership, settings_for
from tests.servers import free_port

AnyBackend = Backend | BackendProcess


class Stack:
    """An Edge, its HAProxy, and hosts in slots. Everything it started ends with it."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.port = free_port()
        self.settings: Settings = settings_for(self.port, run_dir)
        self.store = FileMembership(os.path.join(run_dir, "table.json"))
        self.ring_version = 1
        self.slots: dict[int, AnyBackend] = {}
        self.edge = self.another_edge()
        self.http: aiohttp.ClientSession

    def another_edge(self) -> Edge:
        return Edge(self.settings, lambda _: self.store)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ring(self) -> Ring:
        return Ring.of(self.store.table())

    def owner(self, session_id: str) -> str:
        owner = self.ring.owner(session_id)
        assert owner is not None
        return owner.incarnation

    def write(self) -> None:
        self.ring_version += 1
        self.store.write(self.ring_version, *(member(slot, backend) for slot, backend in self.slots.items()))

    async def become(self, **slots: AnyBackend) -> None:
        """Write the table and wait until HAProxy has taken it on."""
        self.slots = {int(name.removeprefix("s")): backend for name, backend in slots.items()}
        self.write()
        self.edge.hurry()
        await until(lambda: self.follows(self.edge))

    def follows(self, edge: Edge) -> bool:
        sync = edge._sync
        # The ring is read before HAProxy is told: until the lock is free again it is still being told.
        return (
            sync is not None
            and sync.ring.ring_version == self.ring_version
            and not sync.failure
            and not sync._changing.locked()
        )

    async def post(self, body: Any = None, path: str = "/chat", **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(self.url + path, json=body or {}, headers=named) as response:
            text = await response.text()
            assert response.status == 200, f"{response.status} {text}"
            return dict(json.loads(text))


async def until(true: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - it comes about in another process
            await asyncio.sleep(0.01)


async def until_so(true: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
def run_dir() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="rh-edge-")
    yield folder
    Haproxy(Paths.of(folder)).end()
    shutil.rmtree(folder)


@pytest.fixture
async def stack(run_dir: str) -> AsyncIterator[Stack]:
    stack = Stack(run_dir)
    stack.store.write(1)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as stack.http:
        await stack.edge.start()
        try:
            yield stack
        finally:
            await stack.edge.aclose(last=True)


@asynccontextmanager
async def backends(*kinds: type[AnyBackend]) -> AsyncIterator[list[AnyBackend]]:
    async with AsyncExitStack() as ends:
        started = [kind(f"host-{number}") for number, kind in enumerate(kinds)]
        for backend in started:
            ends.push_async_callback(backend.stop)
            await backend.start()
        yield started


@asynccontextmanager
async def load(stack: Stack, clients: int, body: Any = None) -> AsyncIterator[list[tuple[float, str]]]:
    """Clients that post without pause and without retries; yields (seconds, who answered). Any error fails."""
    answers: list[tuple[float, str]] = []
    stopping = asyncio.Event()

    async def client(number: int) -> None:
        turn = 0
        while not stopping.is_set():
            turn += 1
            started = time.monotonic()
            answer = await stack.post(body, x_session_id=f"session-{number}-{turn % 7}")
            answers.append((time.monotonic() - started, answer["name"]))

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(client(number))
        try:
            yield answers
        finally:
            stopping.set()


# --- where requests go --------------------------------------------------------------------------------------------


async def test_the_edge_and_the_hosts_agree_on_the_owner_of_200_sessions_by_header_body_and_path(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        owners = set()
        for number in range(200):
            session_id = f"user-{number}@example.org:{number * 7919 % 1000}~.x"
            owner = stack.owner(session_id)
            owners.add(owner)
            assert (await stack.post(x_session_id=session_id))["name"] == owner
            assert (await stack.post({"message": "hi", "session_id": session_id}))["name"] == owner
            async with stack.http.delete(f"{stack.url}/sessions/{session_id}") as response:
                assert (await response.json())["name"] == owner
        assert owners == {"host-0", "host-1", "host-2"}


async def test_the_id_of_a_new_session_is_what_python_derives_from_the_turn_id(stack: Stack) -> None:
    key = base64.b64decode(stack.settings.edge.secret.get_secret_value())
    async with backends(Backend, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        for number in range(50):
            if keyed := number % 2:
                answer = await stack.post({"message": "hi"}, idempotency_key=f"key-{number}")
            else:
                answer = await stack.post({"message": "hi"})
            seen = answer["headers"]
            turn_id = f"k:key-{number}" if keyed else f"r:{seen['x-rehydra-request']}"
            derived = hmac.digest(key, turn_id.encode(), "sha256").hex()[:32]
            assert seen["x-rehydra-session"] == derived
            assert answer["name"] == stack.owner(derived)


async def test_a_session_that_is_named_is_not_derived(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        assert "x-rehydra-session" not in (await stack.post(x_session_id="talk"))["headers"]
        assert "x-rehydra-session" not in (await stack.post({"session_id": "talk"}))["headers"]


async def test_what_comes_from_outside_under_the_edges_own_names_is_deleted(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        forged = dict.fromkeys(
            (*(f"x_rehydra_{name}" for name in ("session", "request", "hops", "turn", "pass")), "X_Rehydra_To"),
            "forged",
        )
        serves = {"x_request_timeout_seconds": "9", "x_request_disconnect_disabled": "1"}
        seen = (await stack.post({"session_id": "talk"}, **forged, **serves))["headers"]
        assert "forged" not in seen.values()
        assert {name for name in seen if name.startswith("x-re")} == {"x-rehydra-request", "x-rehydra-pass"}
        assert len(seen["x-rehydra-request"]) == 36


@pytest.mark.parametrize("path", ["/internal/hand-off", "//internal/x", "/%69nternal/x", "/INTERNAL", "/internal?a=b"])
async def test_what_hosts_say_to_each_other_does_not_exist_outside(stack: Stack, path: str) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        assert isinstance(a, Backend)
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        assert b" 404 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert a.seen == 0
        assert (await stack.post(path="/internals"))["name"] == "host-0"


async def test_reads_go_to_all_hosts_whoever_owns_the_session(stack: Stack) -> None:
    async with backends(Backend, Backend) as (a, b):
        await stack.become(s0=a, s1=b)
        names = set()
        for _ in range(20):
            async with stack.http.get(f"{stack.url}/sessions/talk/turns") as response:
                names.add((await response.json())["name"])
        assert names == {"host-0", "host-1"}


async def test_pieces_of_a_stream_pass_the_edge_as_they_come(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        started = time.monotonic()
        async with stack.http.post(f"{stack.url}/chat", json={"pieces": 5, "wait_s": 0.2}) as response:
            arrivals = [time.monotonic() - started async for _ in response.content]
        assert len(arrivals) == 5
        assert all(abs(arrival - number * 0.2) < 0.15 for number, arrival in enumerate(arrivals)), arrivals


# --- hosts die, freeze, come and go -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 300_000])
async def test_no_request_fails_when_a_host_is_killed_under_them(stack: Stack, length: int) -> None:
    clients = 12 if length < 1_000 else 4
    async with backends(BackendProcess, BackendProcess, BackendProcess) as (a, b, c):
        await stack.become(s0=a, s1=b, s2=c)
        assert isinstance(b, BackendProcess)
        async with load(stack, clients, {"wait_s": 0.05, "message": "x" * length}) as answers:
            await until(lambda: len({name for _, name in answers}) == 3)
            b.send(signal.SIGKILL)
            killed_after = len(answers)
            await until(lambda: len(answers) > killed_after + 20 * clients, 30)
        assert max(seconds for seconds, _ in answers) < 3.0
        assert {name for _, name in answers[-clients:]} <= {"host-0", "host-2"}


async def test_hosts_join_and_leave_under_load_without_an_error_and_streams_end_on_the_host_that_left(
    stack: Stack,
) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c):
        await stack.become(s0=a, s1=b)
        leavers = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-1")
        async with load(stack, 8, {"wait_s": 0.01}) as answers:
            await until(lambda: {name for _, name in answers} == {"host-0", "host-1"})
            stream = stack.http.post(
                f"{stack.url}/chat", json={"pieces": 10, "wait_s": 0.2}, headers={"x-session-id": leavers}
            )
            async with stream as response:
                await response.content.readline()
                await stack.become(s0=a, s1=b, s2=c)
                await until(lambda: answers[-1][1] == "host-2")
                await stack.become(s0=a, s2=c)
                left_at = len(answers)
                await until(lambda: len(answers) > left_at + 50)
                assert {name for _, name in answers[left_at + 16 :]} == {"host-0", "host-2"}
                for _ in range(3):
                    await stack.become(s0=a, s1=b, s2=c)
                    await stack.become(s0=a, s2=c)
                assert [line async for line in response.content] == [f"host-1 {n}\n".encode() for n in range(1, 10)]
        assert max(seconds for seconds, _ in answers) < 1.0


async def test_after_a_change_every_session_is_at_its_new_owner(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, c):
        for slots in ({"s0": a}, {"s0": a, "s1": b}, {"s0": a, "s1": b, "s5": c}, {"s1": b, "s5": c}):
            await stack.become(**slots)
            for number in range(60):
                assert (await stack.post(x_session_id=f"t{number}"))["name"] == stack.owner(f"t{number}")


async def test_a_successor_in_a_dead_hosts_slot_gets_its_requests_at_once(stack: Stack) -> None:
    async with backends(Backend, Backend, Backend) as (a, b, successor):
        await stack.become(s0=a, s1=b)
        await b.stop()

        async def marked_down() -> bool:
            return not (await Admin(stack.edge.haproxy.paths.socket).servers())["slot-1"].up

        await until_so(marked_down)
        await stack.become(s0=a, s1=successor)
        session_id = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-2")
        assert (await stack.post(x_session_id=session_id))["name"] == "host-2"


async def test_a_host_whose_health_check_fails_gets_no_requests_until_it_recovers(stack: Stack) -> None:
    async with backends(Backend, Backend) as (a, b):
        await stack.become(s0=a, s1=b)
        assert isinstance(b, Backend)
        session_id = next(f"s{n}" for n in range(100) if stack.owner(f"s{n}") == "host-1")
        for healthy, name in ((False, "host-0"), (True, "host-1")):
            b.healthy = healthy

            async def answered(name: str = name) -> bool:
                return bool((await stack.post(x_session_id=session_id))["name"] == name)

            await until_so(answered)


async def test_an_empty_table_leaves_the_last_hosts_where_they_were(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        stack.slots = {}
        stack.write()
        await asyncio.sleep(5 * stack.settings.edge.poll_s)
        assert (await stack.post())["name"] == "host-0"


# --- HAProxy and its Edges ----------------------------------------------------------------------------------------


async def test_a_haproxy_that_died_is_back_within_3_s_with_all_that_it_knew(stack: Stack) -> None:
    async with backends(Backend, Backend) as (a, b):
        await stack.become(s0=a, s3=b)
        pid = stack.edge.haproxy.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: stack.edge.haproxy.pid() not in (None, pid) and stack.follows(stack.edge), 3)
        for number in range(20):
            assert (await stack.post(x_session_id=f"t{number}"))["name"] == stack.owner(f"t{number}")
        await stack.become(s0=a)
        assert (await stack.post())["name"] == "host-0"


async def test_a_store_that_hangs_delays_no_restart(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        thawing = threading.Event()
        monkeypatch.setattr(stack.store, "table", lambda: thawing.wait(10) and stack.store.table())
        await asyncio.sleep(2 * stack.settings.edge.poll_s)
        pid = stack.edge.haproxy.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        try:
            await until(lambda: stack.edge.haproxy.pid() not in (None, pid), 3)
            assert (await stack.post())["name"] == "host-0"
        finally:
            monkeypatch.undo()
            thawing.set()


async def test_a_haproxy_whose_servers_somebody_changed_is_made_true_again(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        admin = Admin(stack.edge.haproxy.paths.socket)
        await admin.command("set server hosts/slot-0 state maint")

        async def ready() -> bool:
            return (await admin.servers())["slot-0"].admission == "ready"

        await until_so(ready)


async def test_an_edge_adopts_the_haproxy_of_one_that_was_killed(run_dir: str) -> None:
    stack = Stack(run_dir)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as stack.http,
        backends(Backend, Backend) as (a, b),
    ):
        stack.slots = {0: a}
        stack.write()
        arguments = ("-m", "tests.integration.edge_controller", str(stack.port), run_dir, str(stack.store.path))
        controller = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
        try:
            assert controller.stdout is not None
            assert await asyncio.wait_for(controller.stdout.readline(), 20) == b"started\n"
            assert (await stack.post())["name"] == "host-0"
        finally:
            controller.kill()
            await controller.wait()
        pid = stack.edge.haproxy.pid()
        assert pid is not None
        assert (await stack.post())["name"] == "host-0", "nobody cares for HAProxy now, and nobody notices"

        stack.slots = {0: a, 1: b}
        stack.write()
        await stack.edge.start()
        await until(lambda: stack.follows(stack.edge))
        assert stack.edge.haproxy.pid() == pid
        for number in range(20):
            assert (await stack.post(x_session_id=f"t{number}"))["name"] == stack.owner(f"t{number}")
        await stack.edge.aclose()
        assert not _runs(pid)


async def test_two_edges_share_one_haproxy_and_the_last_takes_it_away(stack: Stack) -> None:
    async with backends(Backend) as (a,):
        await stack.become(s0=a)
        pid = stack.edge.haproxy.pid()
        assert pid is not None
        successor = stack.another_edge()
        await successor.start()
        assert successor.haproxy.pid() == pid
        await stack.edge.aclose()
        assert (await stack.post())["name"] == "host-0"
        await successor.check()
        await successor.aclose()
        assert not _runs(pid)
        with pytest.raises(EdgeFailed):
            await successor.check()


async def test_stacks_with_other_ports_do_not_meet(stack: Stack) -> None:
    folder = tempfile.mkdtemp(prefix="rh-edge-")
    other = Edge(settings_for(free_port(), folder), lambda _: stack.store)
    try:
        await other.start()
        assert other.haproxy.pid() != stack.edge.haproxy.pid()
        await other.aclose(last=True)
        assert stack.edge.haproxy.pid() is not None
    finally:
        await other.aclose(last=True)
        shutil.rmtree(folder)


async def test_a_port_that_is_taken_is_said_in_haproxys_own_words_and_leaves_nothing_behind(run_dir: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        store = FileMembership(os.path.join(run_dir, "table.json"))
        store.write(1)
        edge = Edge(settings_for(taken.getsockname()[1], run_dir), lambda _: store)
        with pytest.raises(EdgeFailed, match=r"cannot bind|Address already in use"):
            await edge.start()
        assert edge.haproxy.pid() is None
        await edge.aclose()


async def test_two_stacks_on_one_port_do_not_share_it(stack: Stack) -> None:
    folder = tempfile.mkdtemp(prefix="rh-edge-")
    other = Edge(settings_for(stack.port, folder), lambda _: stack.store)
    try:
        with pytest.raises(EdgeFailed, match="can't be started"):
            await other.start()
    finally:
        await other.aclose(last=True)
        shutil.rmtree(folder)


async def test_a_pid_that_was_used_again_is_nobodys_haproxy(run_dir: str) -> None:
    haproxy = Haproxy(Paths.of(run_dir))
    Path(haproxy.paths.pid).write_text(str(os.getpid()))  # noqa: ASYNC240
    assert haproxy.pid() is None
    haproxy.end()
    assert _runs(os.getpid())


async def test_a_run_dir_that_others_may_write_is_refused(run_dir: str) -> None:
    os.chmod(run_dir, 0o777)
    with pytest.raises(Misconfigured, match="writable by no other"):
        Haproxy(Paths.of(run_dir)).ensure("# nothing\n", list)
    os.chmod(run_dir, 0o700)


async def test_the_admin_socket_reports_refusals_and_silence_as_errors(stack: Stack) -> None:
    admin = Admin(stack.edge.haproxy.paths.socket)
    with pytest.raises(EdgeFailed, match="No such server"):
        await admin.trust("slot-999")
    with pytest.raises(EdgeFailed, match="has no map"):
        await admin.swap_map("/nowhere", ["0 slot-0"])
    with pytest.raises(EdgeFailed, match="can't be asked"):
        await Admin(f"{stack.run_dir}/nothing.sock").info()
    mute = await asyncio.start_unix_server(lambda *_: asyncio.sleep(5), f"{stack.run_dir}/mute.sock")
    async with mute:
        with pytest.raises(EdgeFailed, match="didn't answer"):
            await Admin(f"{stack.run_dir}/mute.sock", timeout_s=0.2).info()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
