"""Who may write and who may speak: I1, I7, I8, and that a live holder is never robbed.

A takeover is judged by the times of sending: what was on its way when a host came back isn't held against anybody.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from actors.model import SessionKey
from tests.simulation import history as h
from tests.simulation.chained import runs_named_in
from tests.simulation.facts import Accepted, Facts, LeaseAt
from tests.simulation.invariants.lives import lives_of


def check_i1_one_accepted_writer(facts: Facts) -> None:
    """Whether each commit had to be accepted is judged in ``store_model``; here: epochs never fall along a log."""
    for turns in lives_of(facts).values():
        for before, after in pairwise(turns):
            if facts.restored_between(before.seq, after.seq):
                continue
            if after.epoch < before.epoch:
                facts.report("I1", after.seq, f"turn {after.turn.turn_id}: epoch {after.epoch} after {before.epoch}")
            if after.turn.turn_seq != before.turn.turn_seq + 1:
                facts.report("I1", after.seq, f"turn_seq {after.turn.turn_seq} follows {before.turn.turn_seq}")


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
