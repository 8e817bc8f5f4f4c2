"""The store ends, stands still, or loses the end of what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from loadtest.lab.deployment import Deployment, NotSo, until
from loadtest.lab.faults.kinds import EVERYBODY, Done, Fault, Ground, kind
from loadtest.lab.tail import Cut, cut_tail, size
from loadtest.processes import alive

BACK_S = 30.0
TAIL_S = 0.5
"""How much of the last that Redis wrote is lost: half of what ``everysec`` may lose."""

REGRESSED = frozenset({"409 state-regressed"})


@kind(reloads=True, all_ready=True)
async def kill_redis(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL; whoever keeps it starts it again on its file."""
    deployment = ground.deployment
    done.pid, done.slot = deployment.redis_pid(), EVERYBODY
    await deployment.until_busy(EVERYBODY)
    done.at = deployment.signal(done.pid, signal.SIGKILL)
    await _until_back(deployment, done)


@kind(reloads=True, all_ready=True)
async def freeze_redis(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGSTOP for ``for_s``: it takes connections and says nothing."""
    deployment = ground.deployment
    done.pid, done.slot = deployment.redis_pid(), EVERYBODY
    await deployment.until_busy(EVERYBODY)
    done.at = deployment.signal(done.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
        if psutil.Process(done.pid).status() == psutil.STATUS_STOPPED:
            done.effect_s = round(time.monotonic() - done.at, 2)
            done.seen = f"pid {done.pid} stood still for {done.effect_s} s"
    finally:
        done.over = deployment.signal(done.pid, signal.SIGCONT)


# A loss is told to whoever comes next, whenever that is.
@kind(reloads=True, may_lose=True, all_ready=True, errors=REGRESSED, errors_for_s=math.inf)
async def cut_redis_tail(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL, and what it wrote in its last half second isn't in its file when it is started again."""
    deployment = ground.deployment
    done.pid, done.slot = deployment.redis_pid(), EVERYBODY
    await deployment.until_busy(EVERYBODY)
    kept = size(deployment.append_only_folder)
    await asyncio.sleep(TAIL_S)
    with _supervisor_stopped(deployment):
        done.at = deployment.signal(done.pid, signal.SIGKILL)
        await until(lambda: not alive(done.pid), BACK_S, f"process {done.pid} lives")
        cut = cut_tail(deployment.append_only_folder, kept)
    await _until_back(deployment, done)
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


async def _until_back(deployment: Deployment, done: Done) -> None:
    found = 0

    def replaced() -> bool:
        nonlocal found
        try:
            found = deployment.redis_pid()
        except NotSo:
            return False
        return found != done.pid

    await until(replaced, BACK_S, f"nobody came in the place of process {done.pid}")
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"pid {done.pid} -> {found} after {done.effect_s} s"
