"""A second opinion on short histories, by brute force: is there any order of the operations that explains them?

The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for
linearizability", 2017), over an append log: whoever is unfinished takes effect at one moment between its beginning
and its end, or, if its end isn't known, at any later one, or never. It shares nothing with the checker but the lines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]
FOREVER = 1 << 60


@dataclass(frozen=True)
class Operation:
    """``end`` None: unknown. Positions in the history stand for times."""

    begin: int
    end: int
    identity: str
    invoke: Line
    ok: Line | None


def explained(lines: list[Line]) -> bool:
    """Whether a deployment that does everything right can have made this history of one session, whose last line is a
    read of its whole log."""
    chained = lines[0]["agent"] == "chained"
    operations = _operations(lines)
    log = [tuple(turn) for turn in lines[-1]["turns"]]
    return _whole(log, chained) and _one_host_per_epoch(operations, log) and _search(operations, log)


def _operations(lines: list[Line]) -> list[Operation]:
    invoked: dict[int, tuple[int, Line]] = {}
    ended: dict[int, tuple[int, Line]] = {}
    for at, line in enumerate(lines):
        if line["is"] == "invoke":
            invoked[line["op"]] = (at, line)
        elif "op" in line:
            ended[line["op"]] = (at, line)
    found = []
    for op, (begin, invoke) in invoked.items():
        at, end = ended.get(op, (FOREVER, {"is": "info"}))
        acknowledged = end["is"] == "ok"
        if end["is"] == "fail" or (invoke["do"] == "read" and not acknowledged):
            continue
        identity = invoke.get("key") or f"#{op}"
        found.append(Operation(begin, at if acknowledged else FOREVER, identity, invoke, end if acknowledged else None))
    return found


def _whole(log: list[tuple[Any, ...]], chained: bool) -> bool:
    """What the log is by itself."""
    if [turn[0] for turn in log] != list(range(1, len(log) + 1)) or len({turn[1] for turn in log}) < len(log):
        return False
    epochs = [turn[4] for turn in log if turn[4]]
    if epochs != sorted(epochs):
        return False
    past = b""
    for turn_seq, _, message, reply, _ in log:
        past += _part(message)
        if chained and reply != f"{turn_seq}:{hashlib.sha256(past).hexdigest()}":
            return False
        past += _part(reply)
    return True


def _part(text: str) -> bytes:
    return f"{len(text.encode())}:".encode() + text.encode()


def _one_host_per_epoch(operations: list[Operation], log: list[tuple[Any, ...]]) -> bool:
    epochs = {turn[1]: turn[4] for turn in log}
    of_epoch: dict[int, set[str]] = {}
    of_turn: dict[str, set[str]] = {}
    for operation in operations:
        told = operation.ok or {}
        if told.get("host") and not told.get("replayed"):
            of_epoch.setdefault(epochs.get(told["turn_id"], 0), set()).add(told["host"])
            of_turn.setdefault(operation.identity, set()).add(told["host"])
    of_epoch.pop(0, None)
    return all(len(hosts) == 1 for hosts in [*of_epoch.values(), *of_turn.values()])


def _search(operations: list[Operation], log: list[tuple[Any, ...]]) -> bool:
    """``applied``: whose turn stands at each position of the log so far."""
    start: tuple[frozenset[int], tuple[str, ...]] = (frozenset(), ())
    waiting, seen = [start], {start}
    must = {number for number, operation in enumerate(operations) if operation.ok}
    while waiting:
        taken, applied = waiting.pop()
        if must <= taken:
            return True
        first_end = min(operations[number].end for number in must - taken)
        for number, operation in enumerate(operations):
            if number in taken or operation.begin > first_end:
                continue
            after = _effect(operation, applied, log)
            if after is not None and (state := (taken | {number}, after)) not in seen:
                seen.add(state)
                waiting.append(state)
    return False


def _effect(operation: Operation, applied: tuple[str, ...], log: list[tuple[Any, ...]]) -> tuple[str, ...] | None:
    """Whose turns the log has after this operation; None if it can't take effect now, or not with that answer."""
    told = operation.ok
    if operation.invoke["do"] == "read":
        assert told is not None
        return applied if [tuple(turn) for turn in told["turns"]] == log[: len(applied)] else None
    if operation.identity in applied:
        at = applied.index(operation.identity)
    elif len(applied) < len(log):
        at = len(applied)
        applied = (*applied, operation.identity)
    else:
        return None
    return applied if _is_its_turn(operation, log[at]) and _fits(told, log[at]) else None


def _is_its_turn(operation: Operation, turn: tuple[Any, ...]) -> bool:
    digest = hashlib.blake2b(turn[2].encode(), digest_size=8).hexdigest()
    names_a_key = turn[1].startswith("k:")
    if operation.identity.startswith("#"):
        return bool(operation.invoke["message"] == digest and not names_a_key)
    return bool(operation.invoke["message"] == digest and turn[1] == f"k:{operation.identity}")


def _fits(told: Line | None, turn: tuple[Any, ...]) -> bool:
    if told is None:
        return True
    digest = hashlib.blake2b(turn[3].encode(), digest_size=8).hexdigest()
    same = (told["turn_seq"], told["turn_id"], told["reply"]) == (turn[0], turn[1], digest)
    return same and told.get("streamed", digest) == digest and (not told["epoch"] or told["epoch"] == turn[4])
