"""Compares a session's final log with what was sent, acknowledged and read: each rule that needs the end.

Complete for the order: the log is one line of turns, every operation an interval of time. Points for all operations,
each within its interval and in the log's order, exist if and only if no turn stands before another that had been
shown (acknowledged, or read) when it was sent, and no read is shorter than what had been shown when it began: whoever
comes next takes the earliest point that the one before it leaves. So looking at pairs is enough, and no search is
needed; a test holds that against a search.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from loadtest.seen import Sent, SessionSeen, Told, Turn, may_be_called, value_of

Accuse = Callable[[str, str], None]
"""rule, what was found."""


def judge(name: str, session: SessionSeen, agent: str, accuse: Accuse) -> None:
    """All that can be said of one session whose history has ended."""
    if session.last is None:
        if session.sent:
            accuse("unread", f"{name}: no whole read after its last operation")
        return
    _judge_log(name, session.last, agent, accuse)
    for turn_seq in session.unchained:
        accuse("chain", f"{name}: turn {turn_seq} wasn't computed from exactly its predecessors")
    _judge_reads(name, session, session.last, accuse)
    _judge_sent(name, session, session.last, accuse)


def _judge_log(name: str, log: list[Turn], agent: str, accuse: Accuse) -> None:
    """What the log must be by itself."""
    epoch, ids = 0, set[str]()
    for index, (turn_seq, turn_id, message, reply, turn_epoch) in enumerate(log, start=1):
        if agent in ("echo", "paced") and message != reply:
            accuse("answer", f"{name}: turn {turn_seq} has another message's reply")
        if turn_seq != index:
            accuse("numbers", f"{name}: turn {turn_seq} stands at {index}")
        if turn_id in ids:
            accuse("twice", f"{name}: turn id {turn_id} stands in the log again, as turn {turn_seq}")
        ids.add(turn_id)
        if turn_epoch and turn_epoch < epoch:
            accuse("epochs", f"{name}: epoch {turn_epoch} of turn {turn_seq} comes after {epoch}")
        epoch = max(epoch, turn_epoch)


def _judge_reads(name: str, session: SessionSeen, log: list[Turn], accuse: Accuse) -> None:
    """Every read must be a prefix of the log."""
    value, length = 0, 0
    for read in sorted(session.reads, key=lambda read: read.length):
        if read.length <= len(log):
            value, length = value_of(value, log[length : read.length]), read.length
        if read.length > len(log) or read.value != value:
            accuse("rewritten", f"{name}: a read of {read.length} turns isn't a prefix of the log")


def _judge_sent(name: str, session: SessionSeen, log: list[Turn], accuse: Accuse) -> None:
    """Match the log with what was sent: by the acknowledged turn id, then by message."""
    acknowledged = {sent.acknowledged[1]: key for key, sent in session.sent.items() if sent.acknowledged}
    waiting: dict[str, list[str]] = {}
    for key, sent in sorted(session.sent.items(), key=lambda item: item[1].not_done):
        if sent.acknowledged is None:
            waiting.setdefault(sent.message, []).append(key)
    known = {sent.message for sent in session.sent.values()}
    applied, holders = set[str](), dict[int, str]()
    for index, (_, turn_id, message, reply, epoch) in enumerate(log, start=1):
        what = f"{name}: turn {index} ({turn_id})"
        claimant = acknowledged.get(turn_id) or _claimant(waiting.get(message), turn_id, session.sent)
        if claimant is None or claimant in applied:
            accuse("twice" if message in known else "phantom", f"{what} is more than was sent")
            continue
        applied.add(claimant)
        sent = session.sent[claimant]
        _compare(what, sent, (index, turn_id, reply, epoch), message, accuse)
        if epoch and sent.host and holders.setdefault(epoch, sent.host) != sent.host:
            accuse("holders", f"{what} was run by {sent.host} under epoch {epoch} of {holders[epoch]}")
    for key, sent in session.sent.items():
        if sent.acknowledged and key not in applied:
            accuse("lost", f"{name}: acknowledged turn {sent.acknowledged[0]} ({key}) isn't in the log")


def _compare(what: str, sent: Sent, recorded: Told, message: str, accuse: Accuse) -> None:
    if sent.not_done:
        accuse("phantom", f"{what} was reported as not done")
    elif sent.floor >= recorded[0]:
        accuse("reordered", f"{what} was sent after turn {sent.floor} had been shown")
    if (told := sent.acknowledged) is None:
        return
    if told[:3] != recorded[:3] or sent.message != message:
        accuse("altered", f"{what} was acknowledged as {told}, and is recorded as {recorded}")
    if told[3] and recorded[3] and told[3] != recorded[3]:
        accuse("epochs", f"{what} was acknowledged under epoch {told[3]}, and is recorded under {recorded[3]}")


def _claimant(keys: list[str] | None, turn_id: str, known: Container[str]) -> str | None:
    """Which of the unacknowledged messages this turn is: the one whose key the turn id carries, else the oldest without
    a key, which has the lowest floor. Those that were reported as not done come last."""
    if not keys:
        return None
    position = next((position for position, key in enumerate(keys) if may_be_called(key, turn_id, known)), None)
    return None if position is None else keys.pop(position)
