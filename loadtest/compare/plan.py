"""How much of everything: the whole comparison, and a short one that shows that it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the four experiments. A round of one way takes about half a minute with these."""

    warm_turns: int = 120
    talks: int = 48
    rate: float = 50.0
    """Messages a second of ``ordinary``, while latency and costs are measured."""
    rated_s: float = 4.0
    users: int = 16
    users_s: float = 3.0
    pairs_sessions: int = 24
    pairs: int = 4
    """Times that each session is sent two messages at once."""
    pairs_at_once: int = 8
    pair_over_s: float = 0.05
    """How long the agent takes there, so that the two do meet."""
    gone_talks: int = 32
    gone_rate: float = 40.0
    gone_s: float = 5.0
    gone_after_s: float = 2.0
    gone_over_s: float = 0.2
    """So that each server has some four of them under way when one is killed."""
    lengths: tuple[tuple[int, int], ...] = ((1, 60), (10, 8), (50, 4), (200, 2), (1000, 1))
    """Turns of a talk, and how many such talks, two at a time."""
    length_s: float = 25.0
    """For all talks of one length; what isn't said by then is told as missing."""

    def as_json(self) -> dict[str, Any]:
        """The same with lists for tuples."""
        return asdict(self) | {"lengths": [list(each) for each in self.lengths]}


FULL = Plan()
SMOKE = Plan(
    warm_turns=20, talks=12, rated_s=1.0, users=8, users_s=0.5, pairs_sessions=8, pairs=2, gone_talks=12, gone_s=3.0,
    gone_after_s=1.0, lengths=((1, 8), (10, 2), (50, 1)), length_s=10.0,
)  # fmt: skip
