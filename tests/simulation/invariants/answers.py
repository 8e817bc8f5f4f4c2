"""What a refusal says is true: I10. Not done means never done, and poison is what has killed often enough.

Nothing is concluded from "unknown". A turn that goes on killing hosts is reported as I5: its session never wakes up.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from actors.errors import KeyMismatch, MailboxFull, Outcome, PoisonTurn, RehydraError, SessionDeleted
from actors.model import SessionKey
from tests.simulation import history as h
from tests.simulation.facts import Accepted, Facts, Op, Run


def check_i10_three_answers(facts: Facts) -> None:
    done: dict[tuple[SessionKey, str, str], list[Accepted]] = defaultdict(list)
    attempts: dict[tuple[SessionKey, str, str], list[Op]] = defaultdict(list)
    for accepted in facts.accepted:
        done[accepted.key, accepted.turn.turn_id, accepted.turn.fingerprint].append(accepted)
    for op in facts.ops.values():
        attempts[op.start.key, op.start.turn_id, op.start.fingerprint].append(op)
    for what, ops in attempts.items():
        for op in ops:
            final = op.end.final if op.end is not None else None
            if isinstance(final, RehydraError) and final.outcome is Outcome.NOT_DONE and op.start.kind == "chat":
                _not_done(facts, op, done[what], ops)
    _poison(facts)
    _poison_ends(facts)


def _not_done(facts: Facts, op: Op, done: list[Accepted], attempts: list[Op]) -> None:
    assert op.end is not None
    if facts.haunted(op.start.key, op.start.turn_id):
        return
    answered = op.end.seq
    if isinstance(op.end.final, SessionDeleted) and any(seq < answered for seq in facts.restores):
        return  # A store that has forgotten a deletion brings back what was deleted.
    if isinstance(op.end.final, MailboxFull | KeyMismatch) and _lease_forgotten(facts, op.end.final):
        return  # A refusal from memory: nobody tells a host that the store has forgotten its lease.
    problem = type(op.end.final).__name__
    for accepted in done:
        record = (accepted.key, accepted.turn.turn_seq, accepted.turn.turn_id, accepted.turn.reply)
        spans = facts.present.get(record, [])
        if accepted.seq < answered:
            if any(since <= op.start.seq and (not until or until > answered) for since, until in spans) or (
                accepted.seq > op.start.seq
                and not any(accepted.seq < loss < answered for loss in facts.losses[op.start.key])
            ):
                facts.report("I10", answered, f"{op.start.turn_id} is called not done ({problem}); it is in the log")
        elif not any(
            other is not op and (other.end is None or other.end.seq > answered) and other.start.seq < accepted.seq
            for other in attempts
        ):
            turn_id = op.start.turn_id
            text = f"{turn_id} was called not done ({problem}) at {answered}, and is done without being asked again"
            facts.report("I10", accepted.seq, text)


def _lease_forgotten(facts: Facts, final: RehydraError) -> bool:
    """Whether the store has forgotten something since the host that gave this answer got its lease."""
    said = next((said for said in facts.said if said.final is final), None)
    grant = facts.grant_before(said.key, said.process, said.seq) if said is not None else None
    return said is not None and grant is not None and facts.restored_between(grant.seq, said.seq)


def _poison(facts: Facts) -> None:
    for said in facts.said:
        if isinstance(said.final, PoisonTurn) and (said.process, said.key, said.turn_id) not in facts.passed_on:
            lease = facts.lease_at(said.key, said.seq)
            if lease is None or not facts.leases[said.key]:
                continue
            most = max((each.takeovers for each in facts.leases[said.key] if each.seq <= said.seq), default=0)
            recent = lease.takeovers if lease.holder == said.process else most
            if recent < facts.limits.takeovers_max:
                facts.report("I10", said.seq, f"{said.turn_id} is called poison after {recent} takeovers")
            # It needn't have run there: that host may have stopped between the note and the run.
            noted = {
                note.lease.epoch for note in facts.notes
                if note.seq < said.seq and (note.key, note.running) == (said.key, said.turn_id) and note.lease
            }  # fmt: skip
            if len(noted) < facts.limits.takeovers_max - 1:
                text = f"{said.turn_id} is called poison, and was about to run under {len(noted)} leases before"
                facts.report("I10", said.seq, text)


def _poison_ends(facts: Facts) -> None:
    """A turn can't kill hosts for ever: each turn at most ``takeovers_max`` since its session was last known to be
    well, or the turn was answered. Only holders count: from anybody else nothing is taken over."""
    killed: Counter[tuple[SessionKey, str]] = Counter()
    steps: list[tuple[int, SessionKey | h.Said | Run | None]] = [(seq, None) for seq in facts.restores]
    steps += [(seq, key) for key, seqs in facts.losses.items() for seq in seqs]
    steps += [(accepted.seq, accepted.key) for accepted in facts.accepted]
    steps += [(said.seq, said) for said in facts.said if isinstance(said.final, PoisonTurn)]
    for key, leases in facts.leases.items():
        steps += [(lease.seq, key) for lease in leases if lease.call is not None and lease.call.call == "release"]
    for run in facts.runs.values():
        if run.end and isinstance(facts.events[run.end - 1], h.Process):
            steps.append((run.end, run))
    for seq, step in sorted(steps, key=lambda each: each[0]):
        if isinstance(step, Run):
            which = (step.start.key, step.start.turn_id)
            lease = facts.lease_at(step.start.key, seq)
            killed[which] += lease is not None and lease.holder == step.start.process
            if killed[which] > facts.limits.takeovers_max:
                facts.report("I5", seq, f"{which[1]} has killed {killed[which]} hosts, one after the other")
        elif isinstance(step, h.Said):
            del killed[step.key, step.turn_id]
        else:
            # Without a key the store has forgotten everything, its counts as well.
            killed = Counter({which: times for which, times in killed.items() if step is not None and which[0] != step})
