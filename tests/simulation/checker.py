"""Judges a history by the invariants I1 to I10, one function each. It knows neither the workload nor the nemesis.

An operation without an answer, or whose answer says "unknown", may or may not have happened; nothing is concluded from
it. What was lost by deletion, by expiry, or by a store that forgot (declared in the history) may be missing
afterwards; a loss of the last kind must have been reported.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from actors.errors import (
    KeyMismatch,
    MailboxFull,
    Outcome,
    PoisonTurn,
    PreconditionFailed,
    RehydraError,
    SessionDeleted,
    SessionUnknown,
    StateRegressed,
    WaitedTooLong,
)
from actors.model import SessionKey
from actors.ports import Done
from actors.stores.base import Missing, Regressed, Turns
from tests.simulation import history as h
from tests.simulation.chained import digest_of, runs_named_in
from tests.simulation.facts import Accepted, Facts, LeaseAt, Limits, Op, Run, Violation

LATE_S = 12.0
"""After this long without trouble nobody has a reason to wait."""


def check(events: Sequence[h.Event], limits: Limits) -> list[Violation]:
    """Everything that is wrong, oldest first."""
    facts = Facts(events, limits)
    for each in CHECKS:
        each(facts)
    return sorted(facts.violations, key=lambda violation: violation.seq)


def check_i1_one_accepted_writer(facts: Facts) -> None:
    """Whether each commit had to be accepted is judged in ``store_model``; here: epochs never fall along a log."""
    for turns in _lives(facts).values():
        for before, after in pairwise(turns):
            if facts.restored_between(before.seq, after.seq):
                continue
            if after.epoch < before.epoch:
                facts.report("I1", after.seq, f"turn {after.turn.turn_id}: epoch {after.epoch} after {before.epoch}")
            if after.turn.turn_seq != before.turn.turn_seq + 1:
                facts.report("I1", after.seq, f"turn_seq {after.turn.turn_seq} follows {before.turn.turn_seq}")


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
        if lost_at <= facts.applied[told.number] < told.seq < known_by and not isinstance(told.answer, Turns | Missing):
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


def check_i3_at_most_once(facts: Facts) -> None:
    applied: dict[tuple[SessionKey, int, str], list[Accepted]] = defaultdict(list)
    for accepted in facts.accepted:
        applied[accepted.key, accepted.born, accepted.turn.turn_id].append(accepted)
    for (_, _, turn_id), times in applied.items():
        for first, second in pairwise(times):
            if not facts.restored_between(first.seq, second.seq):
                facts.report("I3", second.seq, f"{turn_id} is applied twice")
    _not_run_again(facts)
    sent: dict[tuple[SessionKey, str], set[str]] = defaultdict(set)
    for op in facts.ops.values():
        sent[op.start.key, op.start.turn_id].add(op.start.fingerprint)
    for op in facts.ops.values():
        if op.end is None or op.start.kind != "chat":
            continue
        final = op.end.final
        if isinstance(final, Done):
            if final.turn.fingerprint != op.start.fingerprint or final.turn.turn_id != op.start.turn_id:
                facts.report("I3", op.end.seq, f"{op.start.turn_id} got the reply to another message")
        elif isinstance(final, KeyMismatch) and len(sent[op.start.key, op.start.turn_id]) < 2:
            facts.report(
                "I3", op.end.seq, f"{op.start.turn_id} is called a mismatch, but was sent with one message only"
            )


def _not_run_again(facts: Facts) -> None:
    """A host never runs a turn that stands in the very log that it was granted: the store would not take it twice, but
    the agent may do things that nobody can take back. And the agent is told how often hosts died before it."""
    for run in facts.runs.values():
        grant = facts.granted(run.start.key, run.start.process, run.start.seq)
        if grant is None:
            continue
        if any(turn.turn_id == run.start.turn_id for turn in grant.checkpoint.turns):
            text = f"{run.start.process} runs {run.start.turn_id} again, which is in the log that it was granted"
            facts.report("I3", run.start.seq, text)
        since = facts.commits_under(grant.lease, run.start.key, run.start.seq)
        expected = 1 if since else grant.takeovers + 1
        if run.start.attempt != expected:
            text = f"{run.start.turn_id} is told to be attempt {run.start.attempt}, not {expected}"
            facts.report("I3", run.start.seq, text)


def check_i4_no_overlap(facts: Facts) -> None:
    for turns in _lives(facts).values():
        for index, accepted in enumerate(turns):
            _computed_from_predecessors(facts, turns[:index], accepted)
        _real_time_order(facts, turns)
    _one_run_at_a_time(facts)
    _preconditions(facts)
    _mailbox_order(facts)
    _batches_are_kept(facts)


def _computed_from_predecessors(facts: Facts, before: list[Accepted], accepted: Accepted) -> None:
    turn = accepted.turn
    runs = runs_named_in(turn.reply)
    if len(runs) != 1 or not runs <= facts.runs.keys():
        facts.report(
            "I4", accepted.seq, f"the reply of {turn.turn_id} comes from the runs {sorted(runs)}, not from one"
        )
        return
    start = facts.runs[runs.pop()].start
    if start.process != accepted.process or start.turn_id != turn.turn_id or start.key != accepted.key:
        facts.report("I4", accepted.seq, f"{turn.turn_id} was committed with the reply of another run")
    count, digest, state = turn.reply.partition("|")[2].split(":")
    if before and facts.restored_between(before[0].seq, accepted.seq):
        return
    expected = digest_of(each.turn for each in before)
    if (int(count), digest) != (turn.turn_seq - 1, expected):
        facts.report("I4", accepted.seq, f"{turn.turn_id} was not computed from exactly its predecessors")
    if int(state) != turn.turn_seq:
        facts.report("I4", accepted.seq, f"the state of {turn.turn_id} has counted {state} turns of {turn.turn_seq}")
    if before and start.seq < before[-1].seq:
        facts.report("I4", accepted.seq, f"the run of {turn.turn_id} overlaps the turn before it")


def _real_time_order(facts: Facts, turns: list[Accepted]) -> None:
    first_asked: dict[str, int] = {}
    first_answered: dict[str, int] = {}
    for op in facts.ops.values():
        if not turns or op.start.key != turns[0].key:
            continue
        first_asked.setdefault(op.start.turn_id, op.start.seq)
        if op.end is not None and isinstance(op.end.final, Done):
            first_answered.setdefault(op.start.turn_id, op.end.seq)
    earliest_answer_after = None
    for accepted in reversed(turns):
        turn_id = accepted.turn.turn_id
        asked = first_asked.get(turn_id)
        if asked is not None and earliest_answer_after is not None and earliest_answer_after < asked:
            facts.report("I4", accepted.seq, f"{turn_id} stands before a turn that was answered before it was asked")
        answered = first_answered.get(turn_id)
        if answered is not None and answered > accepted.seq:
            earliest_answer_after = min(answered, earliest_answer_after or answered)


def _one_run_at_a_time(facts: Facts) -> None:
    running: dict[tuple[str, SessionKey], int] = {}
    for number, run in sorted(facts.runs.items(), key=lambda item: item[1].start.seq):
        where = (run.start.process, run.start.key)
        if where in running:
            other = facts.runs[running[where]]
            if other.end is None or other.end > run.start.seq:
                facts.report("I4", run.start.seq, f"two runs of {run.start.key} at one time on {run.start.process}")
        running[where] = number


def _preconditions(facts: Facts) -> None:
    for op in facts.ops.values():
        if op.end is None or op.start.if_match is None:
            continue
        final = op.end.final
        if isinstance(final, Done) and not final.replayed and final.turn.turn_seq != op.start.if_match + 1:
            facts.report(
                "I4", op.end.seq, f"{op.start.turn_id} was to follow {op.start.if_match}, not {final.turn.turn_seq - 1}"
            )
        if isinstance(final, PreconditionFailed) and final.extra.get("turn_seq") == op.start.if_match:
            facts.report("I4", op.end.seq, f"{op.start.turn_id} was refused though its precondition holds")


def _mailbox_order(facts: Facts) -> None:  # noqa: C901 - one rule, told in one place
    """Of turns that one activation committed: in the order of their arrival; a batch in its order, before the others.

    Only turns whose way is certain are compared: those that came to this host once and never left it.
    """
    came: dict[tuple[str, SessionKey, str], list[h.Arrived]] = defaultdict(list)
    for arrival in facts.arrived:
        came[arrival.process, arrival.key, arrival.turn_id].append(arrival)
    answered: dict[tuple[str, SessionKey, str], list[int]] = defaultdict(list)
    for said in facts.said:
        if said.what == "finish":
            answered[said.process, said.key, said.turn_id].append(said.seq)
    committed: dict[tuple[str, SessionKey, int], list[Accepted]] = defaultdict(list)
    for accepted in facts.accepted:
        committed[accepted.process, accepted.key, accepted.epoch].append(accepted)
    for (process, key, _), turns in committed.items():
        own: list[tuple[int, Accepted]] = []
        batched: dict[int, list[tuple[int, Accepted]]] = defaultdict(list)
        for accepted in turns:
            way = (process, key, accepted.turn.turn_id)
            arrivals = came[way]
            if way in facts.passed_on or not arrivals or min(answered[way], default=accepted.seq) < accepted.seq:
                continue
            batches = [a for a in arrivals if a.via == "batch"]
            if not batches and len(arrivals) == 1:
                own.append((arrivals[0].seq, accepted))
            elif len(batches) == 1 and arrivals[0] is batches[0]:
                batched[batches[0].batch].append((batches[0].seq, accepted))
        for group in (own, *batched.values()):
            for (first, _), (second, accepted) in pairwise(group):
                if first > second:
                    facts.report(
                        "I4", accepted.seq, f"{accepted.turn.turn_id} on {process} isn't in the order of arrival"
                    )
        _batch_before_own(facts, process, own, batched)


def _batches_are_kept(facts: Facts) -> None:
    """Who has taken a batch over doesn't refuse its turns for want of room."""
    batches = {(a.process, a.key, a.turn_id): a for a in facts.arrived if a.via == "batch"}
    waiting: Counter[tuple[str, SessionKey, str]] = Counter()
    both: list[h.Arrived | h.Said] = [*facts.arrived, *facts.said]
    for event in sorted(both, key=lambda event: event.seq):
        way = (event.process, event.key, event.turn_id)
        if isinstance(event, h.Arrived):
            waiting[way] += event.via != "batch"
        elif event.what == "finish":
            waiting[way] -= 1
            batch = batches.get(way)
            fresh = batch is not None and event.seq - batch.seq > 0 and event.at - batch.at < 0.1
            if fresh and isinstance(event.final, MailboxFull) and waiting[way] < facts.limits.attachments_max:
                if way not in facts.passed_on:
                    facts.report(
                        "I5", event.seq, f"{event.process} took {event.turn_id} over and then had no room for it"
                    )


