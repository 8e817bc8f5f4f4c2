"""``verdict.json``: what was counted and what was violated, and all that it rests on.

Counts decide; times are told. A run passes if no invariant is violated, every fault of its list had traffic and an
effect, clients saw nothing but what those faults must show them, and the experiment itself went as planned. Where
faults come by chance, several at one time, those without effect don't count and clients' errors are told, not judged.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.lab import analysis
from loadtest.lab.analysis import Maps, Moves, Op, quantiles
from loadtest.lab.faults import KINDS, Done
from loadtest.lab.scenario import Scenario
from loadtest.stack import ROOT
from loadtest.verdict import RULES, Verdict

LEASE_S = 5.0
"""A host that leaves as planned gives a lease back within this time after the session's last turn there."""
RUNTIME = ("actors", "router", "deploy")
"""What a verdict speaks of: figures stay true while these folders stay the same."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an experiment has seen. ``trouble``: what went wrong with the experiment itself."""

    scenario: Scenario
    store: str
    begun: float
    faults: list[Done]
    ops: list[Op]
    maps: Maps
    checked: Verdict
    trouble: list[str]

    @property
    def moves(self) -> list[Moves]:
        return analysis.moves(self.faults, self.ops, self.maps)


def judge(evidence: Evidence) -> dict[str, Any]:
    """The verdict."""
    faults, ops, moves = evidence.faults, evidence.ops, evidence.moves
    invariants = _invariants(evidence, moves)
    errors = _errors(ops)
    sent = Counter(op.key for op in ops if op.key)
    violated = any(found["violated"] for found in invariants.values())
    return {
        "passed": not violated and evidence.checked.legal and not evidence.trouble,
        "invariants": invariants,
        "client_errors": dict(Counter(f"{op.kind} {op.status}" for op in errors)),
        "client_error_examples": [op.why for op in errors[:10]],
        "streams_torn": sum(bool(op.key) and op.kind != "ok" for op in ops),
        "retries": sum(count - 1 for count in sent.values()),
        "turns": sum(op.kind == "ok" for op in ops),
        "sessions": len({op.session for op in ops}),
        "effective_faults": dict(Counter(fault.do for fault in faults if fault.effective)),
        "moved": {
            name: sum(len(getattr(moved, name)) for moved in moves)
            for name in ("expected", "asked", "observed", "unexpected")
        },
        "failover_s": _failover(evidence, moves),
        "latency_s": analysis.latencies(faults, ops),
        "faults": [
            fault.as_json(evidence.begun) | told
            for fault, told in zip(faults, _per_fault(evidence, moves), strict=True)
        ],
        "trouble": evidence.trouble,
        "checker": evidence.checked.as_json(),
        "scenario": evidence.scenario.model_dump(mode="json"),
        "store": evidence.store,
        **about_this(evidence.scenario, "loadtest/run"),
    }


def about_this(scenario: Scenario, command: str) -> dict[str, Any]:
    """What somebody needs who wants to do it again."""
    return {
        "seed": scenario.seed,
        "commit": commit(),
        "runtime": runtime(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join([command, *sys.argv[1:]]),
    }


def _errors(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if not op.key and op.kind != "ok"]


def _invariants(evidence: Evidence, moves: Sequence[Moves]) -> dict[str, dict[str, int]]:
    faults, ops, violated = evidence.faults, evidence.ops, evidence.checked.violated
    turns, errors = sum(op.kind == "ok" for op in ops), _errors(ops)
    held = [wait for fault in faults for wait in analysis.releases(fault, ops)]
    cut_off = [fault for fault in faults if fault.host]

    def count(counted: int, broken: int) -> dict[str, int]:
        return {"counted": counted, "violated": broken}

    found = {rule: count(turns, violated[rule]) for rule in RULES}
    found["moved though nothing had moved them"] = count(
        sum(len(moved.observed) for moved in moves), sum(len(moved.unexpected) for moved in moves)
    )
    if evidence.scenario.chance is None:
        found["faults without effect or traffic"] = count(len(faults), sum(not fault.effective for fault in faults))
        found["client errors, not streamed"] = count(
            sum(not op.key for op in ops), sum(not analysis.allowed(op, faults) for op in errors)
        )
    if held:
        found[f"leases held for more than {LEASE_S:g} s"] = count(len(held), sum(wait > LEASE_S for wait in held))
    if cut_off:
        said = sum(len(analysis.answered_by_the_cut_off(fault, ops)) for fault in cut_off)
        found["acknowledged by a host that was cut off"] = count(len(cut_off), said)
    return found


def _per_fault(evidence: Evidence, moves: Sequence[Moves]) -> list[dict[str, Any]]:
    """Moves and failover of every fault. ``added_p99_s``: how much longer the moved waited than the others."""
    told = []
    for fault, until, moved in zip(evidence.faults, analysis.ends(evidence.faults, evidence.ops), moves, strict=True):
        waits = analysis.next_acknowledged(fault, until, evidence.ops)
        sent = analysis.next_acknowledged(fault, until, evidence.ops, from_sent=True)
        its = quantiles(wait for name, wait in waits.items() if name in moved.expected)
        others = quantiles(wait for name, wait in sent.items() if name not in moved.expected)
        about: dict[str, Any] = {
            "moved": {name: len(getattr(moved, name)) for name in ("expected", "asked", "observed", "unexpected")},
            "unexpected": sorted(moved.unexpected)[:10],
            "failover_s": its,
            "others_s": others,
        }
        if its["n"] and others["n"]:
            about["added_p99_s"] = round(its["p99"] - others["p99"], 4)
        if fault.released:
            about["leases_released_s"] = quantiles(analysis.releases(fault, evidence.ops))
        told.append(about)
    return told


def _failover(evidence: Evidence, moves: Sequence[Moves]) -> dict[str, dict[str, float]]:
    """To the next acknowledged turn of the sessions that had to move, over all faults of a kind, and of all kinds."""
    found: dict[str, list[float]] = defaultdict(list)
    for fault, until, moved in zip(evidence.faults, analysis.ends(evidence.faults, evidence.ops), moves, strict=True):
        if KINDS[fault.do].takes_hosts:
            waits = analysis.next_acknowledged(fault, until, evidence.ops)
            found[fault.do] += [wait for name, wait in waits.items() if name in moved.expected]
    return {"all": quantiles(wait for waits in found.values() for wait in waits)} | {
        name: quantiles(waits) for name, waits in found.items()
    }


def commit() -> str:
    """Of the working tree; ends in ``-dirty`` if it isn't what was committed."""
    return _git("describe", "--always", "--dirty", "--exclude=*")


def runtime() -> str:
    """Stands for the runtime's code alone."""
    return " ".join(_git("rev-parse", "--short", f"HEAD:{folder}") for folder in RUNTIME)


def _git(*words: str) -> str:
    said = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip()
