"""The store ends, stands still, or loses the end of what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping

import psutil  # type: ignore[import-untyped]

from loadtest.lab.deployment import Deployment, NotSo, until
from loadtest.lab.faults.kinds import EVERYBODY, ON_REDIS, WITH_REDIS, Done, Fault, Ground, kind
from loadtest.lab.tail import Cut, cut_tail, size
from loadtest.processes import alive

BACK_S = 30.0
TAIL_S = 0.5
"""How much of the last that Redis wrote is lost: half of what ``everysec`` may lose."""

REGRESSED = frozenset({"409 state-regressed"})


@kind(reloads=True, all_ready=True)
async def kill_store(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL of every server of the store, with all their processes; whoever keeps them starts them on their data."""
    await _kill(ground, done, *ground.deployment.store.servers)


@kind(reloads=True, all_ready=True)
async def freeze_store(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGSTOP of every server of the store for ``for_s``: they take connections and say nothing."""
    await _freeze(ground, fault, done, *ground.deployment.store.servers)


@kind(reloads=True, all_ready=True, only_on=WITH_REDIS)
async def kill_redis(ground: Ground, fault: Fault, done: Done) -> None:
    """The same of the Redis alone."""
    await _kill(ground, done, "redis")


@kind(reloads=True, all_ready=True, only_on=WITH_REDIS)
async def freeze_redis(ground: Ground, fault: Fault, done: Done) -> None:
    """The same of the Redis alone."""
    await _freeze(ground, fault, done, "redis")


# A loss is told to whoever comes next, whenever that is.
@kind(reloads=True, may_lose=True, all_ready=True, errors=REGRESSED, errors_for_s=math.inf, only_on=ON_REDIS)
async def cut_redis_tail(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL, and what it wrote in its last half second isn't in its file when it is started again."""
    deployment = ground.deployment
    done.pid, done.slot = deployment.server_pid("redis"), EVERYBODY
    await deployment.until_busy(EVERYBODY)
    kept = size(deployment.append_only_folder)
    await asyncio.sleep(TAIL_S)
    with _supervisor_stopped(deployment):
        done.at = deployment.signal(done.pid, signal.SIGKILL)
        await until(lambda: not alive(done.pid), BACK_S, f"process {done.pid} lives")
        cut = cut_tail(deployment.append_only_folder, kept)
    await _until_back(deployment, done, {"redis": done.pid})
    done.seen = f"{done.seen}; {_told(cut)}" if cut.turns else ""


def _told(cut: Cut) -> str:
    return f"{cut.turns} turns in {cut.lost_bytes} bytes cut from {cut.file}"


@contextlib.contextmanager
def _supervisor_stopped(deployment: Deployment) -> Iterator[None]:
    """Meanwhile nobody starts Redis again: its file must be shorter before it is read."""
    deployment.signal(deployment.stack.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        deployment.signal(deployment.stack.pid, signal.SIGCONT)


async def _kill(ground: Ground, done: Done, *servers: str) -> None:
    deployment = ground.deployment
    pids = await _victims(deployment, done, servers)
    done.at = deployment.signal_servers(pids.values(), signal.SIGKILL)
    await _until_back(deployment, done, pids)


async def _freeze(ground: Ground, fault: Fault, done: Done, *servers: str) -> None:
    deployment = ground.deployment
    pids = (await _victims(deployment, done, servers)).values()
    done.at = deployment.signal_servers(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
        if all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids):
            done.effect_s = round(time.monotonic() - done.at, 2)
            done.seen = f"pid {_list(pids)} stood still for {done.effect_s} s"
    finally:
        done.over = deployment.signal_servers(pids, signal.SIGCONT)


async def _victims(deployment: Deployment, done: Done, servers: Iterable[str]) -> dict[str, int]:
    """Their processes by their names, entered into ``done``, as soon as there is a request under way."""
    pids = {server: deployment.server_pid(server) for server in servers}
    done.pid, done.slot = next(iter(pids.values())), EVERYBODY
    await deployment.until_busy(EVERYBODY)
    return pids


async def _until_back(deployment: Deployment, done: Done, killed: Mapping[str, int]) -> None:
    found = dict[str, int]()

    def replaced() -> bool:
        nonlocal found
        try:
            found = {server: deployment.server_pid(server) for server in killed}
        except NotSo:
            return False
        return all(found[server] != killed[server] for server in killed)

    await until(replaced, BACK_S, f"nobody came in the place of process {_list(killed.values())}")
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"pid {_list(killed.values())} -> {_list(found.values())} after {done.effect_s} s"


def _list(pids: Iterable[int]) -> str:
    return ", ".join(map(str, pids))
