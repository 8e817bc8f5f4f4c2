"""The checker of histories: planted violations are caught under their names, legal histories are never accused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.chain import Chain
from loadtest.checker import Checker, check
from loadtest.history import History, digest_of
from loadtest.verdict import Verdict

Lines = list[dict[str, Any]]
HISTORIES = 100
"""Legal ones, and of each kind of broken ones."""


def reply_after(log: list[list[Any]], message: str) -> str:
    """What the agent ``chained`` replies to ``message`` after the turns in ``log``."""
    chain = Chain()
    for turn in log:
        chain.reply_to(turn[2])
        chain.replied(turn[3])
    return chain.reply_to(message)


class World:
    """A deployment that does everything right, with clients whose requests overlap, fail and are repeated."""

    def __init__(self, seed: int, chained: bool = True) -> None:
        self.random = random.Random(seed)
        self.lines: Lines = [{"is": "start", "at": 0.0, "agent": "chained" if chained else "another"}]
        self.logs: dict[str, list[list[Any]]] = {}
        self.op = 0
        self.epoch = 1_000

    def line(self, **fields: Any) -> None:
        self.lines.append({"at": len(self.lines) * 0.001, **fields})

    def invoke(self, session: str, do: str, **fields: Any) -> int:
        self.op += 1
        self.line(**{"is": "invoke", "op": self.op, "do": do, "session": session, **fields})
        return self.op

    def commit(self, session: str, turn_id: str, message: str) -> list[Any]:
        log = self.logs.setdefault(session, [])
        for turn in log:
            if turn[1] == turn_id:
                return turn
        self.epoch += self.random.random() < 0.2
        log.append([len(log) + 1, turn_id, message, reply_after(log, message), self.epoch])
        return log[-1]

    def answer(self, op: int, turn: list[Any]) -> None:
        self.line(
            **{
                "is": "ok",
                "op": op,
                "turn_id": turn[1],
                "turn_seq": turn[0],
                "reply": digest_of(turn[3]),
                "epoch": turn[4],
            }
        )

    def read(self, session: str) -> None:
        op = self.invoke(session, "read")
        self.line(**{"is": "ok", "op": op, "turns": [list(turn) for turn in self.logs.get(session, [])]})

    def play(self, sessions: int = 3, rounds: int = 12) -> Lines:
        for number in range(rounds):
            for session in range(sessions):
                self.together(f"s{session}", number)
        for session in range(sessions):
            self.read(f"s{session}")
        return self.lines

    def together(self, session: str, number: int) -> None:
        """One to three messages of one session that are under way at one time."""
        open_: list[tuple[int, str, str]] = []
        for _ in range(self.random.randint(1, 3)):
            key = f"{session}-{number}-{len(open_)}" if self.random.random() < 0.5 else None
            message = f"{session} {number} {len(open_)}"
            op = self.invoke(session, "turn", message=digest_of(message), **({"key": key} if key else {}))
            open_.append((op, f"k:{key}" if key else f"r:{op}", message))
        self.random.shuffle(open_)
        for op, turn_id, message in open_:
            luck = self.random.random()
            if luck < 0.1:
                self.line(**{"is": "fail", "op": op, "status": 429, "why": "full"})
            elif luck < 0.2:
                self.line(**{"is": "info", "op": op, "status": 0, "why": "torn, not done"})
            elif luck < 0.3:
                turn = self.commit(session, turn_id, message)
                self.line(**{"is": "info", "op": op, "status": 503, "why": "torn, done"})
                if turn_id.startswith("k:"):
                    again = self.invoke(session, "turn", message=digest_of(message), key=turn_id[2:])
                    self.answer(again, turn)
            else:
                self.answer(op, self.commit(session, turn_id, message))
        if self.random.random() < 0.2:
            self.read(session)


def verdict_of(lines: Lines) -> Verdict:
    checker = Checker()
    for line in lines:
        checker.feed(line)
    return checker.verdict()


def final_read(lines: Lines, session: str = "s0") -> dict[str, Any]:
    """The line with the session's final log."""
    reads = {line["op"]: line["session"] for line in lines if line.get("do") == "read"}
    return next(line for line in reversed(lines) if "turns" in line and reads[line["op"]] == session)


def acknowledged(lines: Lines, session: str = "s0") -> list[int]:
    """turn_seq of acknowledged turns, in the order of their acknowledgements."""
    ops = {line["op"]: line["session"] for line in lines if line.get("do") == "turn"}
    return [line["turn_seq"] for line in lines if "turn_seq" in line and ops[line["op"]] == session]


def renumber(turns: list[list[Any]]) -> None:
    for index, turn in enumerate(turns, start=1):
        turn[0] = index


