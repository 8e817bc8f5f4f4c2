"""What experiments do to stores and read of them (``loadtest.lab.stores``), on real servers.

The readers of leases know the runtime's tables by their documented names only: whoever changes these is told here.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from actors.errors import StoreUnavailable
from actors.settings import Settings
from actors.stores import open_store
from deploy.environment import environment
from deploy.folder import Folder
from deploy.options import parse
from deploy.stack import Stack as Supervisor
from loadtest import postgres_leases, redis_leases
from loadtest.lab.deployment import Deployment, NotOurs, until
from loadtest.lab.faults import KINDS, Done, Fault, Ground
from loadtest.lab.own_store import own_store
from loadtest.lab.stores import Holders, Store
from loadtest.processes import alive
from loadtest.stack import Stack
from tests.contract.lab import ANNA, BERT, Lab, RedisLab, begin, take_over
from tests.contract.postgres_lab import SCHEMA, PostgresLab
from tests.postgres_server import PostgresServer, programs, start_postgres
from tests.servers import Server, free_port

SOON_S = 10.0


def asking(lab: Lab) -> AbstractAsyncContextManager[Holders]:
    assert isinstance(lab, RedisLab | PostgresLab)
    url = lab.settings.url
    return redis_leases.asking(url) if isinstance(lab, RedisLab) else postgres_leases.asking(url, SCHEMA)


@pytest.mark.parametrize("lab", ["valkey", "postgres"], indirect=True)
async def test_who_holds_which_session_is_read_as_it_is_and_not_who_held_it(lab: Lab) -> None:
    store = lab.store()
    held, released, deleted, expired = [await begin(store, "a") for _ in range(4)]
    await released.release()
    await store.delete(deleted.key, "the end")
    await lab.expire(expired.key)
    ours = {talk.key.session_id for talk in (held, released, deleted, expired)}
    async with asking(lab) as holders:
        first = await holders()
        await take_over(held)
        second = await holders()
    assert {name: host for name, host in first.items() if name in ours} == {held.key.session_id: ANNA.incarnation}
    assert {name: host for name, host in second.items() if name in ours} == {held.key.session_id: BERT.incarnation}


async def test_whoever_cannot_be_asked_is_an_os_error() -> None:
    nobody = free_port()
    for asked in (
        redis_leases.asking(f"redis://127.0.0.1:{nobody}/0"),
        postgres_leases.asking(f"postgresql://u:p@127.0.0.1:{nobody}/d"),
    ):
        with pytest.raises(OSError):
            async with asked as holders:
                await holders()


@asynccontextmanager
async def only_the_store(tmp_path: Path) -> AsyncIterator[tuple[Stack, str]]:
    """What ``deploy/up --store postgres`` does for its store, and nothing of the rest; and the URL that hosts get."""
    port = free_port()
    folder, options = Folder(port, str(tmp_path)), parse(["--store", "postgres", "--port", str(port)])
    folder.open()
    env, supervisor = environment(options, folder), Supervisor(options, folder)
    try:
        await supervisor._start_store(env)
        supervisor.tell_ready()
        watching = asyncio.create_task(supervisor.watch())
        state = json.loads((tmp_path / "state.json").read_text())
        yield Stack("", "", tmp_path, state["pid"], "", "", "postgres", state["store_url"]), env["REHYDRA_STORE__URL"]
        supervisor.ask_to_stop()
        await watching
    finally:
        await supervisor.down()


async def test_a_deployments_own_postgres_is_asked_and_killed_and_started_again_by_its_supervisor(
    tmp_path: Path,
) -> None:
    """What an experiment has to know of it is in the deployment's folder: nothing else may be needed."""
    programs()  # Skips, or fails, where there is no PostgreSQL.
    async with only_the_store(tmp_path) as (stack, url):
        sessions, membership = await open_store(Settings.load({"store": {"url": url}}))
        deployment = OnlyAStore(stack)
        try:
            talk = await begin(sessions, "a")
            done = await strike(deployment, "kill_store")
            assert done.seen and done.pid != deployment.server_pid("postgres")
            assert await holders_when_it_answers(deployment.store) == {talk.key.session_id: ANNA.incarnation}
            assert await talk.stored() == ["a"]
        finally:
            await sessions.aclose()
            membership.close()


