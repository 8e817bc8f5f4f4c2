"""A host whose machine says ``REHYDRA_HOST_WEIGHT=3`` has three times the sessions, by the edge and by all hosts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from actors.model import Member, Table
from router.ring import Ring
from tests.integration.deployment import Deployment

SESSIONS = 300


@pytest.mark.timeout(60)
async def test_haproxy_gives_a_host_of_weight_3_the_sessions_that_the_ring_of_the_hosts_gives_it() -> None:
    async with Deployment("actors.agents.echo:echo", hosts=2) as deployment:
        heavy = await deployment.start_host(REHYDRA_HOST_WEIGHT="3")
        await deployment.settled(3)
        _, told = await deployment.client.get("/ring")
        assert {slot: host["weight"] for slot, host in told["slots"].items()} == {"slot-0": 1, "slot-1": 1, "slot-2": 3}
        members = {
            slot: Member(slot, host["host"], host["address"], 0, host["weight"]) for slot, host in told["slots"].items()
        }
        ring = Ring.of(Table(told["ring_version"], members))
        names = [f"talk-{number}" for number in range(SESSIONS)]
        answers = await asyncio.gather(*(deployment.client.chat(name, "hello") for name in names))
        owners = [owner.slot for owner in map(ring.owner, names) if owner is not None]
        assert [answer.slot for answer in answers] == owners
        assert Counter(owners)[heavy.slot] == pytest.approx(SESSIONS * 3 / 5, rel=0.1)
