"""Losses that the deployment itself reported (409 ``state-regressed``): what they excuse, and what they don't.

A store that promises less than its clients were told may lose the end of a session. Then a client must be told so,
once, with two numbers: ``lost`` turns had been confirmed, ``kept`` are left. Such a report excuses exactly the
acknowledged turns kept + 1 to lost that were sent before it came: for the checker they become unknown, so they may be
missing. It excuses nothing else. Two rules of its own, judged here:

- ``forked``       two turns of one number were acknowledged, and no report between them named that number
- ``misreported``  a report named an acknowledged turn as lost that the final log still has

Whatever is acknowledged, missing, and not reported stays what the checker calls it: lost. Pure, one pass over the lines
after one look for reports; a history without a report passes through as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Accuse = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """``lost`` turns had been confirmed, ``kept`` are left. The request it answers was sent and answered at these
    times, seconds."""

    kept: int
    lost: int
    sent: float
    told: float

    def names(self, turn_seq: int) -> bool:
        return self.kept < turn_seq <= self.lost


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One turn that a client was told of."""

    turn_seq: int
    turn_id: str
    sent: float
    told: float


@dataclass(slots=True)
class SessionLosses:
    """What happened to one session of which losses were reported."""

    reports: list[Report] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    log: dict[int, str] = field(default_factory=dict)
    """turn_seq -> turn_id, of the last whole read"""

    def excuses(self, turn: Acknowledged) -> bool:
        """Whether a report came after that turn was sent, and named it."""
        return any(report.names(turn.turn_seq) and report.told > turn.sent for report in self.reports)


class Losses:
    """Feed it every line in order through :meth:`as_judged`, then :meth:`judge`."""

    def __init__(self, lines: Iterable[Line]) -> None:
        """``lines``: at least those of all operations that ended with a report, and their beginnings."""
        self._sessions: dict[str, SessionLosses] = {}
        self._running: dict[int, tuple[str, float]] = {}
        running: dict[int, Line] = {}
        for line in lines:
            if line["is"] == "invoke":
                running[line["op"]] = line
            elif "regressed" in line:
                kept, lost = line["regressed"]
                begun = running[line["op"]]
                session = self._sessions.setdefault(begun["session"], SessionLosses())
                session.reports.append(Report(kept, lost, begun["at"], line["at"]))

    def as_judged(self, line: Line) -> Line:
        """The line as the checker is to see it: an acknowledgement that a report took back is unknown, and so is a
        read that showed what was lost later."""
        if line["is"] == "invoke" and line["session"] in self._sessions:
            self._running[line["op"]] = (line["session"], line["at"])
        elif line["is"] in ("ok", "fail", "info") and (running := self._running.pop(line["op"], None)):
            session = self._sessions[running[0]]
            if line["is"] == "ok":
                judged = self._read if "turns" in line else self._turn
                return judged(session, line, running[1])
        return line

    @staticmethod
    def _turn(session: SessionLosses, line: Line, sent: float) -> Line:
        turn = Acknowledged(line["turn_seq"], line["turn_id"], sent, line["at"])
        session.acknowledged.append(turn)
        return _unknown(line) if session.excuses(turn) else line

    @staticmethod
    def _read(session: SessionLosses, line: Line, sent: float) -> Line:
        session.log = {turn[0]: turn[1] for turn in line["turns"]}
        length = len(line["turns"])
        lost = any(report.told > sent and report.names(length) for report in session.reports)
        return _unknown(line) if lost else line

    def judge(self, accuse: Accuse) -> int:
        """After the last line: accuse what no report can excuse. How many acknowledged turns were reported as lost."""
        reported = 0
        for name, session in self._sessions.items():
            session.acknowledged.sort(key=lambda turn: turn.told)
            latest: dict[int, Acknowledged] = {}
            for turn in session.acknowledged:
                before = latest.get(turn.turn_seq)
                if before is not None and before.turn_id != turn.turn_id and not _between(session, before, turn):
                    accuse("forked", f"{name}: turn {turn.turn_seq} was acknowledged as {before} and as {turn}")
                latest[turn.turn_seq] = turn
                if not session.excuses(turn):
                    continue
                if session.log.get(turn.turn_seq) == turn.turn_id and _before_a_report(session, turn):
                    accuse("misreported", f"{name}: turn {turn.turn_seq} was reported as lost, and is there")
                reported += 1
        return reported


def _between(session: SessionLosses, first: Acknowledged, second: Acknowledged) -> bool:
    """Whether a report that named the number can have come after the first turn and before the second."""
    return any(
        report.names(first.turn_seq) and report.told > first.sent and report.sent < second.told
        for report in session.reports
    )


def _before_a_report(session: SessionLosses, turn: Acknowledged) -> bool:
    """Whether the turn was acknowledged before a report that names it was even asked for."""
    return any(report.names(turn.turn_seq) and turn.told < report.sent for report in session.reports)


def _unknown(line: Line) -> Line:
    return {"is": "info", "at": line["at"], "op": line["op"], "status": 0, "why": "reported as lost"}


def reported_in(paths: Iterable[Path]) -> Iterator[Line]:
    """Of these histories: the lines with a report, each after the one that began its operation."""
    for path in paths:
        with path.open(encoding="utf-8") as file:
            ends = {line["op"]: line for raw in file if '"regressed"' in raw for line in [json.loads(raw)]}
        if not ends:
            continue
        with path.open(encoding="utf-8") as file:
            for raw in file:
                if '"invoke"' in raw and (line := json.loads(raw))["op"] in ends:
                    yield line
                    yield ends[line["op"]]
