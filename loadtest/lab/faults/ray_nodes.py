"""Nodes that end or are drained, and hosts that a changed config replaces; how Ray is told is in ``faults_ray``."""

from __future__ import annotations

import time

from loadtest.lab import faults_ray
from loadtest.lab.faults.kinds import Done, Fault, Ground, kind


@kind(takes_hosts=True, all_ready=True)
async def kill_node(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL of a raylet with all its workers."""
    _fill_in(done, *await faults_ray.kill_node(ground.deployment, ground.random))


@kind(takes_hosts=True, all_ready=True)
async def drain_node(ground: Ground, fault: Fault, done: Done) -> None:
    """Ray's drain of a node within ``for_s``."""
    _fill_in(done, *await faults_ray.drain_node(ground.deployment, ground.random, fault.for_s))


@kind(takes_hosts=True, all_ready=True)
async def rolling_update(ground: Ground, fault: Fault, done: Done) -> None:
    """A changed config replaces every host, with ``surge_percent``."""
    # Any setting that means nothing here: what counts is that it differs from the last.
    args = {"session": {"idle_s": 1000 + ground.random.randrange(100_000)}}
    options = {"max_surge_percent": fault.surge_percent}
    _fill_in(done, *await faults_ray.rolling_update(ground.deployment, args, options))


def _fill_in(done: Done, at: float, pid: int, slots: list[str], seen: str) -> None:
    done.at, done.pid, done.slot, done.seen = at, pid, ",".join(slots), seen
    done.effect_s = round(time.monotonic() - at, 2)