def drop(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    del turns[choose.choice(acknowledged(lines)) - 1]
    renumber(turns)


def drop_without_renumbering(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    del turns[choose.choice(acknowledged(lines)[:-1]) - 1]


def duplicate(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    turns.insert(choose.randint(0, len(turns)), list(choose.choice(turns)))
    renumber(turns)


def apply_twice_under_two_ids(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    again = list(turns[choose.choice(acknowledged(lines)) - 1])
    again[1] = "r:another"
    turns.append(again)
    renumber(turns)


def swap(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    at = choose.choice(acknowledged(lines)) - 1
    other = at - 1 if at else 1
    turns[at], turns[other] = turns[other], turns[at]
    renumber(turns)


def splice(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    turns.insert(choose.randint(0, len(turns)), list(choose.choice(final_read(lines, "s1")["turns"])))
    renumber(turns)


def change_a_reply(lines: Lines, choose: random.Random) -> None:
    choose.choice(final_read(lines)["turns"])[3] = "another reply"


def change_an_acknowledgement(lines: Lines, choose: random.Random) -> None:
    line = choose.choice([line for line in lines if "turn_seq" in line])
    line["reply"] = digest_of("another reply")


def acknowledge_another_number(lines: Lines, choose: random.Random) -> None:
    choose.choice([line for line in lines if "turn_seq" in line])["turn_seq"] += 1


def cut_the_end(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    del turns[max(acknowledged(lines)) - 1 :]


def epoch_goes_back(lines: Lines, choose: random.Random) -> None:
    final_read(lines)["turns"][choose.randint(0, 3)][4] += 1_000


def apply_what_was_refused(lines: Lines, choose: random.Random) -> None:
    turns = final_read(lines)["turns"]
    op = 10_000
    invoke = {"is": "invoke", "at": 0, "op": op, "do": "turn", "session": "s0", "message": digest_of("refused")}
    lines.insert(1, invoke)
    lines.insert(2, {"is": "fail", "at": 0, "op": op, "status": 422, "why": ""})
    turns.append([len(turns) + 1, f"r:{op}", "refused", "?", 0])


def stale_read(lines: Lines, choose: random.Random) -> None:
    final = final_read(lines)
    stale = [list(turn) for turn in final["turns"][: max(acknowledged(lines)) - 1]]
    lines.insert(-6, {"is": "invoke", "at": 0, "op": 20_000, "do": "read", "session": "s0"})
    lines.insert(-6, {"is": "ok", "at": 0, "op": 20_000, "turns": stale})


def rewrite_the_past(lines: Lines, choose: random.Random) -> None:
    final = final_read(lines)
    other = [list(turn) for turn in final["turns"]]
    choose.choice(other)[1] = "r:somebody-else"
    lines.insert(-6, {"is": "invoke", "at": 0, "op": 20_000, "do": "read", "session": "s0"})
    lines.insert(-6, {"is": "ok", "at": 0, "op": 20_000, "turns": other})


def computed_from_other_predecessors(lines: Lines, choose: random.Random) -> None:
    """Log and acknowledgement agree, but the reply was made from a past that lacks a turn."""
    turns = final_read(lines)["turns"]
    turn = choose.choice(turns[2:])
    reply = reply_after(turns[: turn[0] - 2], turn[2])
    for line in lines:
        if line.get("turn_id") == turn[1]:
            line["reply"] = digest_of(reply)
        for recorded in line.get("turns", []):
            if recorded[1] == turn[1]:
                recorded[3] = reply


def forget_to_read(lines: Lines, choose: random.Random) -> None:
    reads = {line["op"] for line in lines if line.get("do") == "read" and line["session"] == "s0"}
    lines[:] = [line for line in lines if line.get("op") not in reads]


MUTATIONS: list[tuple[Callable[[Lines, random.Random], None], str]] = [
    (drop, "lost"),
    (drop_without_renumbering, "numbers"),
    (duplicate, "twice"),
    (apply_twice_under_two_ids, "twice"),
    (swap, "altered"),
    (splice, "phantom"),
    (change_a_reply, "chain"),
    (change_an_acknowledgement, "altered"),
    (acknowledge_another_number, "altered"),
    (cut_the_end, "lost"),
    (epoch_goes_back, "epochs"),
    (apply_what_was_refused, "phantom"),
    (stale_read, "lost"),
    (rewrite_the_past, "rewritten"),
    (computed_from_other_predecessors, "chain"),
    (forget_to_read, "unread"),
]


@pytest.mark.parametrize("chained", [True, False])
def test_legal_histories_are_never_accused(chained: bool) -> None:
    for seed in range(HISTORIES):
        verdict = verdict_of(World(seed, chained).play())
        assert verdict.legal, (seed, verdict.examples)
        assert verdict.counted["sessions"] == 3 and verdict.counted["turns"] > 30


@pytest.mark.parametrize(("mutation", "rule"), MUTATIONS, ids=[mutation.__name__ for mutation, _ in MUTATIONS])
def test_every_broken_history_is_convicted_of_what_was_planted(
    mutation: Callable[[Lines, random.Random], None], rule: str
) -> None:
    for seed in range(HISTORIES):
        lines = json.loads(json.dumps(World(seed).play()))
        mutation(lines, random.Random(seed))
        verdict = verdict_of(lines)
        assert rule in verdict.violated, (seed, verdict.as_json())


def test_a_turn_that_was_sent_after_another_was_acknowledged_must_not_stand_before_it() -> None:
    world = World(1, chained=False)
    for number, message in enumerate(("first", "second"), start=1):
        op = world.invoke("s", "turn", message=digest_of(message), key=message)
        world.line(**{"is": "info", "op": op} if number == 2 else {
            "is": "ok", "op": op, "turn_id": "k:first", "turn_seq": 2, "reply": digest_of("r"), "epoch": 0
        })  # fmt: skip
    op = world.invoke("s", "read")
    log = [[1, "k:second", "second", "r", 0], [2, "k:first", "first", "r", 0]]
    world.line(**{"is": "ok", "op": op, "turns": log})
    assert verdict_of(world.lines).violated == {"reordered": 1}


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
