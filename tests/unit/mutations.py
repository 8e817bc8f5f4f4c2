"""Ways in which a deployment can be wrong, planted into a legal history, each with the rule that must convict it.

A mutation changes session ``s0`` in place and says whether it could: some need what not every history has, such as a
key that was acknowledged twice.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.chain import Chain
from loadtest.history import digest_of

Line = dict[str, Any]
SESSION, OTHER = "s0", "s1"
FOREIGN_OP = 1_000_000
"""Operations from here on are the mutations' own."""


@dataclass
class Case:
    """A history under the knife."""

    lines: list[Line]
    random: random.Random

    def __post_init__(self) -> None:
        self.invoked = {line["op"]: line for line in self.lines if line["is"] == "invoke"}
        self.final = self._final(SESSION)["turns"]
        self.acks = [line for line in self.lines if "turn_seq" in line and self._of(line) == SESSION]

    def _of(self, line: Line) -> str:
        return str(self.invoked[line["op"]]["session"])

    def _final(self, session: str) -> Line:
        return next(line for line in reversed(self.lines) if "turns" in line and self._of(line) == session)

    def other(self) -> list[list[Any]]:
        """The other session's final log."""
        return list(self._final(OTHER)["turns"])

    def reads(self) -> list[Line]:
        return [line for line in self.lines if "turns" in line and self._of(line) == SESSION]

    def turn_of(self, ack: Line) -> list[Any]:
        return next(turn for turn in self.final if turn[1] == ack["turn_id"])

    def plain_acks(self) -> list[Line]:
        """Those of messages that were said only once."""
        return [ack for ack in self.acks if self.turn_of(ack)[2] != "yes"]

    def runs(self) -> list[Line]:
        """One acknowledgement of each turn by whom it was run, in the log's order."""
        runs = {ack["turn_seq"]: ack for ack in self.acks if not ack["replayed"]}
        return [runs[turn_seq] for turn_seq in sorted(runs)]

    def twice_acknowledged(self) -> list[list[Line]]:
        by_turn: dict[str, list[Line]] = {}
        for ack in self.acks:
            by_turn.setdefault(ack["turn_id"], []).append(ack)
        return [acks for acks in by_turn.values() if len(acks) > 1]

    def everywhere(self, turn_id: str) -> list[list[Any]]:
        """That turn in every read."""
        return [turn for read in self.reads() for turn in read["turns"] if turn[1] == turn_id]

    def first_invoked(self, ack: Line) -> int:
        """Where the first attempt at the acknowledged message begins."""
        mine = self.invoked[ack["op"]]
        names = (mine["session"], mine.get("key"))
        return next(
            at
            for at, line in enumerate(self.lines)
            if line is mine or (names[1] and (line.get("session"), line.get("key")) == names)
        )

    def before_the_end(self) -> int:
        return self.lines.index(self.invoked[self._final(SESSION)["op"]])

    def insert_read(self, at: int, turns: list[list[Any]]) -> None:
        op = FOREIGN_OP + len(self.lines)
        turns = [list(turn) for turn in turns]
        self.lines[at:at] = [
            {"is": "invoke", "at": 0, "op": op, "do": "read", "session": SESSION},
            {"is": "ok", "at": 0, "op": op, "turns": turns},
        ]

    def insert_turn(self, at: int, message: str, end: Line) -> None:
        op = FOREIGN_OP + len(self.lines)
        invoke = {"is": "invoke", "at": 0, "op": op, "do": "turn", "session": SESSION, "message": digest_of(message)}
        self.lines[at:at] = [invoke, {"at": 0, "op": op, **end}]


def renumber(turns: list[list[Any]]) -> None:
    for index, turn in enumerate(turns, start=1):
        turn[0] = index


def drop(case: Case) -> bool:
    del case.final[case.random.choice(case.acks)["turn_seq"] - 1]
    renumber(case.final)
    return True


def drop_without_renumbering(case: Case) -> bool:
    del case.final[case.random.randrange(len(case.final) - 1)]
    return True


def cut_the_end(case: Case) -> bool:
    del case.final[max(ack["turn_seq"] for ack in case.acks) - 1 :]
    return True


def duplicate(case: Case) -> bool:
    case.final.insert(case.random.randint(0, len(case.final)), list(case.random.choice(case.final)))
    renumber(case.final)
    return True


