"""Requests on a server that is down are ended once, not before those on their way to it are there."""

from __future__ import annotations

import pytest

from actors.health import Health
from router.edge.admin import Admin, Admission, ServerState
from router.edge.config import BACKEND
from router.edge.hung import Hung, is_unheard

CONNECT_S = 0.25
READY, DRAIN, MAINT = Admission.READY, Admission.DRAIN, Admission.MAINT


class Watched(Admin):
    """Notes for which slots all was ended."""

    def __init__(self) -> None:
        super().__init__("")
        self.ended: list[str] = []
        self.ended_anywhere: list[str] = []

    async def end_requests(self, slot: str, backend: str) -> None:
        (self.ended if backend == BACKEND else self.ended_anywhere).append(slot)


class Lab:
    def __init__(self) -> None:
        self.now = 100.0
        self.admin = Watched()
        self.unheard = False
        self.asked = 0
        self.reads = True
        self.hung = self.watching(CONNECT_S)

    def watching(self, connect_s: float) -> Hung:
        return Hung(self.admin, connect_s, lambda: self.reads, lambda: self.now, self.ask)

    async def ask(self, state: ServerState) -> bool:
        self.asked += 1
        return self.unheard

    async def see(self, up: bool, admission: Admission = READY, after_s: float = 0.0) -> list[str]:
        """What was ended so far, once the server's state has been seen."""
        self.now += after_s
        await self.hung.note({"slot-1": state(up, admission)})
        return self.admin.ended


def state(up: bool, admission: Admission = READY) -> ServerState:
    return ServerState("slot-1", "10.0.0.1", 80, 9, admission, up)


async def test_what_hangs_is_ended_once_and_not_at_once() -> None:
    lab = Lab()
    assert await lab.see(up=True) == []
    assert await lab.see(up=False) == []
    assert await lab.see(up=False, after_s=CONNECT_S - 0.01) == []
    assert await lab.see(up=False, after_s=0.02) == ["slot-1"]
    assert await lab.see(up=False, after_s=10.0) == ["slot-1"]


async def test_what_may_wait_for_its_repetition_is_ended_later() -> None:
    lab = Lab()
    await lab.see(up=False)
    await lab.see(up=False, after_s=CONNECT_S)
    assert (lab.admin.ended, lab.admin.ended_anywhere) == (["slot-1"], [])
    await lab.see(up=False, after_s=CONNECT_S)
    assert lab.admin.ended_anywhere == []
    for _ in range(2):
        await lab.see(up=False, after_s=CONNECT_S)
        assert (lab.admin.ended, lab.admin.ended_anywhere) == (["slot-1"], ["slot-1"])


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
    lab.now += 3 * CONNECT_S
    await lab.hung.leave(state(up=False))
    assert lab.admin.ended == lab.admin.ended_anywhere == ["slot-1"]
    await lab.see(up=False)
    assert await lab.see(up=False, after_s=CONNECT_S) == ["slot-1"] * 2, "the successor is down, too"


async def test_a_server_that_is_up_keeps_what_runs_on_it_when_it_gets_another_host() -> None:
    lab = Lab()
    await lab.see(up=True)
    await lab.hung.leave(state(up=True))
    assert lab.admin.ended == []


async def test_a_host_that_the_table_is_without_and_that_isnt_heard_has_its_requests_ended_once() -> None:
    lab = Lab()
    lab.unheard = True
    assert await lab.see(up=True) == [] and not lab.asked, "of a host in the table the store decides"
    assert await lab.see(up=True, admission=DRAIN) == []
    assert await lab.see(up=True, admission=DRAIN, after_s=CONNECT_S) == ["slot-1"]
    assert await lab.see(up=True, admission=DRAIN, after_s=CONNECT_S) == ["slot-1"]


async def test_a_host_that_leaves_as_it_should_is_heard_and_keeps_its_requests() -> None:
    lab = Lab()
    await lab.see(up=True, admission=DRAIN)
    assert await lab.see(up=True, admission=DRAIN, after_s=10.0) == []
    await lab.hung.leave(state(up=True, admission=DRAIN))
    assert lab.admin.ended == [] and lab.asked == 3


async def test_a_cut_off_host_whose_slot_another_gets_at_once_has_its_requests_ended_first() -> None:
    lab = Lab()
    lab.unheard = True
    lab.hung = lab.watching(0.0)
    await lab.hung.leave(state(up=True))
    assert lab.admin.ended == ["slot-1"]


async def test_while_the_store_is_away_for_the_edge_as_well_nothing_is_ended() -> None:
    """All hosts are unheard then: one that is just leaving, too."""
    lab = Lab()
    lab.unheard, lab.reads = True, False
    await lab.see(up=True, admission=DRAIN)
    assert await lab.see(up=True, admission=DRAIN, after_s=10.0) == []
    await lab.hung.leave(state(up=True))
    assert lab.admin.ended == [] and not lab.asked


async def test_a_host_says_by_itself_whether_it_is_heard() -> None:
    heard = True
    health = Health("127.0.0.1", 0, lambda: True, lambda: heard)
    port = health.open()
    there = ServerState("slot-1", "127.0.0.1", 80, port, DRAIN, True)
    assert not await is_unheard(there)
    heard = False
    assert await is_unheard(there)
    health.close()
    health.join(5.0)
    assert not await is_unheard(there), "nobody answers"
