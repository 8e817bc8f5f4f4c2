"""Locust's users: each talks in sessions of its own, and writes down what came back.

A closed loop with constant pacing: a message is due every ``pace_s`` by the user's own schedule, which doesn't shift
when an answer is late, and latencies count from there (no coordinated omission). No request is ever repeated, save
that a torn stream is asked for again with its key; a connection is used once. Started by ``loadtest/run``, which
names the plan in ``REHYDRA_LOADTEST_PLAN``; in a process of its own, because Locust patches the standard library.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
import requests
from locust import LoadTestShape, User, events, task

from loadtest.history import History, regressed_in

PLAN: dict[str, Any] = json.loads(Path(os.environ["REHYDRA_LOADTEST_PLAN"]).read_text(encoding="utf-8"))
LOAD: dict[str, Any] = PLAN["load"]
HISTORY = History(Path(PLAN["history"]))
NUMBERS = itertools.count()
TALKS = itertools.cycle(enumerate(PLAN["talks"]))
PREFIX = secrets.token_hex(4)
TIMEOUT_S = 60.0
REPEATS_MAX = 60
REPEAT_PAUSE_S = 0.5
SPARE_S = 1.0
"""Locust kills users that wait just when one of them goes on; so nobody has anything to say when it ends them."""
ENDS: list[float] = []
"""When the last message may be sent, monotonic; known from the begin on."""


def begin(**_: Any) -> None:
    HISTORY.start("chained", seed=PLAN["seed"], scenario=PLAN["name"])
    ENDS.append(time.monotonic() + PLAN["for_s"])
    Path(PLAN["begun"]).write_text(str(time.monotonic()), encoding="utf-8")


def end(**_: Any) -> None:
    HISTORY.close()


events.test_start.add_listener(begin)  # type: ignore[no-untyped-call]
events.quit.add_listener(end)  # type: ignore[no-untyped-call]


class Stages(LoadTestShape):
    """Users stay as they are while capacity changes, unless the scenario has stages."""

    def tick(self) -> tuple[int, float] | None:
        passed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if passed > PLAN["for_s"] + SPARE_S:
            return None
        users = [LOAD["users"], *(stage["users"] for stage in LOAD["stages"] if stage["at_s"] <= passed)][-1]
        return int(users), float(users)


class Session:
    """One session of one user, and what is said in it: a recorded conversation, or words without end."""

    def __init__(self, name: str, chance: random.Random) -> None:
        talk: tuple[int, list[str]] | None = next(TALKS, None)
        self.name = f"{name}.{PREFIX}" if talk is None else f"talk-{talk[0]}-{name}.{PREFIX}"
        self.messages: Iterator[str] = self._made_up(name, chance) if talk is None else iter(talk[1])

    @staticmethod
    def _made_up(name: str, chance: random.Random) -> Iterator[str]:
        least, most = LOAD["message_bytes"]
        for number in itertools.count(1):
            head = f"{name}.{number} "
            yield head + "x" * (chance.randint(least, most) - len(head))


class Chatter(User):
    """One person. ``due``: when the next message should be sent."""

    def on_start(self) -> None:
        self.number = next(NUMBERS)
        self.random = random.Random(f"{PLAN['seed']}-{self.number}")
        self.names = itertools.count()
        self.sessions = [self._session() for _ in range(LOAD["sessions_per_user"])]
        self.unbegun = list(self.sessions)
        self.due = time.monotonic() + self.random.uniform(0, LOAD["pace_s"])
        time.sleep(max(0.0, self.due - time.monotonic()))

    def _session(self) -> Session:
        return Session(f"u{self.number}-{next(self.names)}", self.random)

    def wait_time(self) -> float:
        self.due += float(LOAD["pace_s"])
        return max(0.0, self.due - time.monotonic())

    @task
    def say(self) -> None:
        if time.monotonic() > ENDS[0]:
            return
        session, message = self._next()
        messages = [message, *itertools.islice(session.messages, LOAD["at_once"] - 1)]
        said = [(session.name, each, self.random.random() < LOAD["streams"]) for each in messages]
        gevent.joinall([gevent.spawn(self._say, *each) for each in said], raise_error=True)

    def _say(self, session: str, message: str, streams: bool) -> None:
        answered = self._stream(session, message) if streams else self._ask(session, message, None)
        took_ms = 1000 * (time.monotonic() - self.due)
        self.environment.events.request.fire(
            request_type="stream" if streams else "chat",
            name="/chat",
            response_time=took_ms,
            response_length=0,
            exception=None if answered == "ok" else RuntimeError(answered),
        )

    def _next(self) -> tuple[Session, str]:
        """Session and its next message. All sessions are begun before any goes on, so that faults find all of them;
        one whose conversation is over makes place for another."""
        place = self.sessions.index(self.unbegun.pop()) if self.unbegun else self.random.randrange(len(self.sessions))
        while (message := next(self.sessions[place].messages, None)) is None:
            self.sessions[place] = self._session()
        return self.sessions[place], message

    def _stream(self, session: str, message: str) -> str:
        key, answered = secrets.token_hex(16), ""
        for _ in range(REPEATS_MAX):
            if (answered := self._ask(session, message, key)) == "ok":
                break
            time.sleep(REPEAT_PAUSE_S)
        return answered

    def _ask(self, session: str, message: str, key: str | None) -> str:
        """Send it once. ``ok``, or why not."""
        op = HISTORY.invoke_turn(session, message, key)
        headers = {"X-Session-Id": session, "Connection": "close"}
        if key:
            headers |= {"Idempotency-Key": key, "Accept": "text/event-stream"}
        body: dict[str, Any] = {"message": message, "metadata": {"over_s": LOAD["over_s"]}}
        try:
            with requests.post(
                f"{self.host}/chat", json=body, headers=headers, timeout=TIMEOUT_S, stream=bool(key)
            ) as reply:
                return self._streamed(op, reply) if _is_stream(reply) else self._answered(op, reply)
        except (requests.RequestException, ValueError, KeyError) as error:
            HISTORY.info(op, 0, f"{type(error).__name__}: {error}"[:300])
            return "no answer"

    def _answered(self, op: int, reply: requests.Response) -> str:
        document = reply.json()
        if reply.status_code == 200:
            self._ok(op, document, reply, None, 0)
            return "ok"
        return self._refused(op, reply.status_code, document)

    def _refused(self, op: int, status: int, problem: dict[str, Any]) -> str:
        why = f"{problem.get('type', '')} {problem.get('detail', '')}"[:300]
        if 400 <= status < 500 and problem.get("outcome") == "not_done":
            HISTORY.fail(op, status, why)
        else:
            HISTORY.info(op, status, why, regressed_in(problem))
        return f"{status} {why}"

    def _streamed(self, op: int, reply: requests.Response) -> str:
        name, epoch, deltas = "", 0, list[str]()
        for line in reply.iter_lines(chunk_size=1):
            field, _, value = line.decode().partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                epoch = int(value.partition("-")[0])
            elif field == "data" and name == "turn":
                deltas.clear()
            elif field == "data" and name == "delta":
                deltas.append(json.loads(value)["text"])
            elif field == "data" and name == "done":
                self._ok(op, json.loads(value), reply, "".join(deltas) if deltas else None, epoch)
                return "ok"
            elif field == "data" and name == "error":
                problem = json.loads(value)
                return self._refused(op, int(problem.get("status", 500)), problem)
        HISTORY.info(op, 200, "the stream ended without done or error")
        return "torn"

    def _ok(
        self, op: int, document: dict[str, Any], reply: requests.Response, streamed: str | None, epoch: int
    ) -> None:
        HISTORY.ok_turn(
            op,
            document["turn_id"],
            document["turn_seq"],
            document["reply"],
            streamed,
            replayed=document["replayed"],
            slot=reply.headers.get("x-served-by", ""),
            host=reply.headers.get("x-served-by-host", ""),
            state=reply.headers.get("x-session-state", ""),
            epoch=epoch,
            due=round(self.due, 6),
        )


def _is_stream(reply: requests.Response) -> bool:
    reply.encoding = "utf-8"
    return reply.headers.get("content-type", "").startswith("text/event-stream")
