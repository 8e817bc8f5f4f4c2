"""Judges histories: was anything acknowledged lost, doubled, reordered, altered or made up?

    python -m loadtest.checker history.jsonl [more.jsonl ...]     exit code 1 when anything is violated

Pure Python, one pass over the lines, time linear in them; several files are merged by their times. It knows nothing
of how Rehydra works, only what its clients sent and were told (see ``history``). The last whole read of a session,
taken after its last operation, is its final log. Per session, with the name under which a violation is reported:

- ``lost``       an acknowledged turn isn't in the final log, or a read that began after the acknowledgement lacks it
- ``twice``      a turn id, or one sent message, stands in the log more than once
- ``reordered``  a turn was sent after another was acknowledged and stands before it
- ``numbers``    the log's turn_seq aren't 1, 2, 3, ...
- ``altered``    an acknowledgement differs from the log in number, message or reply; or from an earlier
                 acknowledgement of the same key; or a stream's deltas don't add up to its reply
- ``phantom``    the log has a turn that nobody sent, or that was reported as definitely not done
- ``rewritten``  an earlier read isn't a prefix of the final log
- ``chain``      (agent ``chained``) a reply wasn't computed from exactly its predecessors
- ``answer``     (agents ``echo`` and ``paced``) a reply isn't its own message
- ``epochs``     epochs go back along the log, or an acknowledgement's epoch isn't the log's
- ``unread``     there is no final read: nothing can be said

What it deliberately does not do: judge times, count errors, or decide whether a session has all the turns that an
experiment wanted; that is the experiment's own business.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.chain import Chain
from loadtest.history import digest_of
from loadtest.losses import Losses, reported_in
from loadtest.verdict import Verdict

Turn = tuple[int, str, str, str, int]
"""turn_seq, turn_id, digest of the message, digest of the reply, epoch."""


@dataclass(slots=True)
class Sent:
    """One message that somebody wanted to become one turn, however often it was sent under its key."""

    message: str
    floor: int
    """The highest turn_seq of the session that was acknowledged before this was first sent."""
    open: int = 0
    unknown: bool = False
    acknowledged: tuple[int, str, str, int] | None = None
    """turn_seq, turn_id, digest of the reply, epoch"""

    @property
    def not_done(self) -> bool:
        return self.acknowledged is None and not self.unknown and self.open == 0


@dataclass(slots=True)
class Read:
    """A whole read: how many turns, and a value that stands for all of them."""

    length: int
    value: int


@dataclass(slots=True)
class SessionSeen:
    sent: dict[str, Sent] = field(default_factory=dict)
    """By key, or by ``#op`` where the client gave none."""
    floor: int = 0
    reads: list[Read] = field(default_factory=list)
    last: list[Turn] | None = None
    """The last read, while nothing has been invoked after it."""
    unchained: list[int] = field(default_factory=list)
    """turn_seq of that read's turns that weren't computed from exactly their predecessors."""


