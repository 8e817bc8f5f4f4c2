"""What the experiment makes of its rounds."""

from __future__ import annotations

import json
from typing import Any

from loadtest.stampede import ROUNDS_MIN, judged, of_one_kind

ROUND: dict[str, Any] = {
    "sessions": 100, "per_s": 200.0, "asked": 90, "loaded": 90, "claims_most": 16, "errors": [],
    "usual_p50": 1.0, "usual_p99": 10.0, "then_p50": 1.0, "then_p99": 15.0,
    "moved_p50": 1.0, "moved_p99": 1.0, "moved_max": 1.0, "usual_cores": 0.5, "then_cores": 0.9,
}  # fmt: skip


def test_rounds_of_another_size_or_rate_or_from_before_these_were_kept_dont_count() -> None:
    before = {name: value for name, value in ROUND.items() if name not in ("sessions", "per_s", "usual_cores")}
    kept = [before, ROUND | {"per_s": 400.0}, ROUND | {"sessions": 10}, ROUND]
    assert of_one_kind([json.dumps(each) for each in kept], 100, 200.0) == [ROUND]


def test_the_median_of_all_rounds_decides_and_few_are_none() -> None:
    rounds = [ROUND] * (ROUNDS_MIN - 1)
    assert not judged(rounds, [])["passed"], "too few"
    felt = judged([*rounds, ROUND | {"then_p99": 500.0}], [])
    assert felt["passed"] and felt["times the usual p99, median"] == 1.5
    assert not judged([ROUND | {"then_p99": 25.0}] * ROUNDS_MIN, [])["passed"]
    assert not judged([*rounds, ROUND | {"loaded": 95}], [])["passed"]
    assert not judged([*rounds, ROUND | {"claims_most": 17}], [])["passed"]
