"""Locust's users against a server that only says what it is told to: what they say, in which order, what they note."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loadtest.history import digest_of
from loadtest.lab.load import talking
from loadtest.lab.scenario import Load, Scenario

LOST = "what comes after a loss"
TALKS = [["Hello.", "How are you?", LOST, "Good bye."], ["Nur ein Satz."]]


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """Acknowledges every turn; says of one message that the session has lost its end."""
    turns: dict[str, int] = defaultdict(int)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        said = json.loads(await reader.readexactly(int(fields["content-length"])))
        session = fields["x-session-id"]
        reply: dict[str, Any]
        if said["message"] == LOST:
            status, reply = "409 Conflict", {"type": "urn:rehydra:problem:state-regressed", "outcome": "unknown"}
            reply |= {"turn_seq": 1, "turn_seq_lost": turns[session]}
        else:
            turns[session] += 1
            status, reply = "200 OK", {"turn_id": f"{session}/{turns[session]}", "turn_seq": turns[session]}
            reply |= {"reply": "so", "replayed": False}
        body = json.dumps(reply).encode()
        names = "Content-Type: application/json\r\nX-Served-By: slot-0"
        writer.write(f"HTTP/1.1 {status}\r\n{names}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def history_of(load: Load, talks: list[list[str]], out: Path) -> list[dict[str, Any]]:
    scenario = Scenario(name="n", about="a", for_s=1.5, load=load)
    async with server() as url, talking(url, scenario, out, talks) as talk:
        assert await talk.end() == []
    return [json.loads(line) for line in (out / "users.jsonl").read_text().splitlines()]


async def test_recorded_conversations_are_said_in_order_each_in_sessions_of_its_own(tmp_path: Path) -> None:
    lines = await history_of(Load(users=4, sessions_per_user=2, pace_s=0.1), TALKS, tmp_path)
    said = defaultdict[str, list[str]](list)
    for line in lines:
        if line["is"] == "invoke":
            said[line["session"]].append(line["message"])
    whole = [[digest_of(message) for message in talk] for talk in TALKS]
    assert len(said) > 8, "a session whose conversation is over makes place for another"
    for session, messages in said.items():
        talk = whole[int(session.split("-")[1])]
        assert messages == talk[: len(messages)]
    assert {tuple(messages) for messages in said.values()} >= {tuple(talk) for talk in whole}


async def test_a_reported_loss_is_written_down_with_both_numbers(tmp_path: Path) -> None:
    lines = await history_of(Load(users=4, sessions_per_user=2, pace_s=0.1), TALKS, tmp_path)
    reports = [line for line in lines if "regressed" in line]
    assert reports and all((line["is"], line["regressed"]) == ("info", [1, 2]) for line in reports)


async def test_all_sessions_are_begun_before_any_goes_on(tmp_path: Path) -> None:
    lines = await history_of(Load(users=3, sessions_per_user=5, pace_s=0.1), [], tmp_path)
    first = defaultdict[str, list[str]](list)
    for line in lines:
        if line["is"] == "invoke":
            first[line["session"].split("-")[0]].append(line["session"])
    assert len(first) == 3
    assert all(len(set(sessions[:5])) == 5 for sessions in first.values())
    assert all(line["due"] <= line["at"] for line in lines if line["is"] == "ok")
