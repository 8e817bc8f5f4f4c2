"""Hosts that end or stand still without a word."""

from __future__ import annotations

import asyncio
import signal
import time

from loadtest.lab.deployment import until
from loadtest.lab.faults.kinds import Done, Fault, Ground, kind
from loadtest.processes import alive

EFFECT_S = 30.0
"""How long the effect of a signal may take to show."""


@kind(takes_hosts=True)
async def kill_host(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL of one host under its turns."""
    done.slot, _, done.pid = await ground.deployment.busy_host(ground.random)
    done.at = ground.deployment.signal(done.pid, signal.SIGKILL)
    await until(lambda: not alive(done.pid), EFFECT_S, f"process {done.pid} lives")
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"pid {done.pid} is gone"


@kind(takes_hosts=True)
async def freeze_host(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGSTOP of one host under its turns, SIGCONT after ``for_s``, the same process as before."""
    deployment = ground.deployment
    done.slot, host, done.pid = await deployment.busy_host(ground.random)
    done.at = deployment.signal(done.pid, signal.SIGSTOP)
    try:
        await deployment.until_off_the_ring(host, fault.for_s)
        done.effect_s = round(time.monotonic() - done.at, 2)
        done.seen = f"pid {done.pid} stood still and was off the ring after {done.effect_s} s"
        await asyncio.sleep(max(0.0, done.at + fault.for_s - time.monotonic()))
    finally:
        done.over = deployment.signal(done.pid, signal.SIGCONT)
