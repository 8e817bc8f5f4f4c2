"""Requests on a server that is down are ended once, not before those on their way to it are there."""

from __future__ import annotations

import pytest

from router.edge.admin import Admin, Admission, ServerState
from router.edge.hung import Hung

CONNECT_S = 0.25
READY, DRAIN, MAINT = Admission.READY, Admission.DRAIN, Admission.MAINT


class Watched(Admin):
    """Notes for which slots all was ended."""

    def __init__(self) -> None:
        super().__init__("")
        self.ended: list[str] = []

    async def end_requests(self, slot: str) -> None:
        self.ended.append(slot)


class Lab:
    def __init__(self) -> None:
        self.now = 100.0
        self.admin = Watched()
        self.hung = Hung(self.admin, CONNECT_S, lambda: self.now)

    async def see(self, up: bool, admission: Admission = READY, after_s: float = 0.0) -> list[str]:
        """What was ended so far, once the server's state has been seen."""
        self.now += after_s
        await self.hung.note({"slot-1": ServerState("slot-1", "10.0.0.1", 80, 9, admission, up)})
        return self.admin.ended


async def test_what_hangs_is_ended_once_and_not_at_once() -> None:
    lab = Lab()
    assert await lab.see(up=True) == []
    assert await lab.see(up=False) == []
    assert await lab.see(up=False, after_s=CONNECT_S - 0.01) == []
    assert await lab.see(up=False, after_s=0.02) == ["slot-1"]
    assert await lab.see(up=False, after_s=10.0) == ["slot-1"]


async def test_who_comes_back_and_goes_down_again_has_it_ended_again() -> None:
    lab = Lab()
    for times in (1, 2):
        await lab.see(up=True)
        await lab.see(up=False)
        assert await lab.see(up=False, after_s=CONNECT_S) == ["slot-1"] * times


async def test_who_comes_back_in_time_keeps_its_requests() -> None:
    lab = Lab()
    await lab.see(up=False)
    await lab.see(up=True, after_s=CONNECT_S)
    assert await lab.see(up=False, after_s=CONNECT_S) == []


@pytest.mark.parametrize("admission", [DRAIN, MAINT])
async def test_a_dead_host_that_has_left_the_ring_meanwhile_is_not_forgotten(admission: Admission) -> None:
    lab = Lab()
    await lab.see(up=False)
    assert await lab.see(up=False, admission=admission, after_s=CONNECT_S) == ["slot-1"]


async def test_a_server_that_rests_has_nothing_to_end_but_may_when_it_is_used_again() -> None:
    lab = Lab()
    await lab.see(up=False, admission=MAINT)
    assert await lab.see(up=False, admission=MAINT, after_s=10.0) == []
    await lab.see(up=False)
    assert await lab.see(up=False, after_s=CONNECT_S) == ["slot-1"]


async def test_a_server_that_gets_another_host_first_ends_what_its_predecessor_had() -> None:
    lab = Lab()
    await lab.see(up=False)
    lab.now += CONNECT_S
    await lab.hung.leave("slot-1")
    assert lab.admin.ended == ["slot-1"]
    await lab.see(up=False)
    assert await lab.see(up=False, after_s=CONNECT_S) == ["slot-1"] * 2, "the successor is down, too"


async def test_a_server_that_is_up_keeps_what_runs_on_it_when_it_gets_another_host() -> None:
    lab = Lab()
    await lab.see(up=True)
    await lab.hung.leave("slot-1")
    assert lab.admin.ended == []
