"""One host's life, on a real listener and real beats, with the memory store."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import HostRef, SessionKey
from actors.replica import HostLife, SessionHost, end_s
from actors.settings import Settings
from actors.stores.base import Granted
from router.routing import HostView
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
ANOTHER = HostRef("another", "slot-9", "127.0.0.1:1")


def settings(**groups: Any) -> Settings:
    quick = {
        "ring": {"beat_interval_s": 0.05, "beat_ttl_s": 0.5},
        "http": {"bind": "127.0.0.1"},
        "edge": {"poll_s": 0.01},
    }
    return Settings.load(
        {"store": {"url": "memory://"}, "agent": {"path": "actors.agents.echo:echo"}, **quick, **groups}
    )


@pytest_asyncio.fixture
async def life() -> AsyncIterator[HostLife]:
    """A host that serves."""
    begun = HostLife(settings(), HostView)
    await begun.start()
    try:
        yield begun
    finally:
        await begun.end()


async def chat(address: str, session_id: str, message: str = "hello") -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://{address}/chat", json={"session_id": session_id, "message": message}) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_host_that_has_started_holds_a_slot_and_answers(life: HostLife) -> None:
    assert life.host.ref.slot == "slot-0"
    assert list(life.table.members) == ["slot-0"]
    assert not await life.not_ready()
    status, answer = await chat(life.host.ref.address, "s", "hello")
    assert (status, answer["turn_seq"]) == (200, 1)


async def test_a_host_whose_turn_never_ends_is_not_ready_and_an_idle_one_is() -> None:
    tight = {"deadline_s": 0.05, "grace_s": 0.05}
    waits = {"claim_patience_s": 0.01, "commit_patience_s": 0.01, "handoff_wait_s": 0.01, "suspect_pause_s": 0.0}
    life = HostLife(settings(agent={"path": "actors.agents.echo:echo", **tight}, session=waits), HostView)
    await life.start()
    committing, may_go_on = asyncio.Event(), asyncio.Event()
    commit = life._store.commit

    async def never(*arguments: Any) -> Any:
        committing.set()
        await may_go_on.wait()
        return await commit(*arguments)

    life._store.commit = never  # type: ignore[method-assign, assignment]
    try:
        asked = asyncio.create_task(chat(life.host.ref.address, "s"))
        await committing.wait()
        assert not await life.not_ready()
        async with asyncio.timeout(5.0):
            while not (reasons := await life.not_ready()):  # noqa: ASYNC110 - a limit passes, nothing happens
                await asyncio.sleep(0.01)
        assert reasons == ["1 sessions are stuck: their turns are overdue."]
        may_go_on.set()
        assert (await asked)[0] == 200
        assert not await life.not_ready()
    finally:
        may_go_on.set()
        await life.end()


async def test_who_asks_often_whether_a_host_is_ready_has_the_store_asked_once(
    life: HostLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def look(_: Settings) -> str:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return "unfit"

    monkeypatch.setattr("actors.replica.unfit_store", look)
    at_once = await asyncio.gather(*(life.not_ready() for _ in range(20)))
    assert [*at_once, await life.not_ready()] == [["unfit"]] * 21
    assert looks == 1
    monkeypatch.setattr("actors.replica.FIT_S", 0.0)
    await life.not_ready()
    assert looks == 2


async def test_a_host_whose_store_begins_to_evict_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.replica.FIT_S", 0.0)
    with Server("valkey") as server:
        life = HostLife(settings(store={"url": server.url}), HostView)
        await life.start()
        client = Redis.from_url(server.url)
        try:
            assert not await life.not_ready()
            await client.config_set("maxmemory", "100mb")
            await client.config_set("maxmemory-policy", "allkeys-lru")
            (reason,) = await life.not_ready()
            assert "set maxmemory-policy noeviction" in reason
            await client.config_set("maxmemory-policy", "noeviction")
            assert not await life.not_ready()
        finally:
            await client.aclose()
            await life.end()


async def test_a_host_whose_beats_the_store_takes_no_more_is_not_ready_until_it_does(
    life: HostLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(life._beats._store, "beat", away)
        async with asyncio.timeout(5):
            while not (reasons := await life.not_ready()):  # noqa: ASYNC110 - a limit passes, nothing happens
                await asyncio.sleep(0.01)
        assert reasons == ["The store hasn't accepted the host's beats lately."]
    async with asyncio.timeout(5):
        await life.view.wait_trusted()
    assert not await life.not_ready()


async def test_its_health_port_answers_beside_the_listener(life: HostLife) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{life.shown()['health_port']}/") as answer,
    ):
        assert answer.status == 200
    assert life.ailing() == ""


async def test_a_host_that_ends_gives_back_its_slot_its_sessions_and_its_port() -> None:
    life = HostLife(settings(), HostView)
    await life.start()
    address, store = life.host.ref.address, life._store
    await chat(address, "s")
    await life.end()
    assert life.host.ref.slot == ""
    assert life.table.members == {}
    # Released, not merely left behind: another host gets the lease without having to prove anybody dead.
    claimed = await store.claim(SessionKey("s"), "token", ANOTHER)
    assert isinstance(claimed, Granted)
    assert claimed.takeovers == 0
    with pytest.raises(aiohttp.ClientConnectionError):
        await chat(address, "s")


async def test_requests_that_still_arrive_while_the_host_leaves_are_answered(life: HostLife) -> None:
    address = life.host.ref.address
    ending = asyncio.create_task(life.end())
    await life._left.wait()
    status, _ = await chat(address, "late")
    assert status == 200
    await ending


async def test_what_late_requests_bring_to_a_leaving_host_is_given_back_too() -> None:
    life = HostLife(settings(edge={"poll_s": 0.25}), HostView)
    await life.start()
    address, store = life.host.ref.address, life._store
    release = store.release

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(0.8)
        return await release(*arguments)

    store.release = slowly  # type: ignore[method-assign, assignment]
    ending = asyncio.create_task(life.end())
    await life._left.wait()
    assert (await chat(address, "late"))[0] == 200
    await ending
    assert isinstance(await store.claim(SessionKey("late"), "token", ANOTHER), Granted)


async def test_ending_twice_is_ending_once(life: HostLife) -> None:
    await asyncio.gather(life.end(), life.end())
    assert await life.not_ready()


async def test_a_host_that_found_no_slot_serves_as_a_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.replica._JOIN_S", 0.01)
    life = HostLife(settings(ring={"beat_interval_s": 5, "beat_ttl_s": 20}), HostView)
    await life.start()
    try:
        assert life.host.ref.slot == ""
        reasons = await life.not_ready()
        assert {"The host has no slot on the ring.", "The ring is empty."} <= set(reasons)
        assert (await chat(life.host.ref.address, "s"))[0] == 200
    finally:
        await life.end()


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ({"agent": {"path": "nowhere:agent"}}, "nowhere"),
        ({"store": {"url": "http://127.0.0.1"}}, "store.url"),
        ({"http": {"bind": "192.0.2.77"}, "edge": {"secret": "b25lJ3Mgb3du"}}, "192.0.2.77"),
    ],
)
async def test_a_host_that_is_misconfigured_says_so_in_one_sentence(groups: dict[str, Any], word: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        await HostLife(settings(**groups), HostView).start()
    assert word in refused.value.detail
    assert "\n" not in refused.value.detail


def test_the_end_has_a_limit_that_serve_can_be_given() -> None:
    assert settings().session.drain_stream_s < end_s(settings()) < settings().session.drain_stream_s + 30


unawaited_by_python = pytest.mark.filterwarnings("ignore:.*SessionHost.__del__:pytest.PytestUnraisableExceptionWarning")
"""Serve wants an async ``__del__`` and awaits it; Python calls it too, when the object goes, and awaits nothing."""


@unawaited_by_python
async def test_serves_replica_is_the_same_life_begun_and_ended_as_serve_asks() -> None:
    replica: Any = SessionHost.__new__(SessionHost)
    await replica.__init__(settings(), HostView, "a handle of the edge")
    assert replica.__serve_build_asgi_app__() is replica._life.app
    await replica.check_health()
    await replica.__del__()
    assert replica._life.host.ref.slot == ""


@unawaited_by_python
async def test_a_replica_whose_constructor_failed_can_be_destroyed() -> None:
    replica: Any = SessionHost.__new__(SessionHost)
    with pytest.raises(Misconfigured):
        await replica.__init__(settings(agent={"path": "nowhere:agent"}), HostView)
    await replica.__del__()


async def run(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "deploy.host", *arguments)
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)


async def test_as_a_plain_process_it_leaves_in_good_order_on_sigterm() -> None:
    process = await run('{"store": {"url": "memory://"}, "http": {"bind": "127.0.0.1"}}')
    try:
        assert process.stdout is not None
        assert b'"slot":"slot-0"' in await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_as_a_plain_process_it_says_in_one_line_what_is_misconfigured() -> None:
    process = await run('{"session": {"idle_s": "soon"}}')
    out, err = await process.communicate()
    assert process.returncode == 2
    assert out == b""
    assert len(err.splitlines()) == 1
    assert b"session.idle_s" in err
