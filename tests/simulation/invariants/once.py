"""A turn is applied once, isn't run where it is known to be done, and answers its own message only: I3."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from itertools import pairwise

from actors.errors import KeyMismatch
from actors.model import SessionKey
from actors.ports import Done
from tests.simulation.facts import Accepted, Facts


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
    the agent may do things that nobody can take back. Save a turn that the agent's window has left behind since. And
    the agent is told how often hosts died before it, or this one has begun it already."""
    begun: Counter[tuple[SessionKey, str, str]] = Counter()
    for run in sorted(facts.runs.values(), key=lambda run: run.start.seq):
        who = (run.start.key, run.start.turn_id, run.start.process)
        earlier = begun[who]
        begun[who] += 1
        grant = facts.granted(run.start.key, run.start.process, run.start.seq)
        if grant is None:
            continue
        since = facts.commits_under(grant.lease, run.start.key, run.start.seq)
        left_behind = grant.checkpoint.turn_seq + since - (facts.limits.window or sys.maxsize)
        kept = {turn.turn_id for turn in grant.checkpoint.turns if turn.turn_seq > left_behind}
        if run.start.turn_id in kept:
            text = f"{run.start.process} runs {run.start.turn_id} again, which is in the log that it was granted"
            facts.report("I3", run.start.seq, text)
        expected = 1 if since else grant.takeovers + 1
        # Not every earlier run counts: after an answer, a repeat begins anew.
        if not expected <= run.start.attempt <= expected + earlier:
            text = f"{run.start.turn_id} is told to be attempt {run.start.attempt}, not {expected}"
            facts.report("I3", run.start.seq, text)