async def test_a_postgres_behind_the_link_is_cut_off_killed_and_comes_back_with_what_it_had(tmp_path: Path) -> None:
    port, server_port = free_port(), free_port()
    async with own_store("postgres", port, server_port, "always") as own:
        settings = Settings.load({"store": {"url": own.settings["POSTGRES_URL"], "timeout_s": 0.5}})
        assert settings.store.prefix == own.settings["REHYDRA_STORE__PREFIX"]
        deployment = OnlyAStore(Stack("", "", tmp_path, 0, store="postgres", store_url=own.server_url))
        sessions, membership = await open_store(settings)
        try:
            talk = await begin(sessions, "a")
            assert await own.cut(os.getpid()) > 0
            with pytest.raises(StoreUnavailable):
                await talk.stored()
            # The experiment itself has gone around the link.
            assert await holders_when_it_answers(deployment.store) == {talk.key.session_id: ANNA.incarnation}
            await own.heal()
            await strike(deployment, "kill_store")
            assert await holders_when_it_answers(deployment.store) == {talk.key.session_id: ANNA.incarnation}
            assert await talk.stored() == ["a"]
            successor = deployment.server_pid("postgres")
        finally:
            await sessions.aclose()
            membership.close()
    assert not alive(successor) and not own.folder.exists()


async def holders_when_it_answers(store: Store) -> dict[str, str]:
    """It listens before it has replayed its log."""
    async with asyncio.timeout(SOON_S):
        while True:
            with suppress(OSError):
                async with store.holders() as holders:
                    return await holders()
            await asyncio.sleep(0.05)


# --- faults -----------------------------------------------------------------------------------------------------------


class OnlyAStore(Deployment):
    """A deployment of which nothing is there but its store."""

    def __init__(self, stack: Stack) -> None:
        self.store = Store(stack.store, stack.store_url, stack.folder)
        self.stack = stack

    async def until_busy(self, *slots: str) -> None:
        return None


@pytest.fixture(scope="module", params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Iterator[Server | PostgresServer]:
    server = start_postgres() if request.param == "postgres" else Server().start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def deployment(server: Server | PostgresServer, tmp_path: Path) -> OnlyAStore:
    name = "postgres" if isinstance(server, PostgresServer) else "redis"
    return OnlyAStore(Stack("", "", tmp_path, os.getpid(), store=name, store_url=server.url))


def processes(server: Server | PostgresServer) -> list[psutil.Process]:
    """All that the server consists of."""
    first = psutil.Process(server.pid)
    return [first, *first.children(recursive=True)]


async def strike(deployment: Deployment, do: str, for_s: float = 0.5) -> Done:
    done = Done(do, 0.0)
    await KINDS[do].carry_out(Ground(deployment, random.Random(1)), Fault(at_s=0.0, do=do, for_s=for_s), done)
    return done


async def test_a_killed_store_is_gone_with_all_its_processes_and_its_successor_is_seen(
    deployment: OnlyAStore, server: Server | PostgresServer
) -> None:
    pid, family = server.pid, processes(server)
    killing = asyncio.create_task(strike(deployment, "kill_store"))
    await until(lambda: not any(alive(process.pid) for process in family), SOON_S, "some of it lives")
    server.restart()  # Not in a thread, with which it would end.
    done = await killing
    assert done.seen.startswith(f"pid {pid} -> {server.pid} after ") and done.slot == "*"
    assert done.pid == pid and done.at > 0 and done.over == 0.0


async def test_a_frozen_store_stands_still_with_all_its_processes_and_then_goes_on(
    deployment: OnlyAStore, server: Server | PostgresServer
) -> None:
    family = processes(server)
    freezing = asyncio.create_task(strike(deployment, "freeze_store"))
    await until(lambda: all(stopped(process) for process in family), SOON_S, "some of it runs")
    done = await freezing
    assert done.seen.startswith(f"pid {server.pid} stood still for ") and done.over >= done.at + 0.5
    await until(lambda: not any(stopped(process) for process in family), SOON_S, "some of it stands still")


def stopped(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False


async def test_a_store_that_somebody_else_started_is_not_touched(
    deployment: OnlyAStore, server: Server | PostgresServer, tmp_path: Path
) -> None:
    deployment.stack = Stack("", "", tmp_path / "of another", 0)
    # Whoever descends from the experiment is its own; so it is asked in the name of a process that isn't this one.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "getpid", lambda: 0)
        with pytest.raises(NotOurs):
            await strike(deployment, "kill_store")
    assert all(alive(process.pid) and not stopped(process) for process in processes(server))
