"""What the log of each life of a session was, by the commits that the store accepted."""

from __future__ import annotations

from collections import defaultdict

from actors.model import SessionKey
from tests.simulation.facts import Accepted, Facts


def lives_of(facts: Facts) -> dict[tuple[SessionKey, int], list[Accepted]]:
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
