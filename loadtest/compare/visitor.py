"""One user with one session, as a browser would be: what it was given it brings with its next message."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from loadtest.client import lines_of
from loadtest.history import History
from loadtest.wire import Address, Broken, Reply, request

ANSWER_S = 20.0
PAGE = 500
READ_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One message and what became of it. Times are monotonic seconds; ``status`` 0: there was no answer."""

    due: float
    sent: float
    ended: float
    status: int
    why: str = ""
    sent_bytes: int = 0
    """Of the bodies: what was sent and what came."""
    came_bytes: int = 0

    @property
    def ok(self) -> bool:
        return self.status == 200


class Visitor:
    """``number``: no other visitor of this server has it; it makes the address that balancers see."""

    def __init__(self, to: Address, session: str, number: int, history: History, samples: list[Sample]) -> None:
        self.session = session
        self._to = to
        self._history = history
        self._samples = samples
        self._said = 0
        self._cookie = ""
        self._state = ""
        # Documentation's own network (RFC 2544, for benchmarks): every visitor is another neighbourhood to `ip_hash`,
        # which looks at the first three bytes.
        self._address = f"198.{18 + number // 256 % 2}.{number % 256}.1"

    async def say(self, over_s: float = 0.0, due: float | None = None) -> Sample:
        """One message, sent once. Never raises: what went wrong is in the sample."""
        self._said += 1
        key, text = f"{self.session}-{self._said}", f"{self.session} says {self._said}"
        body: dict[str, Any] = {"message": text}
        if over_s:
            body["metadata"] = {"over_s": over_s}
        if self._state:
            body["client_state"] = self._state
        raw = json.dumps(body).encode()
        headers = self._headers() | {"Content-Type": "application/json", "Idempotency-Key": key}
        op, sent = self._history.invoke_turn(self.session, text, key), time.monotonic()
        status, why, came = 0, "", b""
        try:
            async with asyncio.timeout(ANSWER_S), request(self._to, "POST", "/chat", headers, raw) as reply:
                status = reply.status
                came = await reply.body()
                self._remember(reply)
            document = json.loads(came) if status == 200 else {}
        except (Broken, ValueError, TimeoutError) as error:
            status, why = 0, f"{type(error).__name__}: {error}"
        if status == 200:
            self._state = document.get("client_state") or self._state
            told = {"replayed": document["replayed"], "epoch": 0}
            self._history.ok_turn(op, document["turn_id"], document["turn_seq"], document["reply"], **told)
        else:
            why = why or came[:200].decode(errors="replace")
            self._history.info(op, status, why)
        sample = Sample(sent if due is None else due, sent, time.monotonic(), status, why, len(raw), len(came))
        self._samples.append(sample)
        return sample

    async def read(self) -> str:
        """The session's whole talk goes to the history. What went wrong, if it couldn't be read."""
        op, turns = self._history.invoke_read(self.session), list[dict[str, Any]]()
        try:
            async with asyncio.timeout(READ_S):
                while page := await self._page(turns[-1]["turn_seq"] if turns else 0):
                    turns += page
                    if len(page) < PAGE:
                        break
        except (Broken, ValueError, KeyError, TimeoutError) as error:
            self._history.info(op, 0, str(error)[:300])
            return f"{self.session}: {type(error).__name__}: {error}"
        self._history.ok_read(op, lines_of(turns))
        return ""

    async def _page(self, after: int) -> list[dict[str, Any]]:
        path = f"/sessions/{quote(self.session, safe='')}/turns?after={after}&limit={PAGE}"
        method, body = ("POST", json.dumps({"client_state": self._state}).encode()) if self._state else ("GET", b"")
        headers = self._headers() | ({"Content-Type": "application/json"} if body else {})
        async with request(self._to, method, path, headers, body) as reply:
            came = await reply.body()
        if reply.status == 404:
            return []
        if reply.status != 200:
            raise ValueError(f"{reply.status} {came[:200]!r}")
        return list(json.loads(came)["turns"])

    def _headers(self) -> dict[str, str]:
        headers = {"X-Session-Id": self.session, "X-Forwarded-For": self._address}
        return headers | ({"Cookie": self._cookie} if self._cookie else {})

    def _remember(self, reply: Reply) -> None:
        if cookie := reply.headers.get("set-cookie"):
            self._cookie = cookie.partition(";")[0]
