"""What the edge makes of a table, without a HAProxy: the configuration's text, and the change that is needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from actors.errors import Misconfigured
from actors.model import Member, Table
from actors.settings import EdgeSettings, RingSettings, Settings
from router.edge.admin import Admin, Admission, ServerState
from router.edge.config import BACKEND, Paths, Server, render, server_of, shard_map
from router.edge.sync import change_of
from router.ring import EMPTY, Ring
from router.shards import SHARDS, shard_of

PATHS = Paths.of("/tmp/rehydra-edge-test")
SETTINGS = Settings(ring=RingSettings(slots_max=4))  # type: ignore[call-arg]

A = Server("slot-0", "10.0.0.1", 80, 9)
B = Server("slot-1", "10.0.0.2", 80, 9)


def state(server: Server, admission: Admission = Admission.READY, up: bool = True) -> ServerState:
    return ServerState(server.slot, server.address, server.port, server.check_port, admission, up)


def changes(
    *states: ServerState, to: tuple[Server, ...], reborn: frozenset[str] = frozenset()
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    change = change_of({s.slot: s for s in states}, {s.slot: s for s in to}, reborn)
    return tuple(s.slot for s in change.place), change.ready, change.drain, change.rest


def test_nothing_is_changed_when_all_is_true() -> None:
    assert not change_of({"slot-0": state(A), "slot-1": state(B, Admission.MAINT)}, {"slot-0": A}, frozenset())


def test_a_newcomer_is_placed_and_made_ready() -> None:
    assert changes(state(A), state(B, Admission.MAINT), to=(A, B)) == ((), ("slot-1",), (), ())
    elsewhere = Server("slot-1", "10.0.0.9", 80, 9)
    assert changes(state(A), state(B, Admission.MAINT), to=(A, elsewhere)) == (("slot-1",), ("slot-1",), (), ())


def test_a_successor_at_the_same_address_is_trusted_anew() -> None:
    assert changes(state(A, up=False), to=(A,), reborn=frozenset({"slot-0"})) == (("slot-0",), ("slot-0",), (), ())


def test_a_host_that_left_is_drained_first_and_rests_once_it_is_down() -> None:
    assert changes(state(A), state(B), to=(A,)) == ((), (), ("slot-1",), ())
    assert changes(state(A), state(B, Admission.DRAIN), to=(A,)) == ((), (), (), ())
    assert changes(state(A), state(B, Admission.DRAIN, up=False), to=(A,)) == ((), (), (), ("slot-1",))


def test_a_slot_that_haproxy_does_not_have_is_no_error() -> None:
    assert changes(state(A), to=(A, B)) == ((), (), (), ())


def test_the_servers_it_starts_with_make_no_other_configuration_but_the_settings_do() -> None:
    first = render(SETTINGS, PATHS).split("\n", 1)
    second = render(SETTINGS, PATHS, [A]).split("\n", 1)
    assert first[0] == second[0]
    assert "server slot-0 10.0.0.1:80 port 9\n" in second[1]
    assert second[1].count(" port 1 disabled\n") == 2 * 3, "in both backends"
    more = SETTINGS.model_copy(update={"ring": RingSettings(slots_max=5)})  # type: ignore[call-arg]
    assert render(more, PATHS).split("\n", 1)[0] != first[0]


def section(text: str, backend: str) -> list[str]:
    """The lines of one backend."""
    return text.split(f"\nbackend {backend}\n")[1].split("\n\n")[0].splitlines()


def test_sealed_requests_and_reads_go_by_least_connections_to_servers_that_are_down_once_they_refuse() -> None:
    text = render(SETTINGS, PATHS, [A, Server("slot-3", "fd00::2", 80, 9)])
    assert "    use_backend any-host if METH_POST { path /chat/sealed }\n" in text
    assert "    use_backend any-host if METH_GET { path_beg /sessions/ }\n    default_backend hosts" in text
    anywhere = section(text, "any-host")
    assert "    balance leastconn" in anywhere
    assert [line.strip() for line in anywhere if line.startswith("    server ")] == [
        "server slot-0 10.0.0.1:80 port 9",
        "server slot-1 127.0.0.1:1 port 1 disabled",
        "server slot-2 127.0.0.1:1 port 1 disabled",
        "server slot-3 [fd00::2]:80 port 9",
    ]
    assert any(line.endswith(" observe layer4 error-limit 1 on-error mark-down") for line in anywhere)
    assert "    balance roundrobin" in section(text, "hosts")


async def test_both_backends_are_told_the_same_and_the_one_that_is_looked_at_last(tmp_path: Path) -> None:
    told: list[str] = []

    async def haproxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append((await reader.readline()).decode().strip())
        writer.write(b"IP changed from 'a' to 'b'\n" if " addr " in told[-1] else b"\n")
        writer.close()

    path = str(tmp_path / "admin.sock")
    async with await asyncio.start_unix_server(haproxy, path):
        admin = Admin(path)
        await admin.place("slot-1", "10.0.0.2", 80, 9)
        await admin.admit("slot-1", Admission.DRAIN)
        await admin.trust("slot-1")
        await admin.end_requests("slot-1", BACKEND)
    assert told == [
        "set server any-host/slot-1 addr 10.0.0.2 port 80",
        "set server any-host/slot-1 check-port 9",
        "set server hosts/slot-1 addr 10.0.0.2 port 80",
        "set server hosts/slot-1 check-port 9",
        "set server any-host/slot-1 state drain",
        "set server hosts/slot-1 state drain",
        "set server any-host/slot-1 health up",
        "set server hosts/slot-1 health up",
        "shutdown sessions server hosts/slot-1",
    ]


def test_ipv6_addresses_are_written_in_brackets() -> None:
    text = render(SETTINGS, PATHS, [server_of(Member("slot-2", "i", "[fd00::2]:8001", 9), "fd00::2")])
    assert "server slot-2 [fd00::2]:8001 port 9\n" in text


def test_the_timeouts_of_the_edge_are_longer_than_any_turn() -> None:
    text = render(SETTINGS, PATHS)
    seconds = int(text.split("timeout server ")[1].split("s", 1)[0])
    assert seconds > max(SETTINGS.agent.deadline_s, SETTINGS.session.request_wait_s)


def test_a_secret_or_a_folder_that_would_break_the_configuration_is_refused() -> None:
    edge = EdgeSettings(secret="no) base64")  # type: ignore[call-arg, arg-type]
    with pytest.raises(Misconfigured, match=r"edge\.secret"):
        render(SETTINGS.model_copy(update={"edge": edge}), PATHS)
    with pytest.raises(Misconfigured, match=r"edge\.run_dir"):
        Paths.of("/tmp/with a space")
    with pytest.raises(Misconfigured, match=r"edge\.run_dir"):
        Paths.of("/tmp/" + "long/" * 30)


def test_the_map_names_every_shard_of_a_ring_and_none_of_an_empty_one() -> None:
    ring = Ring.of(Table(1, {"slot-2": Member("slot-2", "i", "a:1", 2)}))
    assert list(shard_map(ring.slot_of_shard))[:2] == ["0 slot-2", "1 slot-2"]
    assert len(list(shard_map(ring.slot_of_shard))) == SHARDS
    assert list(shard_map(EMPTY.slot_of_shard)) == []


def test_haproxys_map_gives_a_host_of_weight_3_the_shards_that_the_hosts_give_it() -> None:
    weights = {"slot-0": 1, "slot-1": 3, "slot-2": 1}
    members = {slot: Member(slot, f"i-{slot}", f"{slot}:1", 2, weight) for slot, weight in weights.items()}
    ring = Ring.of(Table(1, members))
    told = dict(line.split() for line in shard_map(ring.slot_of_shard))
    for number in range(1_000):
        owner = ring.owner(f"talk-{number}")
        assert owner is not None and told[str(shard_of(f"talk-{number}"))] == owner.slot
    assert Counter(told.values()) == ring.shares()
    assert ring.shares()["slot-1"] == pytest.approx(3 / 5 * SHARDS, rel=0.1)
