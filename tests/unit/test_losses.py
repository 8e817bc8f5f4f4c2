"""Reported losses: exactly what a report names is excused; a silent loss, a fork and a wrong report are convicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.checker import check
from loadtest.history import digest_of

Line = dict[str, Any]


class Talk:
    """One session's history, line by line, a second each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[Line] = [{"is": "start", "at": 0.0, "agent": ""}]
        self._op = 0

    def _line(self, **fields: Any) -> None:
        self.lines.append({"at": float(len(self.lines)), **fields})

    def send(self, message: str) -> int:
        self._op += 1
        self._line(**{"is": "invoke", "op": self._op, "do": "turn", "session": "s", "message": digest_of(message)})
        return self._op

    def acknowledge(self, op: int, turn_seq: int, message: str) -> None:
        about = {"turn_id": f"id-{message}", "turn_seq": turn_seq, "reply": digest_of(f"re {message}")}
        self._line(**{"is": "ok", "op": op, **about})

    def report(self, op: int, kept: int, lost: int) -> None:
        self._line(**{"is": "info", "op": op, "status": 409, "why": "state-regressed", "regressed": [kept, lost]})

    def say(self, turn_seq: int, message: str) -> None:
        self.acknowledge(self.send(message), turn_seq, message)

    def told(self, kept: int, lost: int, message: str = "asks") -> None:
        self.report(self.send(message), kept, lost)

    def read(self, *messages: str) -> None:
        self._op += 1
        self._line(**{"is": "invoke", "op": self._op, "do": "read", "session": "s"})
        turns = [[seq, f"id-{said}", said, f"re {said}", 0] for seq, said in enumerate(messages, start=1)]
        self._line(**{"is": "ok", "op": self._op, "turns": turns})

    def violated(self) -> dict[str, int]:
        self._path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        return dict(check([self._path]).violated)


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    return Talk(tmp_path / "history.jsonl")


def begun(talk: Talk) -> Talk:
    for turn_seq, message in enumerate(("a", "b", "c"), start=1):
        talk.say(turn_seq, message)
    return talk


def test_a_reported_loss_is_excused_and_the_session_goes_on(talk: Talk) -> None:
    begun(talk).told(kept=1, lost=3)
    talk.say(2, "d")
    talk.read("a", "d")
    assert talk.violated() == {}


def test_the_turn_that_asked_may_have_been_done(talk: Talk) -> None:
    begun(talk).told(kept=1, lost=3, message="asks")
    talk.read("a", "asks")
    assert talk.violated() == {}


def test_a_read_before_the_loss_is_no_longer_a_prefix_and_one_after_it_may_be_short(talk: Talk) -> None:
    begun(talk).read("a", "b", "c")
    talk.told(kept=1, lost=3)
    talk.read("a")
    assert talk.violated() == {}


def test_a_loss_that_nobody_reported_is_a_loss(talk: Talk) -> None:
    begun(talk).read("a", "b")
    assert "lost" in talk.violated()


@pytest.mark.parametrize(("kept", "lost"), [(2, 3), (1, 2), (3, 3)])
def test_what_a_report_does_not_name_is_lost(talk: Talk, kept: int, lost: int) -> None:
    begun(talk).told(kept, lost)
    talk.read("a")
    assert "lost" in talk.violated()


def test_a_report_excuses_nothing_that_was_sent_after_it(talk: Talk) -> None:
    begun(talk).told(kept=1, lost=3)
    talk.say(2, "d")
    talk.read("a")
    assert "lost" in talk.violated()


def test_two_acknowledged_turns_of_one_number_without_a_report_between_are_a_fork(talk: Talk) -> None:
    begun(talk).say(3, "d")
    talk.told(kept=2, lost=3)
    talk.read("a", "b", "d")
    assert "forked" in talk.violated()


def test_a_report_on_its_way_may_come_after_the_turn_that_took_the_number(talk: Talk) -> None:
    asked = begun(talk).send("asks")
    talk.say(3, "d")
    talk.report(asked, kept=2, lost=3)
    talk.read("a", "b", "d")
    assert talk.violated() == {}


def test_a_report_of_what_is_still_there_is_wrong(talk: Talk) -> None:
    begun(talk).told(kept=1, lost=3)
    talk.read("a", "b", "c")
    assert talk.violated() == {"misreported": 2}


def test_two_losses_need_two_reports(talk: Talk) -> None:
    begun(talk).told(kept=2, lost=3)
    talk.say(3, "d")
    talk.told(kept=2, lost=3, message="asks again")
    talk.say(3, "e")
    talk.read("a", "b", "e")
    assert talk.violated() == {}


def test_a_second_loss_is_not_covered_by_the_first_ones_report(talk: Talk) -> None:
    begun(talk).told(kept=2, lost=3)
    talk.say(3, "d")
    talk.say(3, "e")
    talk.read("a", "b", "e")
    violated = talk.violated()
    assert violated["forked"] == 1 and violated["lost"] == 1


def test_a_reported_loss_in_one_session_excuses_none_in_another(talk: Talk) -> None:
    begun(talk).told(kept=1, lost=3)
    talk.read("a")
    other = [line | {"session": "t"} if "session" in line else dict(line) for line in talk.lines[1:] if "op" in line]
    other = [line | {"op": line["op"] + 100, "at": line["at"] + 100.0} for line in other]
    talk.lines += [line for line in other if line["op"] != 104]  # without the report, and without its message
    assert "lost" in talk.violated()
