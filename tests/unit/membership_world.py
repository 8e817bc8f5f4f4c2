"""Hosts as the membership sees them, with one clock that tests move: what two files of tests are about."""

from __future__ import annotations

from actors.model import HostRef, HostState
from actors.settings import RingSettings
from actors.stores.memory_membership import MemoryMembership
from router.membership import Orders
from router.routing import HostView

SETTINGS = RingSettings()  # type: ignore[call-arg]
TTL_S, INTERVAL_S = SETTINGS.beat_ttl_s, SETTINGS.beat_interval_s
SERVING, DRAINING, SPARE = HostState.SERVING, HostState.DRAINING, HostState.SPARE


class Cluster:
    """Hosts with one clock and one membership store; each beats when the test says so."""

    def __init__(self, *names: str, slots_max: int = 64) -> None:
        self.now = 1_000.0
        self.settings = SETTINGS.model_copy(update={"slots_max": slots_max})
        self.store = MemoryMembership(lambda: int(self.now * 1000))
        self.views: dict[str, HostView] = {}
        self.orders: dict[str, Orders] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> HostView:
        ref = HostRef(name, "", f"{name}:80")
        self.views[name] = HostView(ref, self.settings, lambda: self.now)
        self.beat(name)
        self.obey(name)
        self.beat(name)
        return self.views[name]

    def beat(self, name: str, lasting_s: float = 0.0) -> Orders:
        view, sent = self.views[name], self.now
        reply = self.store.beat(name, f"{name}:80", view.state, view.known_ring_version)
        self.now += lasting_s
        self.orders[name] = view.replied(reply, sent, self.now)
        return self.orders[name]

    def obey(self, name: str) -> None:
        orders = self.orders[name]
        for slot, incarnation in orders.evict:
            self.store.evict(slot, incarnation)
        if orders.leave:
            self.store.leave(name)
        elif orders.join:
            self.store.join(name, f"{name}:80", 9, 1, self.settings.slots_max)

    def run(self, seconds: float, *beating: str) -> None:
        """Time passes while those hosts beat, in that order, every interval."""
        until = self.now + seconds
        while self.now + INTERVAL_S <= until + 1e-9:
            self.now += INTERVAL_S
            for name in beating:
                self.beat(name)
        self.now = until

    def is_dead(self, name: str, asked_by: str) -> bool:
        return self.views[asked_by].is_dead(HostRef(name, "", f"{name}:80"))

    def refuse(self, name: str, by: str, stranger: bool = False) -> None:
        self.views[by].refused(HostRef(name, "", f"{name}:80"), stranger)
