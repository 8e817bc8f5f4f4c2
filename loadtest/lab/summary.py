"""Several verdicts as one: counts are added up, times are medians over the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

COUNTS = ("turns", "sessions", "retries", "streams_torn")


def summary(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By scenario. ``medians`` are of each run's own quantile: ``latency_s during p99`` is the median of the p99s."""
    by_name = defaultdict[str, list[dict[str, Any]]](list)
    for verdict in verdicts:
        by_name[verdict["scenario"]["name"]].append(verdict)
    return {
        "passed": all(verdict["passed"] for verdict in verdicts),
        "scenarios": {name: _of_one(told) for name, told in by_name.items()},
    }


def _of_one(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    invariants: dict[str, dict[str, int]] = defaultdict(lambda: {"counted": 0, "violated": 0})
    for verdict in verdicts:
        for name, found in verdict["invariants"].items():
            for count, number in found.items():
                invariants[name][count] += number
    times = defaultdict[str, list[float]](list)
    for verdict in verdicts:
        for name, value in _times(verdict):
            times[name].append(value)
    effective = [sum(verdict["effective_faults"].values()) for verdict in verdicts]
    return {
        "runs": len(verdicts),
        "passed": sum(verdict["passed"] for verdict in verdicts),
        "stores": sorted({verdict["store"] for verdict in verdicts}),
        "seeds": [verdict["seed"] for verdict in verdicts],
        "commits": sorted({verdict["commit"] for verdict in verdicts}),
        "machines": sorted({verdict["machine"] for verdict in verdicts}),
        "effective_faults": sum(effective),
        **{name: sum(verdict[name] for verdict in verdicts) for name in COUNTS},
        "client_errors": sum(sum(verdict["client_errors"].values()) for verdict in verdicts),
        "moved": {
            name: sum(verdict["moved"][name] for verdict in verdicts)
            for name in ("expected", "asked", "observed", "unexpected")
        },
        "invariants": dict(invariants),
        "medians": {name: round(median(values), 4) for name, values in sorted(times.items())},
    }


def _times(verdict: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for group in ("latency_s", "failover_s"):
        for part, found in verdict[group].items():
            yield from ((f"{group} {part} {name}", value) for name, value in found.items() if name != "n")
    # Of several faults in one run the worst one counts.
    added = [fault["added_p99_s"] for fault in verdict["faults"] if "added_p99_s" in fault]
    if added:
        yield "added_p99_s", max(added)
    held = [fault["leases_released_s"]["max"] for fault in verdict["faults"] if "leases_released_s" in fault]
    if held:
        yield "leases_released_s max", max(held)


def table(told: dict[str, Any]) -> str:
    """For the terminal: a line a scenario."""
    lines = [f"{'scenario':16} {'runs':>4} {'passed':>6} {'turns':>8} {'faults':>6} {'errors':>6}  medians, seconds"]
    for name, found in told["scenarios"].items():
        medians = found["medians"]
        shown = [f"failover p50 {medians[key]}" for key in ("failover_s all p50",) if key in medians]
        shown += [f"p99 {medians[key]}" for key in ("failover_s all p99",) if key in medians]
        shown += [f"added p99 {medians[key]}" for key in ("added_p99_s",) if key in medians]
        shown += [f"leases {medians[key]}" for key in ("leases_released_s max",) if key in medians]
        lines.append(
            f"{name:16} {found['runs']:4} {found['passed']:6} {found['turns']:8} {found['effective_faults']:6}"
            f" {found['client_errors']:6}  {', '.join(shown)}"
        )
    return "\n".join(lines)