def _batch_before_own(
    facts: Facts, process: str, own: list[tuple[int, Accepted]], batched: dict[int, list[tuple[int, Accepted]]]
) -> None:
    begun: dict[str, int] = {}
    for run in facts.runs.values():
        if run.start.process == process:
            # What was running when the batch came, and was run anew since, has overtaken nobody.
            begun.setdefault(run.start.turn_id, run.start.seq)
    for group in batched.values():
        for came_at, accepted in group:
            for _, other in own:
                if begun.get(other.turn.turn_id, 0) < came_at or other.seq > accepted.seq:
                    continue
                # A turn whose note was on its way to the store when the batch came was no longer waiting.
                noted = [note for note in facts.notes if (note.process, note.running) == (process, other.turn.turn_id)]
                if not any(note.sent <= facts.events[came_at - 1].at for note in noted):
                    text = f"{other.turn.turn_id} on {process} overtook {accepted.turn.turn_id}, which was handed over"
                    facts.report("I4", other.seq, text)


def check_i5_no_lost_wakeup(facts: Facts) -> None:
    """Whoever asks is answered, and after the trouble all is as before it."""
    healed, quiet, probed, idle = (facts.marks.get(name) for name in ("healed", "quiet", "probed", "idle"))
    finished: Counter[int] = Counter()
    for said in facts.said:
        if said.what == "finish":
            finished[said.exchange] += 1
            if finished[said.exchange] == 2:
                facts.report("I5", said.seq, f"{said.process} has given two final answers to one request")
            if isinstance(said.final, WaitedTooLong) and healed is not None and said.at > healed.at + LATE_S:
                facts.report("I5", said.seq, f"{said.turn_id} waited for {said.process} without need")
    for op in facts.ops.values():
        if op.end is None and probed is not None:
            facts.report("I5", op.start.seq, f"{op.start.client}'s {op.start.turn_id} has got no answer")
    if quiet is not None and probed is not None:
        _probes(facts, quiet, probed)
    if idle is not None:
        for gauge in facts.gauges:
            if gauge.seq > idle.seq and gauge.resident:
                facts.report("I5", gauge.seq, f"{gauge.process} still has {gauge.resident} idle sessions in memory")


