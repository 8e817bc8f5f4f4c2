"""The word of the checker: how much it looked at, and what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXAMPLES_MAX = 20
"""Violations of one kind that are told in full; all are counted."""


@dataclass(slots=True)
class Verdict:
    """``counted`` says what was looked at; ``violated`` how often each rule was broken; ``examples`` which."""

    counted: Counter[str] = field(default_factory=Counter)
    violated: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def legal(self) -> bool:
        return not self.violated

    def accuse(self, rule: str, what: str) -> None:
        self.violated[rule] += 1
        if len(told := self.examples.setdefault(rule, [])) < EXAMPLES_MAX:
            told.append(what)

    def as_json(self) -> dict[str, Any]:
        return {
            "legal": self.legal,
            "counted": dict(self.counted),
            "violated": dict(self.violated),
            "examples": self.examples,
        }
