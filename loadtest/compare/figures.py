"""From what visitors saw to figures: values in, values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.compare.visitor import Sample
from loadtest.verdict import Verdict

LOST, TWICE, REORDERED = ("lost",), ("twice",), ("reordered", "numbers")
"""Rules of the checker by the words of the table; all others together are ``otherwise_wrong``."""
EXAMPLES_MAX = 3


@dataclass(frozen=True, slots=True)
class Used:
    """What a way had used up to some moment. ``calls``: of its agent."""

    cpu_s: float
    stored_bytes: int
    calls: int


def answers(samples: Sequence[Sample]) -> dict[str, Any]:
    """How the messages were answered. Latency, in ms, is of those that were acknowledged, from when they were due."""
    took = sorted(1000 * (sample.ended - sample.due) for sample in samples if sample.ok)
    wrong = [sample for sample in samples if not sample.ok]
    return {
        "sent": len(samples),
        "acknowledged": len(took),
        "client_errors": len(wrong),
        "errors_by_status": dict(Counter(str(sample.status) for sample in wrong)),
        "error_examples": sorted({sample.why[:200] for sample in wrong})[:EXAMPLES_MAX],
        "p50_ms": quantile(took, 0.5),
        "p99_ms": quantile(took, 0.99),
    }


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Of values in order; None of none."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None


def costs(before: Used, after: Used, samples: Sequence[Sample]) -> dict[str, float | None]:
    """Between two moments, for each turn that was acknowledged between them."""
    turns = sum(sample.ok for sample in samples)
    if not turns:
        return dict.fromkeys(("calls_per_turn", "stored_bytes_per_turn", "client_bytes_per_turn", "cpu_ms_per_turn"))
    carried = sum(sample.sent_bytes + sample.came_bytes for sample in samples)
    return {
        "calls_per_turn": round((after.calls - before.calls) / turns, 3),
        "stored_bytes_per_turn": round((after.stored_bytes - before.stored_bytes) / turns),
        "client_bytes_per_turn": round(carried / turns),
        "cpu_ms_per_turn": round(1000 * (after.cpu_s - before.cpu_s) / turns, 3),
    }


def word(verdict: Verdict, unread: Sequence[str]) -> dict[str, Any]:
    """The checker's, by the words of the table."""
    found, named = verdict.violated, LOST + TWICE + REORDERED
    return {
        "lost": sum(found[rule] for rule in LOST),
        "twice": sum(found[rule] for rule in TWICE),
        "reordered": sum(found[rule] for rule in REORDERED),
        "otherwise_wrong": sum(count for rule, count in found.items() if rule not in named),
        "violated": dict(found),
        "examples": {rule: told[:EXAMPLES_MAX] for rule, told in verdict.examples.items()},
        "unread": list(unread)[:EXAMPLES_MAX],
    }
