"""The life of an activation, whole, as one table. Pure: no clock, no tasks, no I/O.

    ACTIVATING ──GRANTED──▶ READY ──LEAVE──▶ PASSIVATING ──END──▶ GONE
        │                     ├──FENCE──▶ FENCED ──END──▶ GONE
        └──DROP──▶ GONE ◀─────┘ DROP

An event that a phase doesn't know raises and changes nothing. There is deliberately no way back: a session that is
needed again gets a new activation, with a new lease.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    ACTIVATING = "activating"
    """Claiming the lease; messages may wait, none runs."""
    READY = "ready"
    """Holds the lease as far as it knows; runs one turn at a time."""
    PASSIVATING = "passivating"
    """No longer in the host's map; gives the lease back."""
    FENCED = "fenced"
    """Has learnt that the lease is another's; says nothing more of its own."""
    GONE = "gone"


class Event(StrEnum):
    GRANTED = "granted"
    LEAVE = "leave"
    FENCE = "fence"
    DROP = "drop"
    END = "end"


class Reason(StrEnum):
    """Why an activation ended."""

    IDLE = "idle"
    CAPACITY = "capacity"
    DRAIN = "drain"
    HANDOFF = "handoff"
    FENCED = "fenced"
    REGRESSED = "regressed"
    FAILED = "failed"
    """The store stayed silent or contradicted itself: the next activation starts from what is durable."""
    DENIED = "denied"
    """The lease was never granted: somebody else holds it, or the session is deleted."""
    DELETED = "deleted"


class IllegalTransition(Exception):
    """A bug: this event can't happen in this phase. The phase is unchanged."""


_TABLE: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.ACTIVATING, Event.GRANTED): Phase.READY,
    (Phase.ACTIVATING, Event.DROP): Phase.GONE,
    (Phase.READY, Event.LEAVE): Phase.PASSIVATING,
    (Phase.READY, Event.FENCE): Phase.FENCED,
    (Phase.READY, Event.DROP): Phase.GONE,
    (Phase.PASSIVATING, Event.END): Phase.GONE,
    (Phase.FENCED, Event.END): Phase.GONE,
}


def after(phase: Phase, event: Event) -> Phase:
    """The phase that follows; IllegalTransition if the table has none."""
    try:
        return _TABLE[phase, event]
    except KeyError:
        raise IllegalTransition(f"{event} in phase {phase}") from None
