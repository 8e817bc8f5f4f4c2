"""Short histories with something changed at random: some are legal yet, some aren't, and nobody says which."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from loadtest.legal import LegalHistory

Line = dict[str, Any]
STEPS = (12, 30)
CHANGES_MAX = 2


def perturbed(seed: int) -> tuple[list[Line], list[str]]:
    """One session's history and the names of the changes that were made. The last two lines, the final read, stay."""
    choose = random.Random(seed)
    history = LegalHistory(seed, sessions=1, steps=choose.randint(*STEPS), chained=choose.random() < 0.4)
    *lines, begin, final = history.lines()
    changes = choose.choices(CHANGES, k=choose.randint(0, CHANGES_MAX))
    for change in changes:
        change(lines, final["turns"], choose)
    return [*lines, begin, final], [change.__name__ for change in changes]


def _some(lines: list[Line], choose: random.Random, *kinds: str) -> Line:
    """One of the ends of turns of these kinds; an empty one if there is none, which nobody looks at."""
    reads = {line["op"] for line in lines if line.get("do") == "read"}
    return choose.choice([line for line in lines if line["is"] in kinds and line["op"] not in reads] or [{}])


def move(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    """Something happens earlier or later; no operation ends before it begins."""
    if len(lines) < 2:
        return
    line = lines.pop(choose.randrange(1, len(lines)))
    others = [other for other, found in enumerate(lines) if found.get("op") == line["op"]]
    if line["is"] == "invoke":
        least, most = 1, min(others, default=len(lines))
    else:
        least, most = (max(others) + 1 if others else 1), len(lines)
    lines.insert(choose.randint(least, most), line)


def exchange_answers(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    one, other = _some(lines, choose, "ok"), _some(lines, choose, "ok")
    for name in ("turn_id", "turn_seq", "reply", "streamed", "epoch") if one and other else ():
        one[name], other[name] = other.get(name, other["reply"]), one.get(name, one["reply"])


def change_an_answer(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    ack = _some(lines, choose, "ok")
    ack |= choose.choice(
        [{"turn_seq": choose.randint(1, 4)}, {"epoch": 1_000 + choose.randint(0, 2)}, {"replayed": False},
         {"replayed": True}, {"host": f"host-{choose.randint(0, 2)}"}]
    )  # fmt: skip


def forget_an_end(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    if line := _some(lines, choose, "ok", "fail", "info"):
        lines.remove(line)


def know_less(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    line = _some(lines, choose, "ok", "fail")
    _become(line, "info")


def know_better(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    line = _some(lines, choose, "info", "ok")
    _become(line, "fail")


def _become(line: Line, kind: str) -> None:
    if line:
        op, at = line["op"], line["at"]
        line.clear()
        line |= {"is": kind, "op": op, "at": at, "status": 0, "why": ""}


def lose_a_turn(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    if log:
        del log[choose.randrange(len(log))]
        for index, turn in enumerate(log, start=1):
            turn[0] = index


def exchange_turns(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    """Two neighbours, in the log, in all reads and in what was acknowledged: legal if they overlapped."""
    if len(log) < 2:
        return
    at = choose.randrange(1, len(log))
    moved = {at: at + 1, at + 1: at}
    for line in lines:
        if "turn_seq" in line:
            line["turn_seq"] = moved.get(line["turn_seq"], line["turn_seq"])
    for turns in [log, *(line["turns"] for line in lines if "turns" in line)]:
        for turn in turns:
            turn[0] = moved.get(turn[0], turn[0])
        turns.sort()


def read_another_length(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    if reads := [line for line in lines if "turns" in line]:
        choose.choice(reads)["turns"] = [list(turn) for turn in log[: choose.randint(0, len(log))]]


def change_a_turn(lines: list[Line], log: list[list[Any]], choose: random.Random) -> None:
    if log:
        turn = choose.choice(log)
        field, value = choose.choice([(4, 1_000 + choose.randint(0, 3)), (1, "r:another"), (2, "yes"), (3, "?")])
        turn[field] = value


CHANGES: list[Callable[[list[Line], list[list[Any]], random.Random], None]] = [
    move, move, move, exchange_turns, exchange_turns, read_another_length, read_another_length,
    exchange_answers, change_an_answer, forget_an_end, know_less, know_better, lose_a_turn, change_a_turn,
]  # fmt: skip
