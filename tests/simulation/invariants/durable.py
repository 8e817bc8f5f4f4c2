"""What was acknowledged is there and stays there, whoever is killed: I2 and I9.

What was lost by deletion, by expiry or by a store that forgot may be missing; who was told of a loss must pass it on.
"""

from __future__ import annotations

from collections import defaultdict

from actors.errors import SessionDeleted, StateRegressed
from actors.model import SessionKey
from actors.ports import Done
from actors.stores.base import Missing, Regressed, Replayed, Turns
from tests.simulation import history as h
from tests.simulation.facts import Facts


def check_i2_acknowledged_means_durable(facts: Facts) -> None:
    for said in facts.said:
        if isinstance(said.final, Done):
            _acknowledged(facts, said, said.final)
    _final_logs(facts)
    _reads(facts)
    _regressions_are_told(facts)


def _acknowledged(facts: Facts, said: h.Said, done: Done) -> None:
    turn = done.turn
    spans = facts.present.get((said.key, turn.turn_seq, turn.turn_id, turn.reply), [])
    if not spans or spans[0][0] > said.seq:
        facts.report("I2", said.seq, f"{said.process} said that {turn.turn_id} is done; it is not in the log then")
        return
    lost_at = max(until for _, until in spans) if all(until for _, until in spans) else 0
    if not lost_at or lost_at > said.seq:
        return
    arrival = next((a.seq for a in facts.arrived if a.exchange == said.exchange), 0)
    if lost_at > arrival or (said.process, said.key, said.turn_id) in facts.passed_on:
        return
    for told in facts.told[said.process, said.key]:
        # Whoever deletes is told of the loss by that call itself, and has answered what came before.
        known_by = arrival if facts.applied[told.number] == lost_at else said.seq
        # An older turn, recorded, says nothing of the log's end.
        silent = isinstance(told.answer, Turns | Missing | Replayed)
        if lost_at <= facts.applied[told.number] < told.seq < known_by and not silent:
            facts.report("I2", said.seq, f"{said.process} repeats {turn.turn_id}, though it was told of its loss")
            return


def _final_logs(facts: Facts) -> None:
    for log in facts.logs:
        if log.key in facts.model.given_up:
            continue
        life = facts.model.lives.get(log.key)
        expected = [(turn.turn_seq, turn.turn_id, turn.reply) for turn in life.turns] if life else []
        found = [(turn.turn_seq, turn.turn_id, turn.reply) for turn in log.turns or ()]
        if expected != found:
            facts.report(
                "I2", log.seq, f"the {log.source}'s log of {log.key} has {len(found)} turns, not {len(expected)}"
            )


def _reads(facts: Facts) -> None:
    acknowledged: dict[SessionKey, list[tuple[int, tuple[SessionKey, int, str, str]]]] = defaultdict(list)
    for op in facts.ops.values():
        if op.end is not None and isinstance(op.end.final, Done):
            turn = op.end.final.turn
            record = (op.start.key, turn.turn_seq, turn.turn_id, turn.reply)
            acknowledged[op.start.key].append((op.end.seq, record))
    for op in facts.ops.values():
        if op.start.kind != "read" or op.end is None or not isinstance(op.end.final, Turns):
            continue
        begin, end, key = op.start.seq, op.end.seq, op.start.key
        page = {(key, turn.turn_seq, turn.turn_id, turn.reply) for turn in op.end.final.turns}
        for record in page:
            if not any(since < end and (not until or until > begin) for since, until in facts.present.get(record, [])):
                facts.report("I2", op.end.seq, f"a read shows {record[2]}, which is not in the log")
        for at, record in acknowledged[key]:
            whole = any(since <= at and (not until or until > end) for since, until in facts.present.get(record, []))
            if at < begin and whole and record not in page:
                facts.report("I2", op.end.seq, f"a read misses {record[2]}, which was acknowledged before it")


def _regressions_are_told(facts: Facts) -> None:
    quiet = facts.marks.get("quiet")
    for (process, key), tellings in facts.told.items():
        for told in tellings:
            if not isinstance(told.answer, Regressed) or facts.died(process) or quiet is None or told.seq > quiet.seq:
                continue
            came = any(a.process == process and a.key == key and a.seq > quiet.seq for a in facts.arrived)
            answered = any(
                said.process == process and said.key == key and said.seq > told.seq
                and isinstance(said.final, StateRegressed | SessionDeleted) for said in facts.said
            )  # fmt: skip
            if came and not answered:
                facts.report("I2", told.seq, f"{process} has told nobody that {key} lost turns")


def check_i9_cleaning_up_is_optional(facts: Facts) -> None:
    """What a killed host had acknowledged is in its survivors' logs, unless it was deleted or forgotten."""
    logs = {
        log.key: {(log.key, turn.turn_seq, turn.turn_id, turn.reply) for turn in log.turns or ()}
        for log in facts.logs if log.source == "host"
    }  # fmt: skip
    for said in facts.said:
        if not isinstance(said.final, Done) or not facts.died(said.process) or said.key not in logs:
            continue
        turn = said.final.turn
        record = (said.key, turn.turn_seq, turn.turn_id, turn.reply)
        lost = any(seq > spans[0] for spans in facts.present.get(record, []) for seq in facts.losses[said.key])
        if not lost and record not in logs[said.key]:
            facts.report(
                "I9", said.seq, f"{turn.turn_id}, acknowledged by {said.process} before it was killed, is gone"
            )