def _probes(facts: Facts, quiet: h.Fault, probed: h.Fault) -> None:
    for op in facts.ops.values():
        if not quiet.seq < op.start.seq < probed.seq or op.start.kind != "chat" or op.end is None:
            continue
        if op.end.at - op.start.at > facts.limits.probe_s:
            facts.report("I5", op.end.seq, f"a fresh turn took {op.end.at - op.start.at:.1f} s after all was healed")
        allowed = (Done, SessionDeleted, StateRegressed, PoisonTurn, MailboxFull)
        if not isinstance(op.end.final, allowed) and op.start.turn_id.startswith("k:"):
            facts.report("I5", op.end.seq, f"a fresh turn ended in {type(op.end.final).__name__} after all was healed")


def check_i6_bounded(facts: Facts) -> None:
    limits = facts.limits
    handed_over: dict[str, set[str]] = defaultdict(set)
    batched = [arrival for arrival in facts.arrived if arrival.via == "batch"]
    for gauge in facts.gauges:
        while batched and batched[0].seq < gauge.seq:
            arrival = batched.pop(0)
            handed_over[arrival.process].add(arrival.turn_id)
        # A turn that is run anew goes back into its mailbox; what another host hands over comes on top.
        if gauge.waiting > limits.mailbox_max + 1 + len(handed_over[gauge.process]):
            facts.report("I6", gauge.seq, f"{gauge.waiting} turns wait in one mailbox of {gauge.process}")
        if gauge.attached > limits.attachments_max:
            facts.report("I6", gauge.seq, f"{gauge.attached} requests wait for one turn on {gauge.process}")
        if gauge.resident > limits.resident_max + gauge.busy + 2:
            facts.report("I6", gauge.seq, f"{gauge.resident} sessions are in memory on {gauge.process}")


