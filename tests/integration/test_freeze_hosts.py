"""I1, I2, I8: the experiment of ``loadtest.freeze_hosts``, short; and that it convicts hosts which lack a guard."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bare.deployment import HOST_PORTS
from loadtest.bare.patched import GUARDS, NotPatched, Patch, without
from loadtest.checker import check
from loadtest.freeze_hosts import slice_of
from tests.servers import free_ports

SEED = 7


@pytest.mark.timeout(150)
async def test_thawed_hosts_write_nothing_answer_nothing_and_stream_nothing(tmp_path: Path) -> None:
    # Around 2 s and longer, before a commit; longer at any moment; and one whose slot another host takes meanwhile.
    verdict = await slice_of((6, 7, 8, 11, 14), SEED, free_ports(HOST_PORTS + 2), tmp_path)
    judged = verdict["judged"]
    assert judged["violated"] == {} and verdict["trouble"] == [], judged["examples"]
    assert check([tmp_path / "history.jsonl"]).legal
    assert all(freeze["effective"] for freeze in verdict["freezes"]), verdict["freezes"]
    assert len(verdict["freezes"]) == 5 and verdict["freezes"][-1]["successor"]
    assert sum(freeze["moved"] for freeze in verdict["freezes"]) > 0
    assert judged["counted"]["finals straight from a host"] > 0 and judged["counted"]["deltas"] > 0


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("guard", "rule"), [("fence", "late write"), ("silence", "late delta")])
async def test_hosts_that_lack_a_guard_are_convicted(guard: str, rule: str, tmp_path: Path) -> None:
    code = without(guard, tmp_path / "code")
    verdict = await slice_of((2,), SEED, free_ports(HOST_PORTS + 2), tmp_path / "out", code)
    assert verdict["judged"]["violated"].get(rule, 0) > 0, verdict


def test_a_control_whose_guard_has_moved_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GUARDS, "gone", Patch("actors/turn.py", "this stands nowhere", ""))
    with pytest.raises(NotPatched):
        without("gone", tmp_path)
