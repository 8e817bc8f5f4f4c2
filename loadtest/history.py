"""What the clients saw, one JSON line per event, in the order in which it happened to them.

An operation is invoked once and ends once, or never: ``ok`` (it was acknowledged), ``fail`` (the server said that it
was not done and never will be), ``info`` (unknown: no answer, a torn one, a 5xx). Unknown is never written as fail.

    {"is": "start", "agent": str, ...}
    {"is": "invoke", "at": s, "op": n, "do": "turn", "session": id, "message": digest, "key"?: Idempotency-Key}
    {"is": "invoke", "at": s, "op": n, "do": "read", "session": id}
    {"is": "ok", "at": s, "op": n, "turn_id": str, "turn_seq": n, "reply": digest, "streamed"?: digest of the deltas,
         "replayed": bool, "slot": str, "host": life of a host or "", "epoch": n or 0, "state": str}
    {"is": "ok", "at": s, "op": n, "turns": [[turn_seq, turn_id, message, reply, epoch], ...]}
    {"is": "fail" | "info", "at": s, "op": n, "status": n, "why": str, "regressed"?: [kept, lost]}
    {"is": "fault", "at": s, "kind": str, ...}

``regressed`` is the deployment's word that its store lost the end of the session: ``lost`` turns had been confirmed,
``kept`` are left (409 ``state-regressed``). ``at`` is the machine's monotonic clock in seconds, so that files of
several processes of one machine can be merged. Texts are kept as digests (16 hex digits of BLAKE2b over their UTF-8),
save in reads, so that the checker can compute a chained reply again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TurnLine = tuple[int, str, str, str, int]
"""turn_seq, turn_id, message, reply, epoch (0 = not told)."""

Regressed = tuple[int, int]
"""How many turns a session has left, and how many of it had been confirmed."""


def regressed_in(problem: Mapping[str, Any]) -> Regressed | None:
    """The report of a loss in a problem document, if it is one."""
    if not str(problem.get("type", "")).endswith("state-regressed"):
        return None
    return int(problem["turn_seq"]), int(problem["turn_seq_lost"])


def digest_of(text: str) -> str:
    """16 hex digits that stand for ``text``."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class History:
    """Writes one file. Not for several threads: its lines are in the order of the calls."""

    def __init__(self, path: Path, first_op: int = 1) -> None:
        """``first_op``: where this file's operation numbers begin; files that are merged must not share any."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._next_op = first_op

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Write out what is buffered. Idempotent."""
        self._file.close()

    def start(self, agent: str, **about: Any) -> None:
        """The first line: ``agent`` tells the checker how replies are made (``chained``), or nothing (any other)."""
        self._write({"is": "start", "agent": agent, **about})

    def invoke_turn(self, session: str, message: str, key: str | None = None) -> int:
        """A message is about to be sent. Gives the operation's number."""
        line = {"is": "invoke", "op": self._next_op, "do": "turn", "session": session, "message": digest_of(message)}
        return self._invoke(line | ({"key": key} if key else {}))

    def invoke_read(self, session: str) -> int:
        """The session's whole log is about to be read."""
        return self._invoke({"is": "invoke", "op": self._next_op, "do": "read", "session": session})

    def ok_turn(
        self, op: int, turn_id: str, turn_seq: int, reply: str, streamed: str | None = None, **seen: Any
    ) -> None:
        """The final reply came; ``streamed`` is what its deltas add up to."""
        line = {"is": "ok", "op": op, "turn_id": turn_id, "turn_seq": turn_seq, "reply": digest_of(reply), **seen}
        self._write(line | ({"streamed": digest_of(streamed)} if streamed is not None else {}))

    def ok_read(self, op: int, turns: Sequence[TurnLine]) -> None:
        """The whole log, from the first turn to the last."""
        self._write({"is": "ok", "op": op, "turns": turns})

    def fail(self, op: int, status: int, why: str) -> None:
        """Definitely not done."""
        self._write({"is": "fail", "op": op, "status": status, "why": why})

    def info(self, op: int, status: int, why: str, regressed: Regressed | None = None) -> None:
        """Unknown. ``status`` 0: there was no answer."""
        line = {"is": "info", "op": op, "status": status, "why": why}
        self._write(line | ({"regressed": regressed} if regressed else {}))

    def fault(self, kind: str, **about: Any) -> None:
        """Something was done to the deployment."""
        self._write({"is": "fault", "kind": kind, **about})

    def _invoke(self, line: dict[str, Any]) -> int:
        self._next_op += 1
        self._write(line)
        return int(line["op"])

    def _write(self, line: dict[str, Any]) -> None:
        line["at"] = round(time.monotonic(), 6)
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