def check_i7_the_ring_is_a_hint(facts: Facts) -> None:
    """However the rings differ: within one epoch there is one writer."""
    writers: dict[tuple[SessionKey, int, int], Accepted] = {}
    for accepted in facts.accepted:
        place = (accepted.key, accepted.born, accepted.epoch)
        writer = writers.setdefault(place, accepted)
        if (writer.process, writer.token) != (accepted.process, accepted.token):
            if facts.restored_between(writer.seq, accepted.seq):
                writers[place] = accepted
            else:
                facts.report("I7", accepted.seq, f"{writer.process} and {accepted.process} wrote in one epoch")


def check_i8_fenced_means_silent(facts: Facts) -> None:
    durable = {(each.key, each.turn.turn_id, each.epoch): each.seq for each in facts.accepted}
    committed_by = {min(runs_named_in(each.turn.reply), default=0): each.seq for each in facts.accepted}
    for said in facts.said:
        if (said.process, said.key, said.turn_id) in facts.passed_on:
            continue  # What comes back from another host may be older than that host's answer to us.
        if said.what == "delta":
            for number in runs_named_in(said.text):
                run = facts.runs[number]
                if run.start.process == said.process and not committed_by.get(number, said.seq + 1) <= said.seq:
                    _silent(facts, said, facts.grant_before(said.key, said.process, run.start.seq))
        elif said.what == "turn":
            grant = facts.grant_before(said.key, said.process, said.seq)
            told = (said.key, said.turn_id, said.epoch)
            if grant is not None and grant.epoch == said.epoch and not durable.get(told, said.seq + 1) <= said.seq:
                _silent(facts, said, grant)


def _silent(facts: Facts, said: h.Said, grant: LeaseAt | None) -> None:
    now = facts.lease_at(said.key, said.seq)
    if grant is None or now is None or now.born != grant.born or now.epoch <= grant.epoch:
        return
    since = [lease for lease in facts.leases[said.key] if grant.seq < lease.seq <= said.seq]
    others = [lease.holder for lease in since if lease.holder not in ("", said.process)]
    if now.holder == said.process or not others or facts.restored_between(grant.seq, said.seq):
        return
    if any(_came_late(facts, lease) for lease in since):
        return
    text = f"{said.process} says its own {said.what} of {said.turn_id}; {others[-1]} has held the lease since"
    facts.report("I8", said.seq, text)


def _came_late(facts: Facts, lease: LeaseAt) -> bool:
    """A takeover that was sent long before it was applied may hit a host that has come back meanwhile."""
    call = lease.call
    return call is not None and call.over is not None and call.at - call.sent > facts.limits.store_timeout_s / 2


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


