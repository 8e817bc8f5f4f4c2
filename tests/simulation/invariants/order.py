"""Turns of one session follow each other, each computed from its predecessors, in the mailbox's order: I4.

A batch that was handed over belongs to that order; a turn of it that is refused for want of room is a lost wake-up, I5.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import reduce
from itertools import pairwise

from actors.errors import MailboxFull, PreconditionFailed
from actors.model import SessionKey
from actors.ports import Done
from tests.simulation import history as h
from tests.simulation.chained import carried_on, digest_of, runs_named_in
from tests.simulation.facts import Accepted, Facts
from tests.simulation.invariants.handover import check_batches_are_whole, check_nobody_goes_before_a_batch
from tests.simulation.invariants.lives import lives_of


def check_i4_no_overlap(facts: Facts) -> None:
    for turns in lives_of(facts).values():
        for index, accepted in enumerate(turns):
            _computed_from_predecessors(facts, turns[:index], accepted)
        _real_time_order(facts, turns)
    _one_run_at_a_time(facts)
    _preconditions(facts)
    _mailbox_order(facts)
    _batches_are_kept(facts)
    check_batches_are_whole(facts)
    check_nobody_goes_before_a_batch(facts)


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
    count, digest, state, chain = turn.reply.partition("|")[2].split(":")
    if before and facts.restored_between(before[0].seq, accepted.seq):
        return
    window = before if facts.limits.window is None else before[-facts.limits.window :]
    if (int(count), digest) != (len(window), digest_of(each.turn for each in window)) or turn.turn_seq != len(
        before
    ) + 1:
        facts.report("I4", accepted.seq, f"{turn.turn_id} was not computed from exactly its predecessors")
    if int(state) != turn.turn_seq:
        facts.report("I4", accepted.seq, f"the state of {turn.turn_id} has counted {state} turns of {turn.turn_seq}")
    if chain != reduce(carried_on, (each.turn for each in before), ""):
        facts.report("I4", accepted.seq, f"the state of {turn.turn_id} was not carried on over all turns before it")
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
    # A run that came to nothing ended its turn's wait, even if nobody was there to be told: whoever came for it after
    # that stands last.
    for run in facts.runs.values():
        way = (run.start.process, run.start.key, run.start.turn_id)
        if run.end is not None and run.how not in ("", "done") and any(a.seq > run.end for a in came[way]):
            answered[way].append(run.end)
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
