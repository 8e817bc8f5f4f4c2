"""The ring as Serve's request router: whom it names, on what the controller tells it. Without Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from ray.serve.request_router import RequestRouter

from actors.model import Member, Table
from router.ring import Ring
from router.serve_adapter import RingRouter, table_of


def metadata(name: str, slot: str, ring_version: int = 7, weight: int = 1) -> dict[str, Any]:
    return {
        "incarnation": name, "slot": slot, "address": f"{name}:80", "weight": weight, "ring_version": ring_version,
    }  # fmt: skip


def replica(name: str, slot: str, weight: int = 1) -> Any:
    return SimpleNamespace(replica_metadata=metadata(name, slot, weight=weight), name=name)


def router_of(monkeypatch: Any, *replicas: Any) -> RingRouter:
    monkeypatch.setattr(RequestRouter, "update_replicas", lambda self, replicas: None)
    router = RingRouter.__new__(RingRouter)
    router.initialize_state()
    router.update_replicas(list(replicas))
    return router


def request(session_id: str) -> Any:
    return SimpleNamespace(metadata=SimpleNamespace(session_id=session_id))


def ranks(router: RingRouter, candidates: list[Any], pending: Any) -> list[list[str]]:
    chosen = asyncio.run(router.choose_replicas(candidates, pending))
    return [[each.name for each in rank] for rank in chosen]


def test_the_owner_comes_first_and_is_the_one_that_the_hosts_ring_names(monkeypatch: Any) -> None:
    replicas = [replica(name, f"slot-{number}") for number, name in enumerate("abc")]
    router = router_of(monkeypatch, *replicas)
    ring = Ring.of(table_of(each.replica_metadata for each in replicas))
    for number in range(50):
        first, others = ranks(router, replicas, request(f"talk-{number}"))
        owner = ring.owner(f"talk-{number}")
        assert owner is not None and first == [owner.incarnation]
        assert sorted(first + others) == ["a", "b", "c"]


def test_a_host_of_weight_3_gets_the_sessions_that_the_hosts_ring_gives_it(monkeypatch: Any) -> None:
    replicas = [replica("a", "slot-0"), replica("b", "slot-1", weight=3), replica("c", "slot-2")]
    router = router_of(monkeypatch, *replicas)
    weights = {"a": 1, "b": 3, "c": 1}
    members = [Member(f"slot-{n}", name, f"{name}:80", 0, weights[name]) for n, name in enumerate(weights)]
    ring = Ring.of(Table(7, {member.slot: member for member in members}))
    owners = [ring.owner(f"talk-{number}") for number in range(200)]
    first = [ranks(router, replicas, request(f"talk-{number}"))[0] for number in range(200)]
    assert first == [[owner.incarnation] for owner in owners if owner is not None]
    assert first.count(["b"]) > 100


def test_whoever_names_no_session_may_go_anywhere(monkeypatch: Any) -> None:
    replicas = [replica("a", "slot-0"), replica("b", "slot-1")]
    router = router_of(monkeypatch, *replicas)
    assert ranks(router, replicas, request("")) == ranks(router, replicas, None) == [["a", "b"]]


def test_an_owner_that_is_no_candidate_is_passed_over(monkeypatch: Any) -> None:
    replicas = [replica("a", "slot-0"), replica("b", "slot-1")]
    router = router_of(monkeypatch, *replicas)
    owned_by_a = next(name for name in map(str, range(100)) if ranks(router, replicas, request(name))[0] == ["a"])
    assert ranks(router, replicas[1:], request(owned_by_a)) == [["b"]]


def test_a_replica_that_says_nothing_is_on_no_ring_but_still_a_candidate(monkeypatch: Any) -> None:
    strange = SimpleNamespace(replica_metadata={}, name="x")
    router = router_of(monkeypatch, strange)
    assert ranks(router, [strange], request("talk")) == [["x"]]


def test_a_slot_belongs_to_whoever_took_it_last() -> None:
    table = table_of([metadata("new", "slot-0", 9), metadata("old", "slot-0", 8), metadata("spare", "")])
    assert {slot: member.incarnation for slot, member in table.members.items()} == {"slot-0": "new"}
    assert table.ring_version == 9
