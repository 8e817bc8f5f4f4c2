"""Judges histories: was anything acknowledged lost, doubled, reordered, altered or made up?

    python -m loadtest.checker history.jsonl [more.jsonl ...]     exit code 1 when anything is violated

Pure Python, one pass over the lines, time linear in them; several files are merged by their times. It knows nothing
of how Rehydra works, only what its clients sent and were told (see ``history``). The last whole read of a session,
taken after its last operation, is its final log. What can be violated stands in ``verdict.RULES``; here is what is
seen as the lines come, ``judgement`` has what needs the end.

What it deliberately does not do: judge times, count errors, or decide whether a session has all the turns that an
experiment wanted; that is the experiment's own business.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadtest.chain import Chain
from loadtest.history import digest_of
from loadtest.judgement import judge
from loadtest.losses import Losses, reported_in
from loadtest.seen import Read, Sent, SessionSeen, Told, may_be_called, value_of
from loadtest.verdict import Verdict


class Checker:
    """Feed it every line in order, then ask for the verdict, once."""

    def __init__(self) -> None:
        self._verdict = Verdict()
        self._sessions: dict[str, SessionSeen] = {}
        self._running: dict[int, tuple[str, str, int, int]] = {}
        """Operation -> session, key (``""`` for a read), and of the session when it began: ``shown`` and ``changes``"""
        self._agent = ""

    def feed(self, line: dict[str, Any]) -> None:
        """One line of a history. ValueError if the history itself makes no sense."""
        kind = line["is"]
        if kind == "invoke":
            self._invoke(line)
        elif kind == "start":
            self._agent = str(line.get("agent", ""))
        elif kind == "fault":
            self._verdict.counted["faults"] += 1
        elif (running := self._running.pop(line["op"], None)) is None:
            raise ValueError(f"operation {line['op']} ends without having begun: {line}")
        elif running[1]:
            self._turn_ended(line, *running[:3])
        elif kind == "ok":
            self._read_ended(line["turns"], running[0], *running[2:])

    def verdict(self) -> Verdict:
        """Compare every session's final log with what was sent and acknowledged."""
        for name, key, shown, _ in self._running.values():
            if key:
                _may_be_done(self._sessions[name].sent[key], shown)
        counted = self._verdict.counted
        for name, session in self._sessions.items():
            counted["sessions"] += 1
            counted["turns"] += len(session.last or ())
            judge(name, session, self._agent, self._verdict.accuse)
        return self._verdict

    def _invoke(self, line: dict[str, Any]) -> None:
        op, name = line["op"], line["session"]
        if op in self._running:
            raise ValueError(f"operation {op} begins twice")
        session = self._sessions.setdefault(name, SessionSeen())
        if line["do"] == "read":
            self._running[op] = (name, "", session.shown, session.changes)
            return
        session.change()
        key = line.get("key") or f"#{op}"
        sent = session.sent.get(key)
        if sent is None:
            sent = session.sent[key] = Sent(line["message"])
            self._verdict.counted["messages"] += 1
        elif sent.message != line["message"]:
            raise ValueError(f"key {key} of session {name} was used for two messages")
        sent.open += 1
        self._running[op] = (name, key, session.shown, session.changes)

    def _turn_ended(self, line: dict[str, Any], name: str, key: str, shown: int) -> None:
        session = self._sessions[name]
        sent = session.sent[key]
        sent.open -= 1
        self._verdict.counted[line["is"]] += 1
        if line["is"] == "fail":
            return
        _may_be_done(sent, shown)
        if line["is"] == "info":
            sent.unknown = True
            return
        session.change()
        told = (line["turn_seq"], line["turn_id"], line["reply"], line.get("epoch", 0))
        if not may_be_called(key, told[1], session.sent):
            self._verdict.accuse("altered", f"{name}: {key} was acknowledged as turn {told[1]}, which isn't its own")
        self._compare_acknowledgements(f"{name}: {key}", sent, told, line)
        if (before := sent.acknowledged) is None or (before[:3] == told[:3] and not before[3]):
            sent.acknowledged = told
        session.shown = max(session.shown, told[0])

    def _compare_acknowledgements(self, what: str, sent: Sent, told: Told, line: dict[str, Any]) -> None:
        """With what else this one says, and with an earlier one of the same key."""
        if "streamed" in line and line["streamed"] != line["reply"]:
            self._verdict.accuse("altered", f"{what}: was streamed otherwise than it was committed")
        if (before := sent.acknowledged) is not None:
            if before[:3] != told[:3]:
                self._verdict.accuse("altered", f"{what} was acknowledged as {before} and as {told}")
            if before[3] and told[3] and before[3] != told[3]:
                self._verdict.accuse("epochs", f"{what} was acknowledged under epoch {before[3]} and under {told[3]}")
        # Whoever repeats a recorded answer has not run the turn.
        if (host := line.get("host", "")) and not line.get("replayed"):
            if sent.host and host != sent.host:
                self._verdict.accuse("holders", f"{what} was run by {sent.host} and by {host}")
            sent.host = sent.host or host

    def _read_ended(self, turns: list[list[Any]], name: str, shown: int, changes: int) -> None:
        session = self._sessions[name]
        self._verdict.counted["reads"] += 1
        if len(turns) < shown:
            self._verdict.accuse("stale", f"{name}: a read shows {len(turns)} turns after {shown} had been shown")
        session.shown = max(session.shown, len(turns))
        log = [(seq, ident, digest_of(text), digest_of(reply), epoch) for seq, ident, text, reply, epoch in turns]
        session.reads.append(Read(len(log), value_of(0, log)))
        if changes == session.changes:
            session.last = log
            session.unchained = _unchained(turns) if self._agent == "chained" else []


def _may_be_done(sent: Sent, shown: int) -> None:
    """One more attempt may have done it, or did; it began when so many turns had been shown."""
    sent.floor = min(sent.floor, shown)


def _unchained(turns: list[list[Any]]) -> list[int]:
    chain, wrong = Chain(), []
    for turn_seq, _, message, reply, _ in turns:
        if chain.reply_to(message) != reply:
            wrong.append(turn_seq)
        chain.replied(reply)
    return wrong


def check(paths: Iterable[Path]) -> Verdict:
    """The verdict over the histories in these files, merged by time. Losses that were reported are excused, no others
    (``losses``)."""
    paths = list(paths)
    checker, losses = Checker(), Losses(reported_in(paths))
    with ExitStack() as files:
        streams = [_lines(files.enter_context(path.open(encoding="utf-8"))) for path in paths]
        for line in heapq.merge(*streams, key=lambda line: float(line["at"])):
            checker.feed(losses.as_judged(line))
    verdict = checker.verdict()
    verdict.counted["turns reported as lost"] = losses.judge(verdict.accuse)
    return verdict


def _lines(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in file:
        yield json.loads(line)


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge histories of a Rehydra deployment.")
    parser.add_argument("histories", nargs="+", type=Path)
    gc.disable()  # A long history is millions of values without a cycle: looking for some takes a sixth of the time.
    verdict = check(parser.parse_args().histories)
    print(json.dumps(verdict.as_json(), indent=2))
    return 0 if verdict.legal else 1


if __name__ == "__main__":
    sys.exit(main())