def apply_under_two_ids(case: Case) -> bool:
    turn = case.turn_of(case.random.choice(case.plain_acks()))
    case.final.append([len(case.final) + 1, "r:another", *turn[2:]])
    return True


def swap(case: Case) -> bool:
    at = case.random.choice(case.acks)["turn_seq"] - 1
    other = at - 1 if at else 1
    case.final[at], case.final[other] = case.final[other], case.final[at]
    renumber(case.final)
    return True


def splice(case: Case) -> bool:
    strange = [list(turn) for turn in case.other() if turn[2] != "yes"]
    case.final.insert(case.random.randint(0, len(case.final)), case.random.choice(strange))
    renumber(case.final)
    return True


def make_a_turn_up(case: Case) -> bool:
    case.final.append([len(case.final) + 1, "r:made-up", "nobody said that", "?", 0])
    return True


def apply_what_was_refused(case: Case) -> bool:
    case.insert_turn(1, "refused", {"is": "fail", "status": 422, "why": ""})
    case.final.append([len(case.final) + 1, "r:refused", "refused", "?", 0])
    return True


def alter_a_reply(case: Case) -> bool:
    case.random.choice(case.final)[3] = "another reply"
    return True


def alter_an_acknowledgement(case: Case) -> bool:
    case.random.choice(case.acks)["reply"] = digest_of("another reply")
    return True


def alter_the_repeated_answer(case: Case) -> bool:
    if not (repeated := case.twice_acknowledged()):
        return False
    case.random.choice(repeated)[-1]["reply"] = digest_of("another reply")
    return True


def alter_the_stream(case: Case) -> bool:
    case.random.choice(case.acks)["streamed"] = digest_of("another reply")
    return True


def acknowledge_another_number(case: Case) -> bool:
    case.random.choice(case.acks)["turn_seq"] += 1
    return True


def count_from_two(case: Case) -> bool:
    for turn in case.final:
        turn[0] += 1
    return True


def answer_with_another_turn(case: Case) -> bool:
    repeated = [ack for acks in case.twice_acknowledged() for ack in acks]
    one, other = case.random.choice([ack for ack in case.acks if ack not in repeated]), case.random.choice(case.acks)
    if one is other:
        return False
    for name in ("turn_id", "turn_seq", "reply"):
        one[name] = other[name]
    return True


def overwrite_an_acknowledged_turn(case: Case) -> bool:
    """Two messages were acknowledged as one and the same turn_seq; the log has one of them."""
    turn_seq = case.random.choice(case.acks)["turn_seq"]
    ok = {"is": "ok", "turn_id": "r:overwritten", "turn_seq": turn_seq, "reply": digest_of("?"), "replayed": False}
    case.insert_turn(case.before_the_end(), "overwritten", ok)
    return True


def compute_from_other_predecessors(case: Case) -> bool:
    """Log and acknowledgements agree, but the reply was made from a past that lacks a turn."""
    if len(case.final) < 3:
        return False
    turn, chain = case.random.choice(case.final[2:]), Chain()
    for before in case.final[: turn[0] - 2]:
        chain.reply_to(before[2])
        chain.replied(before[3])
    reply = chain.reply_to(turn[2])
    for ack in case.acks:
        if ack["turn_id"] == turn[1]:
            ack["reply"] = digest_of(reply)
    for recorded in case.everywhere(turn[1]):
        recorded[3] = reply
    return True


def read_what_is_no_more(case: Case) -> bool:
    case.insert_read(case.before_the_end(), case.final[: max(ack["turn_seq"] for ack in case.acks) - 1])
    return True


def read_nothing(case: Case) -> bool:
    case.insert_read(case.before_the_end(), [])
    return True


def read_less_than_the_read_before(case: Case) -> bool:
    at = case.before_the_end()
    case.insert_read(at, case.final)
    case.insert_read(at + 2, case.final[:-1])
    return True


def read_the_future(case: Case) -> bool:
    ack = case.random.choice(case.acks)
    case.insert_read(case.first_invoked(ack), case.final[: ack["turn_seq"]])
    return True


def read_a_hole(case: Case) -> bool:
    holed = [list(turn) for turn in case.final]
    del holed[case.random.randrange(len(holed) - 1)]
    renumber(holed)
    case.insert_read(case.before_the_end(), holed)
    return True


