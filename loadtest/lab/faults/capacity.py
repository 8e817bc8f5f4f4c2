"""Capacity that changes on purpose: no fault, and nobody may notice."""

from __future__ import annotations

import asyncio
import time

from loadtest.client import Unreadable
from loadtest.lab.deployment import LOOK_S, Deployment, NotSo
from loadtest.lab.faults.kinds import Done, Fault, Ground, Released, kind
from loadtest.lab.stores import Holders

LEAVE_S = 60.0
"""How long a host that leaves may take to give its leases back."""


@kind(takes_hosts=True, wants_hosts=True, all_ready=True)
async def scale(ground: Ground, fault: Fault, done: Done) -> None:
    """Serve is told another number of hosts; over when they are ready, and whoever left holds nothing."""
    deployment = ground.deployment
    before = {slot: str(host["host"]) for slot, host in (await deployment.ring()).items()}
    async with deployment.store.holders() as holders:
        held = await holders()
        await deployment.until_busy(*sorted(before))
        done.at = time.monotonic()
        await deployment.scale(fault.hosts or len(before))
        await _watch_leases(deployment, holders, before, held, done)
    after = await deployment.ready()
    done.slot = ",".join(sorted(before.keys() ^ after.keys()))
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"{len(before)} -> {len(after)} hosts" if done.slot else ""


async def _watch_leases(
    deployment: Deployment, holders: Holders, before: dict[str, str], held: dict[str, str], done: Done
) -> None:
    """Until as many hosts as wanted are on the ring, note when each lease of those that left was seen free."""
    slots, left = {host: slot for slot, host in before.items()}, dict[str, float]()
    ring, gone = dict[str, dict[str, object]](), set[str]()
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline:
        try:
            ring = await deployment.ring()
        except Unreadable:
            ring = {}
        now, staying = time.monotonic(), {str(host["host"]) for host in ring.values()}
        if ring:
            left |= {host: now for host in slots if host not in staying and host not in left}
        held_now = await holders()
        # Whoever was given a session while it was leaving counts as well.
        held |= {session: host for session, host in held_now.items() if host in left}
        gone = {session for session, host in held.items() if host in left}
        for session in gone - done.released.keys():
            if held_now.get(session) != held[session]:
                done.released[session] = Released(slots[held[session]], left[held[session]], time.monotonic())
        if len(ring) == deployment.hosts and gone == done.released.keys():
            return
        await asyncio.sleep(LOOK_S)
    kept = sorted(gone - done.released.keys())
    raise NotSo(
        f"after {LEAVE_S:g} s the {len(left)} hosts that left still hold {len(kept)} leases {kept[:3]}, "
        f"and {len(ring)} hosts are on the ring, not {deployment.hosts}"
    )
