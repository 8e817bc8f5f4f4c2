"""The acceptance of the main job, by either way in: HAProxy as the edge, and Serve's own proxy with the same ring.

Through the edge, clients never repeat anything. Through Serve's proxy an answer that broke off, or a 5xx of the proxy,
is repeated with the same Idempotency-Key, which is what README promises there. One stack per way, shared by the tests.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from loadtest.checker import check
from loadtest.client import Answer, Client, Kind, Running, lines_of
from loadtest.history import History
from loadtest.stack import ROOT
from tests.integration.test_kill_host_sealed import Talk
from tests.servers import free_port

START_S = 100.0
AGENT = "actors.agents.chained:chained"
TRIES_MAX = 40
"""Half a second apart: as long as Serve may take to notice a death."""

pytestmark = pytest.mark.timeout(4 * START_S)


class WayIn:
    """A stack with three hosts and the way to it."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.where = ("--port", str(self.port), "--data-dir", str(path))

    def run(self, *command: str) -> None:
        env = {**os.environ, "REHYDRA_EDGE__KIND": self.kind}
        done = subprocess.run(
            [*command, *self.where], cwd=ROOT, env=env, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def tries_max(self) -> int:
        """How often a client may send one message."""
        return 1 if self.kind == "haproxy" else TRIES_MAX

    async def say(self, client: Client, session: str | None, message: str, key: str, **how: object) -> Answer:
        """One message under its key, until it is answered or there were enough tries."""
        for _ in range(self.tries_max):
            answer = await client.chat(session, message, key=key, **how)  # type: ignore[arg-type]
            if answer.kind is Kind.OK:
                return answer
            await asyncio.sleep(0.5)
        raise AssertionError(answer)


@pytest.fixture(scope="module", params=["haproxy", "serve"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WayIn]:
    way = WayIn(request.param, tmp_path_factory.mktemp(request.param))
    try:
        way.run("deploy/up", "--detach", "--agent", AGENT)
        yield way
    finally:
        way.run("deploy/down")


async def test_a_session_goes_on_where_it_was_by_header_by_body_and_without_an_id(way: WayIn) -> None:
    client = Client(way.url)
    first = await client.chat("ann", "one")
    assert (first.status, first.turn_seq, first.state, first.session) == (200, 1, "new", "ann")
    again = await client.chat("ann", "two", named_in="body")
    assert (again.turn_seq, again.state, again.slot) == (2, "resident", first.slot)
    key = str(uuid.uuid4())
    begun = await client.chat(None, "three", key=key)
    repeated = await client.chat(None, "three", key=key)
    assert begun.session == repeated.session != ""
    assert (repeated.turn_seq, repeated.replayed, repeated.reply) == (1, True, begun.reply)


async def test_the_ring_decides_which_host_runs_a_session(way: WayIn) -> None:
    client = Client(way.url)
    served = {}
    for number in range(30):
        served[number] = (await client.chat(f"ring-{number}", "one")).slot
    assert len(set(served.values())) == 3
    _, before = await client.get("/ring")
    for number in range(30):
        answer = await client.chat(f"ring-{number}", "two")
        assert (answer.slot, answer.state) == (served[number], "resident")
    _, after = await client.get("/ring")
    assert before["ring_version"] == after["ring_version"]


async def test_a_stream_says_its_turn_its_words_and_after_the_commit_that_it_is_done(way: WayIn) -> None:
    client = Client(way.url)
    answer = await client.chat("stream", "several words to be said", streams=True, metadata={"over_s": 0.5})
    assert (answer.kind, answer.turn_seq) == (Kind.OK, 1)
    assert answer.streamed == answer.reply
    (turn,) = await client.turns("stream")
    assert (turn["turn_id"], turn["reply"], turn["epoch"]) == (answer.turn_id, answer.reply, answer.epoch)


async def test_a_conversation_that_its_client_keeps_goes_on_with_the_key_that_the_stack_has_made(way: WayIn) -> None:
    async with aiohttp.ClientSession() as http:
        talk = Talk(http, way.url, "kept")
        for _ in range(4):
            await talk.go_on()
        # Nobody has asked for a guard here.
        assert (await talk.replay())[0] == 200


async def test_a_hundred_messages_at_once_are_a_hundred_turns_in_a_row(way: WayIn, tmp_path: Path) -> None:
    client = Client(way.url)
    with History(tmp_path / "history.jsonl") as history:
        history.start("chained")

        async def send(number: int) -> None:
            key = str(uuid.uuid4())
            op = history.invoke_turn("crowd", f"message {number}", key)
            answer = await way.say(client, "crowd", f"message {number}", key, streams=number % 5 == 0)
            history.ok_turn(op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, epoch=answer.epoch)

        await asyncio.gather(*(send(number) for number in range(100)))
        op = history.invoke_read("crowd")
        history.ok_read(op, lines_of(await client.turns("crowd")))
    verdict = check([tmp_path / "history.jsonl"])
    assert verdict.legal, verdict.examples
    assert verdict.counted["turns"] == 100


async def test_a_killed_hosts_turns_are_run_elsewhere_once(way: WayIn, tmp_path: Path) -> None:
    client = Client(way.url)
    sessions = [f"kill-{number}" for number in range(12)]
    with History(tmp_path / "history.jsonl") as history:
        history.start("chained")

        async def talk(session: str) -> None:
            for number in range(3):
                key = str(uuid.uuid4())
                op = history.invoke_turn(session, f"turn {number}", key)
                # The second turn runs while a host is killed.
                slow = {"over_s": 2.0} if number == 1 else None
                answer = await way.say(client, session, f"turn {number}", key, streams=False, metadata=slow)
                history.ok_turn(op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, epoch=answer.epoch)

        talks = [asyncio.create_task(talk(session)) for session in sessions]
        async with asyncio.timeout(30.0):
            while not _in_mid_turn(client, len(sessions)):  # noqa: ASYNC110 - clients only see what was answered
                await asyncio.sleep(0.02)
        _, ring = await client.get("/ring")
        victim = client.served.most_common(1)[0][0]
        os.kill(ring["slots"][victim]["pid"], signal.SIGKILL)
        await asyncio.gather(*talks)
        for session in sessions:
            op = history.invoke_read(session)
            history.ok_read(op, lines_of(await client.turns(session)))
    verdict = check([tmp_path / "history.jsonl"])
    assert verdict.legal, verdict.examples
    assert verdict.counted["turns"] == 3 * len(sessions)


def _in_mid_turn(client: Client, talks: int) -> bool:
    """All first turns are answered, and all second ones are on their way."""
    running: list[Running] = list(client.running.values())
    return sum(client.served.values()) >= talks and len(running) == talks


def test_reads_deletions_and_problems_are_the_same_by_either_way(way: WayIn) -> None:
    def ask(method: str, path: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", way.port, timeout=20)
        try:
            connection.request(method, path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    status, headers, _ = ask("POST", "/chat", json.dumps({"message": "hello"}), **{"x-session-id": "zoe"})
    assert (status, headers["etag"], headers["x-session-id"]) == (200, '"1"', "zoe")
    assert ask("GET", "/sessions/zoe", **{"if-none-match": '"1"'})[0] == 304
    status, _, body = ask("GET", "/sessions/zoe/turns?after=0&limit=10")
    assert (status, [turn["message"] for turn in json.loads(body)["turns"]]) == (200, ["hello"])
    stale = ask("POST", "/chat", json.dumps({"message": "no"}), **{"x-session-id": "zoe", "if-match": '"7"'})
    assert (stale[0], stale[1]["etag"]) == (412, '"1"')
    for told in (
        ask("POST", "/chat", "{"),
        ask("GET", "/sessions/nobody"),
        ask("GET", "/chat"),
        ask("POST", "/chat", json.dumps({"message": "x" * 300_000})),
    ):
        assert told[0] in (400, 404, 405, 413)
        assert told[1]["content-type"].startswith("application/problem+json")
        assert json.loads(told[2])["outcome"] == "not_done"
    assert ask("DELETE", "/sessions/zoe")[0] in (200, 204)
    assert ask("POST", "/chat", json.dumps({"message": "again"}), **{"x-session-id": "zoe"})[0] == 410
