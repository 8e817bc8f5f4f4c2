"""The table of an activation's life."""

import pytest

from actors.lifecycle import Event, IllegalTransition, Phase, after

LEGAL = {
    (Phase.ACTIVATING, Event.GRANTED): Phase.READY,
    (Phase.ACTIVATING, Event.DROP): Phase.GONE,
    (Phase.READY, Event.LEAVE): Phase.PASSIVATING,
    (Phase.READY, Event.FENCE): Phase.FENCED,
    (Phase.READY, Event.DROP): Phase.GONE,
    (Phase.PASSIVATING, Event.END): Phase.GONE,
    (Phase.FENCED, Event.END): Phase.GONE,
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_every_phase_either_knows_an_event_or_raises(phase: Phase, event: Event) -> None:
    if (phase, event) in LEGAL:
        assert after(phase, event) is LEGAL[phase, event]
    else:
        with pytest.raises(IllegalTransition):
            after(phase, event)


def test_nothing_follows_the_end() -> None:
    for event in Event:
        with pytest.raises(IllegalTransition):
            after(Phase.GONE, event)


def test_a_fenced_activation_can_never_become_ready_again() -> None:
    reachable, frontier = set(), {Phase.FENCED}
    while frontier:
        phase = frontier.pop()
        reachable.add(phase)
        frontier |= {to for (of, _), to in LEGAL.items() if of is phase} - reachable
    assert Phase.READY not in reachable
