"""Hosts that live, and reach their clients, but not their store."""

from __future__ import annotations

import asyncio
import time

from loadtest.lab.deployment import NotSo
from loadtest.lab.faults.kinds import ON_ONE_SERVER, Done, Fault, Ground, Need, kind
from loadtest.processes import alive

UNAVAILABLE = frozenset({"503"})


@kind(takes_hosts=True, errors=UNAVAILABLE, needs=frozenset({Need.STORE_LINK}), only_on=ON_ONE_SERVER)
async def cut_off_host(ground: Ground, fault: Fault, done: Done) -> None:
    """Nothing that one host says reaches the store, nor the reverse, for ``for_s``; then what was said arrives late."""
    deployment = ground.deployment
    if (own := deployment.own_store) is None:
        raise NotSo("the hosts reach their store without a proxy")
    done.slot, done.host, done.pid = await deployment.busy_host(ground.random)
    cut = await own.cut(done.pid)
    done.at = time.monotonic()
    try:
        if not cut:
            raise NotSo(f"process {done.pid} has no connection through the proxy")
        await deployment.until_off_the_ring(done.host, fault.for_s)
        done.effect_s = round(time.monotonic() - done.at, 2)
        if alive(done.pid):
            done.seen = f"pid {done.pid} lived, {cut} connections cut, off the ring after {done.effect_s} s"
        await asyncio.sleep(max(0.0, done.at + fault.for_s - time.monotonic()))
    finally:
        # Taken before the link is whole again: from then on the host may acknowledge.
        done.over = time.monotonic()
        await own.heal()