def check_live_holders_are_never_robbed(facts: Facts) -> None:
    for call in facts.takeovers:
        assert call.over is not None
        if _was_alive(facts, call.over[0], call.sent, call.at):
            facts.report("live", call.seq, f"{call.process} took {call.key} from {call.over[0]}, which is alive")
    for event in facts.evicted:
        if _was_alive(facts, event.victim, event.sent, event.at):
            facts.report("live", event.seq, f"{event.process} took {event.victim}, which is alive, off the ring")


def _was_alive(facts: Facts, host: str, sent: float, applied: float) -> bool:
    """Whether nobody could have called ``host`` dead shortly before ``sent``."""
    gone = any(event.what in ("crashed", "left") and event.at <= applied for event in facts.processes[host])
    return not gone and not _was_silent(facts, host, sent - 3 * facts.limits.beat_ttl_s, sent)


def _was_silent(facts: Facts, holder: str, since: float, until: float) -> bool:
    """Whether ``holder`` missed its beats for ``beat_ttl_s`` while those of some other host were accepted."""
    ttl_s = facts.limits.beat_ttl_s
    for begin, end in _gaps(facts.beats[holder], since, until):
        if end - begin < ttl_s - 0.05:
            continue
        for observer in facts.beats:
            watched_s = 0.0
            for first, second in _gaps(facts.beats[observer], begin, end):
                watched_s = watched_s + second - max(first, begin) if second - first < ttl_s else 0.0
                # A beat on its way takes a moment; the verdict is about the times of sending.
                if observer != holder and watched_s >= ttl_s - 0.05:
                    return True
    return False


def _gaps(beats: list[float], since: float, until: float) -> list[tuple[float, float]]:
    """The times between beats that touch [since, until]; the last ends with ``until``."""
    first = max(bisect_left(beats, since) - 1, 0)
    within = [at for at in beats[first:] if at < until]
    return list(pairwise([*within, until]))


def check_nothing_broke_unseen(facts: Facts) -> None:
    for problem in facts.problems:
        facts.report(
            "I5" if problem.process == "clients" else "intact", problem.seq, f"{problem.process}: {problem.what}"
        )
    for said in facts.said:
        if isinstance(said.final, RehydraError) and said.final.code == "internal":
            facts.report("intact", said.seq, f"{said.process} answered {said.turn_id} with an internal error")
    _streams(facts)


def _streams(facts: Facts) -> None:
    """What was streamed since the last ``turn`` is the reply that ``done`` then confirms."""
    texts: dict[int, tuple[int, str]] = {}
    for said in facts.said:
        if said.what == "turn":
            texts[said.exchange] = (said.epoch, "")
        elif said.what == "delta":
            epoch, text = texts.get(said.exchange, (0, ""))
            if not epoch:
                facts.report("intact", said.seq, f"{said.process} sends text before any turn event")
            texts[said.exchange] = (epoch, text + said.text)
        elif isinstance(said.final, Done) and not said.final.replayed and said.exchange in texts:
            epoch, text = texts[said.exchange]
            if text != said.final.turn.reply or epoch != said.final.turn.epoch:
                facts.report(
                    "intact", said.seq, f"{said.process} has streamed another text than {said.turn_id}'s reply"
                )


def _lives(facts: Facts) -> dict[tuple[SessionKey, int], list[Accepted]]:
    """The log of each life of each session, as it stood last; turns that were forgotten are left out."""
    lives: dict[tuple[SessionKey, int], list[Accepted]] = defaultdict(list)
    for accepted in facts.accepted:
        log = lives[accepted.key, accepted.born]
        while (
            log
            and facts.restored_between(log[-1].seq, accepted.seq)
            and log[-1].turn.turn_seq >= accepted.turn.turn_seq
        ):
            log.pop()
        log.append(accepted)
    return lives


CHECKS = (
    check_i1_one_accepted_writer,
    check_i2_acknowledged_means_durable,
    check_i3_at_most_once,
    check_i4_no_overlap,
    check_i5_no_lost_wakeup,
    check_i6_bounded,
    check_i7_the_ring_is_a_hint,
    check_i8_fenced_means_silent,
    check_i9_cleaning_up_is_optional,
    check_i10_three_answers,
    check_live_holders_are_never_robbed,
    check_nothing_broke_unseen,
)

__all__ = ["SessionUnknown", "check"]