class Checker:
    """Feed it every line in order, then ask for the verdict, once."""

    def __init__(self) -> None:
        self._verdict = Verdict()
        self._sessions: dict[str, SessionSeen] = {}
        self._running: dict[int, tuple[str, str, int]] = {}
        """Operation -> session, key (``""`` for a read), and for a read the floor it has to show."""
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
            self._turn_ended(line, running[0], running[1])
        elif kind == "ok":
            self._read_ended(line["turns"], running[0], running[2])

    def verdict(self) -> Verdict:
        """Compare every session's final log with what was sent and acknowledged."""
        for name, session in self._sessions.items():
            self._judge(name, session)
        return self._verdict

    # --- as the lines come ---------------------------------------------------------------------------------------

    def _invoke(self, line: dict[str, Any]) -> None:
        op, name = line["op"], line["session"]
        if op in self._running:
            raise ValueError(f"operation {op} begins twice")
        session = self._sessions.setdefault(name, SessionSeen())
        if line["do"] == "read":
            self._running[op] = (name, "", session.floor)
            return
        session.last = None
        key = line.get("key") or f"#{op}"
        sent = session.sent.get(key)
        if sent is None:
            sent = session.sent[key] = Sent(line["message"], session.floor)
            self._verdict.counted["messages"] += 1
        elif sent.message != line["message"]:
            raise ValueError(f"key {key} of session {name} was used for two messages")
        sent.open += 1
        self._running[op] = (name, key, 0)

    def _turn_ended(self, line: dict[str, Any], name: str, key: str) -> None:
        session = self._sessions[name]
        sent = session.sent[key]
        sent.open -= 1
        self._verdict.counted[line["is"]] += 1
        if line["is"] == "info":
            sent.unknown = True
        elif line["is"] == "ok":
            session.last = None  # a read that began before this was acknowledged isn't final
            told = (line["turn_seq"], line["turn_id"], line["reply"], line.get("epoch", 0))
            if sent.acknowledged is not None and sent.acknowledged[:3] != told[:3]:
                self._verdict.accuse("altered", f"{name}: {key} was acknowledged as {sent.acknowledged} and as {told}")
            if "streamed" in line and line["streamed"] != line["reply"]:
                self._verdict.accuse("altered", f"{name}: turn {told[0]} was streamed otherwise than it was committed")
            sent.acknowledged = sent.acknowledged or told
            session.floor = max(session.floor, told[0])

    def _read_ended(self, turns: list[list[Any]], name: str, floor: int) -> None:
        session = self._sessions[name]
        self._verdict.counted["reads"] += 1
        if len(turns) < floor:
            self._verdict.accuse("lost", f"{name}: a read shows {len(turns)} turns after turn {floor} was acknowledged")
        session.last = [
            (seq, ident, digest_of(text), digest_of(reply), epoch) for seq, ident, text, reply, epoch in turns
        ]
        session.unchained = _unchained(turns) if self._agent == "chained" else []
        session.reads.append(Read(len(turns), _value(0, session.last)))

    # --- at the end ----------------------------------------------------------------------------------------------

    def _judge(self, name: str, session: SessionSeen) -> None:
        self._verdict.counted["sessions"] += 1
        if session.last is None:
            if session.sent:
                self._verdict.accuse("unread", f"{name}: no whole read after its last operation")
            return
        self._verdict.counted["turns"] += len(session.last)
        self._judge_log(name, session.last)
        for turn_seq in session.unchained:
            self._verdict.accuse("chain", f"{name}: turn {turn_seq} wasn't computed from exactly its predecessors")
        self._judge_reads(name, session)
        self._judge_sent(name, session)

    def _judge_log(self, name: str, log: list[Turn]) -> None:
        """What the log must be by itself."""
        accuse, epoch = self._verdict.accuse, 0
        ids: set[str] = set()
        for index, (turn_seq, turn_id, message, reply, turn_epoch) in enumerate(log, start=1):
            if self._agent in ("echo", "paced") and message != reply:
                accuse("answer", f"{name}: turn {turn_seq} has another message's reply")
            if turn_seq != index:
                accuse("numbers", f"{name}: turn {turn_seq} stands at {index}")
            if turn_id in ids:
                accuse("twice", f"{name}: turn id {turn_id} stands in the log again, as turn {turn_seq}")
            ids.add(turn_id)
            if turn_epoch and turn_epoch < epoch:
                accuse("epochs", f"{name}: epoch {turn_epoch} of turn {turn_seq} comes after {epoch}")
            epoch = max(epoch, turn_epoch)

    def _judge_reads(self, name: str, session: SessionSeen) -> None:
        log = session.last or []
        value, length = 0, 0
        for read in sorted(session.reads, key=lambda read: read.length):
            if read.length <= len(log):
                value, length = _value(value, log[length : read.length]), read.length
            if read.length > len(log) or read.value != value:
                self._verdict.accuse("rewritten", f"{name}: a read of {read.length} turns isn't a prefix of the log")

    def _judge_sent(self, name: str, session: SessionSeen) -> None:
        """Match the log with what was sent: by the acknowledged turn id, then by message."""
        accuse = self._verdict.accuse
        acknowledged = {sent.acknowledged[1]: key for key, sent in session.sent.items() if sent.acknowledged}
        waiting: dict[str, list[str]] = {}
        for key, sent in sorted(session.sent.items(), key=lambda item: item[1].not_done):
            if sent.acknowledged is None:
                waiting.setdefault(sent.message, []).append(key)
        known, applied = {sent.message for sent in session.sent.values()}, set()
        for index, (_, turn_id, message, reply, epoch) in enumerate(session.last or [], start=1):
            what = f"{name}: turn {index} ({turn_id})"
            claimant = acknowledged.get(turn_id) or _claimant(waiting.get(message), turn_id)
            if claimant is None or claimant in applied:
                accuse("twice" if message in known else "phantom", f"{what} is more than was sent")
                continue
            applied.add(claimant)
            self._compare(what, session.sent[claimant], (index, turn_id, reply, epoch), message)
        for key, sent in session.sent.items():
            if sent.acknowledged and key not in applied:
                accuse("lost", f"{name}: acknowledged turn {sent.acknowledged[0]} ({key}) isn't in the log")

    def _compare(self, what: str, sent: Sent, recorded: tuple[int, str, str, int], message: str) -> None:
        accuse = self._verdict.accuse
        if sent.floor >= recorded[0]:
            accuse("reordered", f"{what} was sent after turn {sent.floor} was acknowledged")
        if sent.not_done:
            accuse("phantom", f"{what} was reported as not done")
        if (told := sent.acknowledged) is None:
            return
        if told[:3] != recorded[:3] or sent.message != message:
            accuse("altered", f"{what} was acknowledged as {told}, and is recorded as {recorded}")
        if told[3] and recorded[3] and told[3] != recorded[3]:
            accuse("epochs", f"{what} was acknowledged under epoch {told[3]}, and is recorded under {recorded[3]}")


def _unchained(turns: list[list[Any]]) -> list[int]:
    chain, wrong = Chain(), []
    for turn_seq, _, message, reply, _ in turns:
        if chain.reply_to(message) != reply:
            wrong.append(turn_seq)
        chain.replied(reply)
    return wrong


def _value(before: int, turns: list[Turn]) -> int:
    for turn in turns:
        before = hash((before, *turn))
    return before


def _claimant(keys: list[str] | None, turn_id: str) -> str | None:
    """Which of the unacknowledged messages this turn is: the one whose key the turn id carries, else the oldest without
    a key. Those that were reported as not done come last."""
    if not keys:
        return None
    for position, key in enumerate(keys):
        if turn_id in (key, f"k:{key}"):
            return keys.pop(position)
    unnamed = next((position for position, key in enumerate(keys) if key.startswith("#")), None)
    return None if unnamed is None else keys.pop(unnamed)


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
    verdict = check(parser.parse_args().histories)
    print(json.dumps(verdict.as_json(), indent=2))
    return 0 if verdict.legal else 1


if __name__ == "__main__":
    sys.exit(main())
