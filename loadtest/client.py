"""A chat client without retries: every call ends in exactly one answer, ``ok``, ``fail`` or ``info``, and never raises.

``fail`` is said only where the deployment says that the turn was not done and never will be: a 4xx problem with
``"outcome": "not_done"``. No answer in time, a broken connection, every 5xx and every torn stream
are unknown: ``info``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from loadtest.history import Regressed, TurnLine, regressed_in
from loadtest.wire import Address, Broken, Reply, request

PAGE = 200
"""Turns asked for at one time when a log is read."""


class Kind(StrEnum):
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one message, as far as its client can know. ``status`` 0: there was no answer."""

    kind: Kind
    status: int = 0
    why: str = ""
    session: str = ""
    turn_id: str = ""
    turn_seq: int = 0
    reply: str = ""
    streamed: str | None = None
    """What the deltas of the last attempt add up to; None if nothing was streamed."""
    replayed: bool = False
    slot: str = ""
    host: str = ""
    """The life of the host that answered; not told with a stream."""
    state: str = ""
    epoch: int = 0
    regressed: Regressed | None = None
    """The deployment says that it lost the end of the session."""


@dataclass(slots=True)
class Running:
    """A request that has no answer yet. ``slot`` is known from the moment when its stream begins."""

    session: str
    streams: bool
    started: float
    slot: str = ""
    delta_at: float = 0.0
    """When the last delta came, monotonic seconds; 0 = none yet."""
    heard: Callable[[Event], None] | None = None
    """Gets every event of the stream as it comes."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    id: str
    data: str


class Unreadable(Exception):
    """A read had no whole answer."""


class Client:
    """Talks to one deployment. ``running`` shows what is under way, for whoever picks victims."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self.to = Address.of(url)
        self.timeout_s = timeout_s
        self.running: dict[int, Running] = {}
        self.served: Counter[str] = Counter()
        """Slot -> messages that were answered with 200."""
        self._numbers = itertools.count()

    async def chat(
        self,
        session: str | None,
        message: str,
        *,
        key: str | None = None,
        streams: bool = False,
        metadata: Mapping[str, Any] | None = None,
        named_in: str = "header",
        heard: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Send one message, once. ``named_in``: ``header`` or ``body``, where the session id goes. ``heard`` gets
        every event of a stream as it comes."""
        body: dict[str, Any] = {"message": message}
        headers = {"Content-Type": "application/json"}
        if session is not None and named_in == "body":
            body["session_id"] = session
        elif session is not None:
            headers["X-Session-Id"] = session
        if key is not None:
            headers["Idempotency-Key"] = key
        if streams:
            headers["Accept"] = "text/event-stream"
        if metadata:
            body["metadata"] = metadata
        number = next(self._numbers)
        running = self.running[number] = Running(session or "", streams, time.monotonic(), heard=heard)
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self._chat(headers, json.dumps(body, ensure_ascii=False).encode(), running)
                if answer.kind is Kind.OK:
                    self.served[answer.slot] += 1
                return answer
        except TimeoutError:
            return Answer(Kind.INFO, why=f"no answer within {self.timeout_s:g} s", slot=running.slot)
        except (Broken, ValueError, KeyError) as error:
            return Answer(Kind.INFO, why=f"{type(error).__name__}: {error}", slot=running.slot)
        finally:
            del self.running[number]

    async def _chat(self, headers: Mapping[str, str], body: bytes, running: Running) -> Answer:
        async with request(self.to, "POST", "/chat", headers, body) as reply:
            running.slot = reply.headers.get("x-served-by", "")
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                return await _streamed(reply, running)
            document = await _document(reply)
            if reply.status == 200:
                done = _done(document, running.slot, reply.headers.get("x-session-state", ""), None, 0)
                return replace(done, host=reply.headers.get("x-served-by-host", ""))
            return _problem(reply.status, document, running.slot)

    async def turns(self, session: str) -> list[dict[str, Any]]:
        """The session's whole log, from turn 1. Unreadable unless every page was answered; no session: no turns."""
        log: list[dict[str, Any]] = []
        while page := await self.page(session, log[-1]["turn_seq"] if log else 0):
            log += page
        return log

    async def page(self, session: str, after: int, limit: int = PAGE) -> list[dict[str, Any]]:
        """Up to ``limit`` committed turns after turn_seq ``after``."""
        path = f"/sessions/{quote(session, safe='')}/turns?after={after}&limit={limit}"
        status, document = await self.get(path)
        if status == 404:
            return []
        if status != 200:
            raise Unreadable(f"{path}: {status} {document}")
        return list(document["turns"])

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON document of any page. Unreadable if there is no answer."""
        try:
            async with asyncio.timeout(self.timeout_s), request(self.to, "GET", path) as reply:
                return reply.status, await _document(reply)
        except (Broken, ValueError, TimeoutError) as error:
            raise Unreadable(f"{path}: {type(error).__name__}: {error}") from error


def lines_of(turns: list[dict[str, Any]]) -> list[TurnLine]:
    """A log as a history keeps it."""
    return [(turn["turn_seq"], turn["turn_id"], turn["message"], turn["reply"], turn.get("epoch", 0)) for turn in turns]


async def events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """Server-sent events (WHATWG HTML, "Server-sent events") from lines. An event without its empty line is dropped."""
    name, ident, data = "message", "", list[str]()
    async for line in lines:
        if not line:
            if data:
                yield Event(name, ident, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            ident = value
        elif field == "data":
            data.append(value)


async def _streamed(reply: Reply, running: Running) -> Answer:
    streamed, epoch, turn_id = list[str](), 0, ""
    state = reply.headers.get("x-session-state", "")
    async for event in events(reply.lines()):
        document = json.loads(event.data)
        if running.heard is not None:
            running.heard(event)
        if event.id:
            epoch = int(event.id.partition("-")[0])  # of the turn's commit, also when it is told again
        if event.name == "turn":
            streamed, turn_id = [], document.get("turn_id", "")
        elif event.name == "delta":
            streamed.append(document["text"])
            running.delta_at = time.monotonic()
        elif event.name == "done":
            whole = "".join(streamed) if streamed else None
            return _done(document, running.slot, state, whole, epoch)
        elif event.name == "error":
            return _problem(int(document.get("status", 500)), document, running.slot)
    return Answer(Kind.INFO, reply.status, "the stream ended without done or error", turn_id=turn_id, slot=running.slot)


async def _document(reply: Reply) -> dict[str, Any]:
    body = await reply.body()
    try:
        document = json.loads(body)
    except ValueError:
        return {"detail": body[:200].decode("latin-1")}
    return document if isinstance(document, dict) else {"detail": str(document)[:200]}


def _done(document: Mapping[str, Any], slot: str, state: str, streamed: str | None, epoch: int) -> Answer:
    return Answer(
        Kind.OK,
        200,
        session=document["session_id"],
        turn_id=document["turn_id"],
        turn_seq=document["turn_seq"],
        reply=document["reply"],
        streamed=streamed,
        replayed=document["replayed"],
        slot=slot,
        state=state,
        epoch=epoch,
    )


def _problem(status: int, document: Mapping[str, Any], slot: str) -> Answer:
    known = 400 <= status < 500 and document.get("outcome") == "not_done"
    why = f"{document.get('type', '')} {document.get('title', '')} {document.get('detail', '')}".strip()
    return Answer(Kind.FAIL if known else Kind.INFO, status, why, slot=slot, regressed=regressed_in(document))