def rewrite_the_past(case: Case) -> bool:
    rewritten = [list(turn) for turn in case.final]
    case.random.choice(rewritten)[1] = "r:somebody-else"
    case.insert_read(case.before_the_end(), rewritten)
    return True


def order_against_real_time(case: Case) -> bool:
    """Everybody agrees on the order, but the first of two turns was sent after the other had been acknowledged."""
    at = {id(line): position for position, line in enumerate(case.lines)}
    acks = {ack["turn_seq"]: ack for ack in reversed(case.acks)}
    pairs = [
        turn_seq
        for turn_seq, ack in acks.items()
        if (later := acks.get(turn_seq + 1)) and at[id(ack)] < case.first_invoked(later)
    ]
    if not pairs:
        return False
    first = case.random.choice(pairs)
    case.lines[0]["agent"] = "another"
    moved = {first: first + 1, first + 1: first}
    for told in case.acks:
        told["turn_seq"] = moved.get(told["turn_seq"], told["turn_seq"])
    for read in case.reads():
        for turn in read["turns"]:
            turn[0] = moved.get(turn[0], turn[0])
        read["turns"].sort()
    return True


def forget_to_read(case: Case) -> bool:
    reads = {line["op"] for line in case.invoked.values() if (line["do"], line["session"]) == ("read", SESSION)}
    case.lines[:] = [line for line in case.lines if line.get("op") not in reads]
    return True


def let_the_epoch_go_back(case: Case) -> bool:
    case.random.choice(case.final[:-1])[4] += 1_000
    return True


def acknowledge_another_epoch(case: Case) -> bool:
    if told := [ack for ack in case.acks if ack["epoch"]]:
        case.random.choice(told)["epoch"] += 1
    return bool(told)


def reuse_an_epoch(case: Case) -> bool:
    """A second host goes on under the first one's epoch, as if it had never been told of its own."""
    runs = case.runs()
    pairs = [(one, other) for one, other in itertools.pairwise(runs) if one["host"] != other["host"]]
    if not pairs:
        return False
    one, other = case.random.choice(pairs)
    epoch = case.turn_of(one)[4]
    for read in case.reads():
        for turn in read["turns"][one["turn_seq"] : other["turn_seq"]]:
            turn[4] = epoch
    for ack in case.acks:
        if one["turn_seq"] < ack["turn_seq"] <= other["turn_seq"] and ack["epoch"]:
            ack["epoch"] = epoch
    return True


def run_one_turn_on_two_hosts(case: Case) -> bool:
    if not (repeated := case.twice_acknowledged()):
        return False
    one, other = case.random.choice(repeated)[:2]
    one |= {"replayed": False, "host": "host-a"}
    other |= {"replayed": False, "host": "host-b"}
    return True


MUTATIONS: list[tuple[Callable[[Case], bool], str]] = [
    (drop, "lost"),
    (drop_without_renumbering, "numbers"),
    (cut_the_end, "lost"),
    (duplicate, "twice"),
    (apply_under_two_ids, "twice"),
    (swap, "altered"),
    (splice, "phantom"),
    (make_a_turn_up, "phantom"),
    (apply_what_was_refused, "phantom"),
    (alter_a_reply, "chain"),
    (alter_an_acknowledgement, "altered"),
    (alter_the_repeated_answer, "altered"),
    (alter_the_stream, "altered"),
    (acknowledge_another_number, "altered"),
    (count_from_two, "numbers"),
    (answer_with_another_turn, "lost"),
    (overwrite_an_acknowledged_turn, "lost"),
    (compute_from_other_predecessors, "chain"),
    (read_what_is_no_more, "stale"),
    (read_nothing, "stale"),
    (read_less_than_the_read_before, "stale"),
    (read_the_future, "reordered"),
    (read_a_hole, "rewritten"),
    (rewrite_the_past, "rewritten"),
    (order_against_real_time, "reordered"),
    (forget_to_read, "unread"),
    (let_the_epoch_go_back, "epochs"),
    (acknowledge_another_epoch, "epochs"),
    (reuse_an_epoch, "holders"),
    (run_one_turn_on_two_hosts, "holders"),
]
