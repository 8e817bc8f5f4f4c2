"""The rules about thawed hosts: each is broken by exactly what it names, and by nothing that is legal."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from loadtest.bare.freezing import Lasts, Phase, Plan
from loadtest.bare.judging import RULES, judge
from loadtest.bare.patched import GUARDS
from loadtest.bare.store import Sight, Store, Watch
from loadtest.bare.traffic import Final, Heard
from loadtest.client import Answer, Kind
from loadtest.stack import ROOT

A, B = 11, 22


def turn(before: list[dict[str, Any]], pid: int, epoch: int) -> dict[str, Any]:
    last = hashlib.blake2b(before[-1]["reply"].encode(), digest_size=8).hexdigest() if before else "-"
    number = len(before) + 1
    reply = f"{len(before)}:{last} {pid}@{number}000000 {pid}@{number}500000"
    return {
        "turn_seq": number,
        "turn_id": f"k:s/{number}",
        "message": f"message s/{number}",
        "reply": reply,
        "epoch": epoch,
    }


def log(*authors: tuple[int, int]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for pid, epoch in authors:
        turns.append(turn(turns, pid, epoch))
    return turns


def watch(*sights: Sight) -> Watch:
    return Watch(Store("redis://127.0.0.1:1/0"), ["s"], {"s": list(sights)})


SEEN = (Sight(1.0, 5, f"{A}-a", 0), Sight(10.0, 6, f"{B}-b", 2))
LEGAL = log((A, 5), (A, 5), (B, 6))


def told(turn: dict[str, Any], **other: Any) -> Final:
    fields = {"turn_id": turn["turn_id"], "turn_seq": turn["turn_seq"], "reply": turn["reply"], "epoch": turn["epoch"]}
    return Final("s", turn["turn_id"][2:], Answer(Kind.OK, 200, **(fields | other)), 12.0, True, True)


def not_done(shared: bool) -> Final:
    return Final("s", "s/2", Answer(Kind.FAIL, 429, "full"), 9.0, shared, True)


def verdict(
    turns: list[dict[str, Any]], finals: list[Final] | None = None, heard: list[Heard] | None = None
) -> dict[str, int]:
    return dict(judge({"s": turns}, watch(*SEEN), finals or [], heard or []).violated)


def test_what_is_legal_is_not_accused() -> None:
    heard = [Heard("s", 5, A, 9.9, 11.0), Heard("s", 6, B, 11.0, 11.0)]
    finals = [told(each) for each in LEGAL] + [told(LEGAL[0], epoch=0), not_done(shared=False)]
    assert verdict(LEGAL, finals, heard) == {}


@pytest.mark.parametrize(
    ("turns", "rule"),
    [
        (log((A, 5), (A, 5), (A, 5)), "late write"),
        (log((A, 5), (A, 5), (A, 6)), "stranger"),
        (log((A, 5), (B, 5), (B, 6)), "stranger"),
        ([*LEGAL[:2], LEGAL[2] | {"reply": f"2:0000 {B}@1"}], "chain"),
    ],
)
def test_a_log_with_a_ghosts_turn_is_accused(turns: list[dict[str, Any]], rule: str) -> None:
    assert set(verdict(turns)) == {rule}


@pytest.mark.parametrize(
    "final",
    [
        told(LEGAL[1], reply="1:- 11@7"),
        told(LEGAL[1], epoch=6),
        told(LEGAL[1], turn_seq=3),
        told(LEGAL[1], turn_id="k:s/9"),
        not_done(shared=True),
    ],
)
def test_a_final_answer_that_the_log_does_not_have_is_accused(final: Final) -> None:
    assert verdict(LEGAL, [final]) == {"false final": 1}


def test_a_delta_computed_after_a_newer_epoch_was_seen_is_accused() -> None:
    assert verdict(LEGAL, heard=[Heard("s", 5, A, 10.1, 11.0)]) == {"late delta": 1}


def test_two_hosts_in_one_slot_are_accused() -> None:
    seen = watch(*SEEN)
    seen.tables = [(1.0, {"11-a": "slot-0", "22-b": "slot-1"}), (2.0, {"11-a": "slot-0", "22-b": "slot-0"})]
    assert dict(judge({"s": LEGAL}, seen, [], []).violated) == {"two in a slot": 1}
    assert "two in a slot" in RULES


def test_every_kind_of_freeze_comes_at_every_phase() -> None:
    plans = [Plan.of(1, number) for number in range(180)]
    assert {(plan.lasts, plan.phase) for plan in plans} == {(lasts, phase) for lasts in Lasts for phase in Phase}
    assert sum(plan.lasts is Lasts.REPLACED for plan in plans) == 12
    assert plans == [Plan.of(1, number) for number in range(180)]


@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_that_a_control_takes_out_stands_in_the_product(guard: str) -> None:
    patch = GUARDS[guard]
    assert (ROOT / patch.file).read_text().count(patch.old) == 1
