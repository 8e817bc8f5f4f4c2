"""What a host owes a session that it hands over: its whole waiting line goes along, and nobody runs before it. For I4.

Both rules speak of one moment, that at which the host learns that its batch has arrived: what it does then, it does
without time passing. A host that is frozen just then is judged by nobody here.
"""

from __future__ import annotations

from collections import defaultdict

from actors.model import SessionKey
from tests.simulation import history as h
from tests.simulation.facts import Facts


def check_batches_are_whole(facts: Facts) -> None:
    """Who waited when the batch was acknowledged is in it: passed on one by one they would come in any order."""
    came: dict[tuple[str, SessionKey, str], list[h.Arrived]] = defaultdict(list)
    for arrival in facts.arrived:
        came[arrival.process, arrival.key, arrival.turn_id].append(arrival)
    for handed in _kept_until_then(facts):
        for passing in facts.passings:
            at_that_moment = passing.seq > handed.seq and passing.at == handed.at
            way = (passing.process, passing.key, passing.turn_id)
            if not at_that_moment or way[:2] != (handed.process, handed.key) or passing.to != handed.to:
                continue
            if passing.turn_id not in handed.turn_ids and came[way] and came[way][0].at < handed.at:
                text = f"{passing.turn_id} waited on {handed.process}, which handed {handed.key} over without it"
                facts.report("I4", passing.seq, text)


def check_nobody_goes_before_a_batch(facts: Facts) -> None:
    """While the lease is on its way back, the host runs nothing of that session: it could have the lease again."""
    for handed in _kept_until_then(facts):
        release = next((call for call in facts.releases if _way(call) == _way(handed) and call.sent == handed.at), None)
        if release is None:
            continue
        told = next((t for t in facts.told[_way(handed)] if t.number == release.number), None)
        until = told.seq if told is not None else len(facts.events)
        for run in facts.runs.values():
            start = run.start
            within = handed.seq < start.seq < until and start.at < handed.at + facts.limits.store_timeout_s
            if within and _way(start) == _way(handed) and not _at_its_last_hop(facts, start):
                text = f"{start.process} runs {start.turn_id} before the batch that it has handed to {handed.to}"
                facts.report("I4", start.seq, text)


def _kept_until_then(facts: Facts) -> list[h.HandedOver]:
    """The hand-overs by whoever held the session. A fenced host hands over as well, and owes nothing any more."""
    return [
        handed
        for handed in facts.handed_over
        if (lease := facts.lease_at(handed.key, handed.seq)) is not None and lease.holder == handed.process
    ]


def _way(event: h.HandedOver | h.StoreCall | h.RunStarted) -> tuple[str, SessionKey]:
    return event.process, event.key


def _at_its_last_hop(facts: Facts, start: h.RunStarted) -> bool:
    """Whether it could not be passed on any more, or came in a batch itself: then it is served where it has landed."""
    return any(
        arrival.via == "batch" or arrival.hops >= facts.limits.hops_max
        for arrival in facts.arrived
        if (arrival.process, arrival.key, arrival.turn_id) == (start.process, start.key, start.turn_id)
    )
