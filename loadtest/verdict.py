"""The word of the checker: how much it looked at, and what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

RULES: Final = {
    "lost": "an acknowledged turn isn't in the final log",
    "stale": "a read lacks a turn that an acknowledgement or a read had shown before it began",
    "twice": "a turn id, or one sent message, stands in the log more than once",
    "reordered": "a turn stands before one that had been acknowledged, or read, when it was sent",
    "numbers": "the log's turn_seq aren't 1, 2, 3, ...",
    "altered": "an acknowledgement differs from the log in number, id, message or reply; or from an earlier"
    " acknowledgement of the same key; or a stream's deltas don't add up to its reply",
    "phantom": "the log has a turn that nobody sent, or that was reported as definitely not done",
    "rewritten": "an earlier read isn't a prefix of the final log",
    "chain": "(agent chained) a reply wasn't computed from exactly its predecessors",
    "answer": "(agents echo and paced) a reply isn't its own message",
    "epochs": "epochs go back along the log, or an acknowledgement's epoch isn't the log's",
    "holders": "turns of one epoch, or one and the same turn, were run by two lives of hosts",
    "forked": "two turns of one number were acknowledged, and no report of a loss between them named that number",
    "misreported": "a turn that the final log has was reported as lost",
    "unread": "there is no final read: nothing can be said",
}
"""What a history can violate, by the names under which it is reported."""

EXAMPLES_MAX = 20
"""Violations of one kind that are told in full; all are counted."""


@dataclass(slots=True)
class Verdict:
    """``counted`` says what was looked at; ``violated`` how often each of ``rules`` was broken; ``examples`` which."""

    rules: Collection[str] = tuple(RULES)
    counted: Counter[str] = field(default_factory=Counter)
    violated: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def legal(self) -> bool:
        return not self.violated

    def accuse(self, rule: str, what: str) -> None:
        """One violation of one of ``rules``."""
        assert rule in self.rules, rule
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
