"""The checker of histories: planted violations are caught under their names, legal histories are never accused.

2,000 legal histories, as many broken ones, and as many short ones on which a brute-force search has the second word.
Each comes from its seed, which a failure names.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.checker import Checker, check
from loadtest.history import History, digest_of
from loadtest.legal import LegalHistory
from loadtest.verdict import RULES, Verdict
from tests.unit.linearizable import explained
from tests.unit.mutations import MUTATIONS, Case
from tests.unit.perturbed import CHANGES, perturbed

Lines = list[dict[str, Any]]
LEGAL = 2_000
BROKEN_EACH = -(-2_000 // len(MUTATIONS))
"""Histories of each kind of broken ones: 2,000 together at least."""
SHORT = 3_000


def verdict_of(lines: Lines) -> Verdict:
    checker = Checker()
    for line in lines:
        checker.feed(line)
    return checker.verdict()


def test_legal_histories_are_never_accused() -> None:
    print(f"seeds 0 to {LEGAL - 1}")
    counted: Counter[str] = Counter()
    for seed in range(LEGAL):
        verdict = verdict_of(list(LegalHistory(seed, sessions=2, steps=90, chained=seed % 2 == 0).lines()))
        assert verdict.legal, (seed, verdict.examples)
        counted += verdict.counted
    # They are worth being looked at: all that can happen to a message has happened.
    assert counted["turns"] > 10 * LEGAL and min(counted[end] for end in ("ok", "fail", "info", "reads")) > LEGAL


@pytest.mark.parametrize(("mutation", "rule"), MUTATIONS, ids=[mutation.__name__ for mutation, _ in MUTATIONS])
def test_every_broken_history_is_convicted_of_what_was_planted(mutation: Callable[[Case], bool], rule: str) -> None:
    seed = caught = 0
    while caught < BROKEN_EACH:
        seed += 1
        assert seed < 3 * BROKEN_EACH, "most histories must have what this mutation needs"
        case = Case(list(LegalHistory(seed, sessions=2, steps=90).lines()), random.Random(seed))
        if mutation(case):
            verdict = verdict_of(case.lines)
            assert rule in verdict.violated, (seed, verdict.as_json())
            caught += 1
    print(f"seeds 1 to {seed}: {caught} caught")


def test_every_rule_has_a_broken_history() -> None:
    elsewhere = {"answer", "forked", "misreported"}  # `answer` has a test of its own, the others have test_losses
    assert {rule for _, rule in MUTATIONS} == RULES.keys() - elsewhere


def test_on_short_histories_the_checker_and_a_search_through_all_orders_agree() -> None:
    print(f"seeds 0 to {SHORT - 1}")
    judged: Counter[bool] = Counter()
    changed: Counter[tuple[str, bool]] = Counter()
    for seed in range(SHORT):
        lines, changes = perturbed(seed)
        legal = explained(lines)
        verdict = verdict_of(lines)
        assert verdict.legal == legal, (seed, changes, verdict.as_json())
        judged[legal] += 1
        changed.update((change, legal) for change in changes)
    assert min(judged.values()) > SHORT / 10
    # The two have been asked about both sides of every line that is crossed here.
    assert {(change.__name__, legal) for change in CHANGES for legal in (True, False)} == changed.keys()


def test_a_turn_that_was_sent_after_another_was_acknowledged_must_not_stand_before_it() -> None:
    lines: Lines = [
        {"is": "invoke", "op": 1, "do": "turn", "session": "s", "message": digest_of("first"), "key": "first"},
        {"is": "ok", "op": 1, "turn_id": "k:first", "turn_seq": 2, "reply": digest_of("r")},
        {"is": "invoke", "op": 2, "do": "turn", "session": "s", "message": digest_of("second"), "key": "second"},
        {"is": "info", "op": 2},
        {"is": "invoke", "op": 3, "do": "read", "session": "s"},
        {"is": "ok", "op": 3, "turns": [[1, "k:second", "second", "r", 0], [2, "k:first", "first", "r", 0]]},
    ]
    assert verdict_of(lines).violated == {"reordered": 1}


def test_a_message_that_was_refused_first_stands_after_what_was_shown_when_it_was_sent_again() -> None:
    """The attempt that was refused has not done it, so its time gives it no right to an earlier place."""
    lines: Lines = [
        {"is": "invoke", "op": 1, "do": "turn", "session": "s", "message": digest_of("m"), "key": "m"},
        {"is": "fail", "op": 1, "status": 429, "why": "full"},
        {"is": "invoke", "op": 2, "do": "turn", "session": "s", "message": digest_of("n"), "key": "n"},
        {"is": "ok", "op": 2, "turn_id": "k:n", "turn_seq": 2, "reply": digest_of("r")},
        {"is": "invoke", "op": 3, "do": "turn", "session": "s", "message": digest_of("m"), "key": "m"},
        {"is": "info", "op": 3},
        {"is": "invoke", "op": 4, "do": "read", "session": "s"},
        {"is": "ok", "op": 4, "turns": [[1, "k:m", "m", "r", 0], [2, "k:n", "n", "r", 0]]},
    ]
    assert verdict_of(lines).violated == {"reordered": 1}


def test_a_read_during_which_a_turn_was_acknowledged_is_not_the_final_log() -> None:
    lines: Lines = [
        {"is": "invoke", "op": 1, "do": "turn", "session": "s", "message": digest_of("m")},
        {"is": "invoke", "op": 2, "do": "read", "session": "s"},
        {"is": "ok", "op": 1, "turn_id": "r:1", "turn_seq": 1, "reply": digest_of("r")},
        {"is": "ok", "op": 2, "turns": []},
    ]
    assert verdict_of(lines).violated == {"unread": 1}


def test_whoever_repeats_a_recorded_reply_is_not_taken_for_a_holder() -> None:
    message = digest_of("m")
    told = {"is": "ok", "turn_id": "k:m", "turn_seq": 1, "reply": digest_of("r")}
    lines: Lines = [
        {"is": "invoke", "op": 1, "do": "turn", "session": "s", "message": message, "key": "m"},
        {**told, "op": 1, "replayed": False, "host": "a"},
        {"is": "invoke", "op": 2, "do": "turn", "session": "s", "message": message, "key": "m"},
        {**told, "op": 2, "replayed": True, "host": "b"},
        {"is": "invoke", "op": 3, "do": "read", "session": "s"},
        {"is": "ok", "op": 3, "turns": [[1, "k:m", "m", "r", 7]]},
    ]
    assert verdict_of(lines).legal
    lines[3]["replayed"] = False
    assert verdict_of(lines).violated == {"holders": 1}


def test_a_stream_whose_deltas_are_not_its_reply_is_an_altered_turn(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.start("paced")
        op = history.invoke_turn("s", "hello")
        history.ok_turn(op, "r:1", 1, "hello", "hel")
        op = history.invoke_read("s")
        history.ok_read(op, [(1, "r:1", "hello", "hello", 5)])
    assert check([tmp_path / "h.jsonl"]).violated == {"altered": 1}


def test_an_echo_of_another_message_is_found(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.start("paced")
        op = history.invoke_turn("s", "hello")
        history.ok_turn(op, "r:1", 1, "goodbye")
        op = history.invoke_read("s")
        history.ok_read(op, [(1, "r:1", "hello", "goodbye", 5)])
    assert check([tmp_path / "h.jsonl"]).violated == {"answer": 1}


def test_histories_of_several_clients_are_merged_by_time(tmp_path: Path) -> None:
    with History(tmp_path / "a.jsonl") as one, History(tmp_path / "b.jsonl", first_op=1_000) as other:
        one.start("echo")
        for seq, (history, message) in enumerate(((one, "a"), (other, "b"), (one, "c")), start=1):
            op = history.invoke_turn("s", message)
            history.ok_turn(op, f"r:{seq}", seq, message)
        op = other.invoke_read("s")
        turns = [(seq, f"r:{seq}", text, text, 0) for seq, text in enumerate("abc", start=1)]
        other.ok_read(op, turns)
    verdict = check([tmp_path / "b.jsonl", tmp_path / "a.jsonl"])
    assert verdict.legal and verdict.counted["turns"] == 3


def test_a_history_that_makes_no_sense_is_refused_rather_than_judged() -> None:
    with pytest.raises(ValueError, match="without having begun"):
        verdict_of([{"is": "ok", "at": 0, "op": 1, "turn_id": "x", "turn_seq": 1, "reply": ""}])


@pytest.mark.parametrize(("turn_id", "accused"), [("r:1", False), ("k:made-by-a-proxy", False), ("k:other", True)])
def test_a_message_without_a_key_may_be_given_one_but_not_anothers(tmp_path: Path, turn_id: str, accused: bool) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.start("echo")
        other = history.invoke_turn("s", "first", "other")
        history.ok_turn(other, "k:other", 1, "first")
        history.ok_turn(history.invoke_turn("s", "second"), turn_id, 2, "second")
    assert ("altered" in check([path]).violated) == accused
