"""Judges a history by the invariants I1 to I10, one function each. It knows neither the workload nor the nemesis.

Here is only the list; the functions are in ``invariants``, a module for each group, and none imports this file.

An operation without an answer, or whose answer says "unknown", may or may not have happened; nothing is concluded from
it. What was lost by deletion, by expiry, or by a store that forgot (declared in the history) may be missing
afterwards; a loss of the last kind must have been reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation import history as h
from tests.simulation.facts import Facts, Limits, Violation
from tests.simulation.invariants.answers import check_i10_three_answers
from tests.simulation.invariants.durable import check_i2_acknowledged_means_durable, check_i9_cleaning_up_is_optional
from tests.simulation.invariants.intact import check_nothing_broke_unseen
from tests.simulation.invariants.members import check_the_table_keeps_its_contract
from tests.simulation.invariants.once import check_i3_at_most_once
from tests.simulation.invariants.order import check_i4_no_overlap
from tests.simulation.invariants.waiting import check_i5_no_lost_wakeup, check_i6_bounded
from tests.simulation.invariants.writers import (
    check_i1_one_accepted_writer,
    check_i7_the_ring_is_a_hint,
    check_i8_fenced_means_silent,
    check_live_holders_are_never_robbed,
)

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
    check_the_table_keeps_its_contract,
    check_nothing_broke_unseen,
)
"""In the order of their numbers: of violations of one event, the first found comes first."""


def check(events: Sequence[h.Event], limits: Limits) -> list[Violation]:
    """Everything that is wrong, oldest first."""
    facts = Facts(events, limits)
    for each in CHECKS:
        each(facts)
    return sorted(facts.violations, key=lambda violation: violation.seq)
