"""The comparison's own reckoning: figures, rows, what counts as done, and the page that shows them."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from loadtest.baselines.ways import MODULES
from loadtest.compare import command
from loadtest.compare.balancer import config
from loadtest.compare.figures import Used, answers, costs, word
from loadtest.compare.measures import bytes_received
from loadtest.compare.page import page
from loadtest.compare.plan import FULL, SMOKE, Plan
from loadtest.compare.table import HEAD, Line, cells, markdown, rehydra_is_blameless, rows
from loadtest.compare.visitor import Sample
from loadtest.compare.ways import BY_NAME, OWN, WAYS, Balance
from loadtest.verdict import Verdict


def sample(took_s: float, status: int = 200, due: float = 10.0) -> Sample:
    return Sample(due, due, due + took_s, status, "" if status == 200 else "busy", 100, 50)


def told(lost: int = 0, errors: int = 0, p50: float = 2.0, longest: int = 50) -> dict[str, Any]:
    """What one round of a way tells."""
    judged = {"lost": lost, "twice": 0, "reordered": 0, "otherwise_wrong": 0}
    told = {"sent": 100, "acknowledged": 100 - errors, "client_errors": errors, "p50_ms": p50, "p99_ms": 2 * p50}
    spent = {
        "calls_per_turn": 1.0, "stored_bytes_per_turn": 900, "client_bytes_per_turn": 150, "cpu_ms_per_turn": 1.5,
    }  # fmt: skip
    by_length = {str(turns): told | spent | {"missing": 0} for turns in (1, longest)}
    return {
        "ordinary": told | spent | judged | {"turns_per_s": 300.0},
        "at_once": told | spent | judged,
        "lengths": {"by_length": by_length, **judged},
        "server_gone": told | judged | {"max_ms": 80.0, "running_when_killed": 1},
        "memory_bytes": 50_000_000,
        "others_cores": 0.1,
    }


def line(way: str, number: int, **about: Any) -> Line:
    return {"way": way, "round": number, "commit": "abc", **told(**about)}


# --- figures ----------------------------------------------------------------------------------------------------------


def test_latency_is_of_what_was_acknowledged_and_counts_from_when_it_was_due() -> None:
    found = answers([sample(0.010), sample(0.030), sample(9.0, status=409), sample(0.020)])
    assert (found["p50_ms"], found["p99_ms"]) == (20.0, 30.0)
    assert (found["sent"], found["acknowledged"], found["client_errors"]) == (4, 3, 1)
    assert found["errors_by_status"] == {"409": 1}


def test_nobody_answered() -> None:
    found = answers([sample(1.0, status=0)])
    assert found["p50_ms"] is None
    assert set(costs(Used(0, 0, 0), Used(1, 1, 1), [sample(1.0, status=0)]).values()) == {None}


def test_costs_are_for_each_acknowledged_turn() -> None:
    before, after = Used(10.0, 1000, 7), Used(10.3, 4000, 13)
    found = costs(before, after, [sample(0.01), sample(0.01), sample(0.01), sample(0.01, status=409)])
    assert found == {
        "calls_per_turn": 2.0, "stored_bytes_per_turn": 1000, "client_bytes_per_turn": 200, "cpu_ms_per_turn": 100.0,
    }  # fmt: skip


def test_whatever_the_checker_finds_is_in_one_of_four_columns() -> None:
    verdict = Verdict()
    for rule in verdict.rules:
        verdict.accuse(rule, "seen")
    found = word(verdict, [])
    assert found["lost"] + found["twice"] + found["reordered"] + found["otherwise_wrong"] == len(verdict.rules)
    assert (found["lost"], found["twice"], found["reordered"]) == (1, 1, 2)


def test_bytes_are_those_that_the_listener_received() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
            client.sendall(b"x" * 1000)
            assert server.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
            server.sendall(b"y" * 77)
            assert client.recv(77, socket.MSG_WAITALL) == b"y" * 77
            assert bytes_received([port]) == 1000


# --- rows -------------------------------------------------------------------------------------------------------------


def test_counts_are_added_up_and_measures_are_medians_with_extremes() -> None:
    (row,) = rows([line("cookie", number, lost=2, p50=p50) for number, p50 in enumerate((9.0, 1.0, 2.0))])
    assert row.counts["at_once"]["lost"] == 6
    assert row.counts["lengths"]["acknowledged"] == 3 * 2 * 100
    spread = row.measures["ordinary"]["p50_ms"]
    assert (spread.median, spread.least, spread.most) == (2.0, 1.0, 9.0)
    assert row.by_length[50]["stored_bytes_per_turn"].median == 900


def test_rows_stand_in_the_order_of_the_guide() -> None:
    found = rows([line(way.name, 1) for way in reversed(WAYS)])
    assert [row.way for row in found] == list(WAYS)


@pytest.mark.parametrize(("about", "good"), [({}, True), ({"lost": 1}, False), ({"errors": 1}, False)])
def test_rehydra_must_lose_nothing_and_refuse_nobody(about: dict[str, int], good: bool) -> None:
    assert rehydra_is_blameless(rows([line("rehydra", 1), line("rehydra", 2, **about)])) is good
    assert rehydra_is_blameless(rows([line("rehydra", 1), line("cookie", 1, **about)]))


def test_every_row_has_a_cell_for_every_word_of_the_head() -> None:
    found = rows([line("rehydra", 1), line("cookie", 1, lost=3, errors=50)])
    assert {len(cells(row)) for row in found} == {len(HEAD)}
    assert "3 (6.0 %)" in markdown(found)
    assert len({text.count("|") for text in markdown(found).splitlines()}) == 1


def test_a_talk_that_was_not_said_to_its_end_is_marked() -> None:
    whole, torn = line("cookie", 1), line("ip-hash", 1)
    torn["lengths"]["by_length"]["50"]["missing"] = 7
    text = {row.way.name: " ".join(cells(row)) for row in rows([whole, torn])}
    assert "not whole" in text["ip-hash"]
    assert "not whole" not in text["cookie"]


def test_the_page_shows_every_way_and_says_what_was_missing() -> None:
    lines = [line(way.name, 1, longest=10) for way in WAYS]
    text = page(rows(lines), lines, ["round 2 of cookie: <no> time"])
    assert all(way.name in text and way.set_up.split("(")[0] in text for way in WAYS)
    assert "&lt;no&gt; time" in text
    assert text.count("<svg") == text.count("</svg>") > 3


# --- ways -------------------------------------------------------------------------------------------------------------


def test_every_way_can_be_started() -> None:
    assert len(BY_NAME) == len(WAYS)
    assert {way.name for way in WAYS if not way.serves} == set(OWN)
    assert {way.serves for way in WAYS if way.serves} == set(MODULES)


@pytest.mark.parametrize("balance", Balance)
def test_nginx_sends_clients_where_the_way_says(balance: Balance) -> None:
    text = config(balance, Path("/somewhere"), 8000, [8001, 8002])
    assert text.count("{") == text.count("}")
    assert re.findall(r"server 127.0.0.1:(\d+);", text) == ["8001", "8002"]
    assert ("ip_hash;" in text) is (balance is Balance.IP_HASH)
    assert ("hash $seat" in text) is ("Set-Cookie" in text) is (balance is Balance.COOKIE)


# --- what counts as done ----------------------------------------------------------------------------------------------


def rounds(folder: Path, plan: Plan = FULL) -> command.Rounds:
    return command.Rounds(folder, plan)


def test_what_has_a_line_of_this_commit_and_these_sizes_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "commit", lambda: "abc")
    rounds(tmp_path).add({"way": "cookie", "round": 1, **told()})
    assert rounds(tmp_path).has(BY_NAME["cookie"], 1)
    assert not rounds(tmp_path).has(BY_NAME["cookie"], 2)
    assert not rounds(tmp_path).has(BY_NAME["ip-hash"], 1)
    assert not rounds(tmp_path, SMOKE).has(BY_NAME["cookie"], 1)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"way": "cookie", "rou')
    assert len(rounds(tmp_path).lines) == 1
    rounds(tmp_path).add({"way": "cookie", "round": 2, **told()})
    assert rounds(tmp_path).has(BY_NAME["cookie"], 2)
    for other in ("abd", "abc-dirty"):
        monkeypatch.setattr(command, "commit", lambda other=other: other)
        assert rounds(tmp_path).lines == []


def test_every_way_comes_once_before_any_comes_again() -> None:
    arguments = command.parse(["--rounds", "2", "--only", "cookie", "rehydra"])
    order = [(number, way.name) for number, way in command._in_turn(arguments.only, arguments.rounds)]
    assert order == [(1, "cookie"), (1, "rehydra"), (2, "cookie"), (2, "rehydra")]
