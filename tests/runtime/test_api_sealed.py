"""POST /chat/sealed on a real socket: conversations that their clients keep, on hosts that keep nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.agent import Conversation, windowed
from actors.agents.recall import recall
from actors.api import Api
from actors.api_models import STATE, SealedChatRequest
from actors.errors import Misconfigured
from actors.listener import Listener
from actors.model import SessionKey
from actors.sealed import OFF_LOOP_BYTES
from actors.settings import Settings
from tests.runtime.api_world import (
    PASS,
    Raw,
    SmallHost,
    World,
    ask,
    events,
    request_bytes,
    serving,
    settings_with,
    wire,
)
from tests.runtime.world import World as Whole

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SEALED = {"keys": NEW}
DAY_MS = 86_400_000


async def said(conversation: Conversation) -> str:
    """Its past, and how often it has counted in its state."""
    count = conversation.state["count"] = conversation.state.get("count", 0) + 1
    return f"{count}: {[turn.message for turn in conversation.turns]} + {conversation.message}"


class Counting:
    """An agent that counts its runs, and waits in each if it is told to."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self._begun = asyncio.Condition()

    async def __call__(self, conversation: Conversation) -> str:
        async with self._begun:
            self.runs.append(conversation.message)
            run = len(self.runs)
            self._begun.notify_all()
        await self.open.wait()
        return f"{conversation.message}, run {run}"

    async def has_begun(self, runs: int) -> None:
        """Wait until it has been run so often."""
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.runs) >= runs)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(SmallHost(agent=said), sealed=SEALED) as served:
        yield served


async def post(world: World, document: dict[str, Any], *headers: tuple[str, str]) -> Raw:
    return await ask(world, "POST", "/chat/sealed", json.dumps(document).encode(), *headers)


async def talk(world: World, *messages: str, state: str | None = None) -> dict[str, Any]:
    """Turn after turn; the last answer."""
    answer: dict[str, Any] = {"state": state}
    for message in messages:
        document = {"message": message} | ({"state": answer["state"]} if answer["state"] else {})
        raw = await post(world, document)
        assert raw.status == 200, raw.body
        answer = raw.json
    return answer


def refused(answer: Raw, status: int, code: str) -> dict[str, Any]:
    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json"), answer.body
    assert answer.json["type"] == f"urn:rehydra:problem:{code}"
    assert answer.json["detail"]
    return dict(answer.json)


def key(name: str) -> tuple[str, str]:
    return "Idempotency-Key", name


# --- a conversation -------------------------------------------------------------------------------------------------


async def test_a_conversation_goes_on_from_what_its_client_brings(world: World) -> None:
    first = await post(world, {"message": "a"}, ("X-Rehydra-Request", "req-1"), PASS)
    assert first.json == {
        "session_id": first.json["session_id"],
        "turn_id": "r:req-1",
        "turn_seq": 1,
        "reply": "1: [] + a",
        "replayed": False,
        "state": first.json["state"],
        "expires_ms": world.host.clock_ms + 7 * DAY_MS,
    }
    assert re.fullmatch(STATE, first.json["state"])
    assert first.header("etag") == '"1"'
    assert first.header("x-session-state") == "new"
    assert first.header("x-served-by") == "slot-0"
    second = await post(world, {"message": "b", "state": first.json["state"]})
    assert (second.json["turn_seq"], second.json["reply"]) == (2, "2: ['a'] + b")
    assert second.json["session_id"] == first.json["session_id"]
    assert second.header("x-session-state") == "rehydrated"


async def test_any_host_goes_on_and_none_keeps_anything(world: World) -> None:
    answer = await talk(world, "a", "b")
    async with serving(SmallHost(agent=said), sealed=SEALED) as other:
        assert (await talk(other, "c", state=answer["state"]))["reply"] == "3: ['a', 'b'] + c"
        assert not other.host.log and not other.host.chats
    assert not world.host.log and not world.host.chats


async def test_the_same_agent_works_for_both_ways() -> None:
    messages = ("My name is Ada.", "I live in London.", "What is my name?")
    async with serving(SmallHost(agent=recall), sealed=SEALED) as world:
        kept = [
            await ask(world, "POST", "/chat", json.dumps({"message": m, "session_id": "s"}).encode()) for m in messages
        ]
        sealed = [await talk(world, messages[0])]
        for message in messages[1:]:
            sealed.append(await talk(world, message, state=sealed[-1]["state"]))
    assert [raw.json["reply"] for raw in kept] == [answer["reply"] for answer in sealed]
    assert "Ada" in sealed[-1]["reply"]


async def test_an_agent_with_a_window_gets_the_last_turns_and_the_state_keeps_all() -> None:
    @windowed(1)
    async def last_said(conversation: Conversation) -> str:
        return await said(conversation)

    async with serving(SmallHost(agent=last_said), sealed=SEALED) as world:
        answer = await talk(world, "a")
        for message in "bcd":
            answer = await talk(world, message, state=answer["state"])
    assert (answer["reply"], answer["turn_seq"]) == ("4: ['c'] + d", 4)


async def test_an_older_state_is_another_conversation_from_there(world: World) -> None:
    """What no seal can prevent."""
    first = await talk(world, "a")
    await talk(world, "b", state=first["state"])
    again = await talk(world, "c", state=first["state"])
    assert again["reply"] == "2: ['a'] + c"


async def test_the_agent_gets_message_metadata_and_turn_id_and_they_are_kept(world: World) -> None:
    seen: list[Conversation] = []

    async def noting(conversation: Conversation) -> str:
        seen.append(conversation)
        return "ok"

    world.host.agent = noting
    first = await post(world, {"message": "a", "metadata": {"deep": [1.5, None]}}, key("k-1"))
    await post(world, {"message": "b", "state": first.json["state"]}, key("k-2"))
    turn = seen[1].turns[0]
    assert (turn.turn_seq, turn.turn_id, turn.message, turn.reply) == (1, "k:k-1", "a", "ok")
    assert turn.metadata == {"deep": [1.5, None]}
    assert seen[0].key == SessionKey(first.json["session_id"], "-")
    assert (seen[1].turn_id, seen[1].attempt) == ("k:k-2", 1)


async def test_long_conversations_are_sealed_and_opened_beside_the_event_loop(world: World) -> None:
    async def long(conversation: Conversation) -> str:
        return random.Random(1).randbytes(60_000).hex()

    world.host.agent = long
    answer = await talk(world, "a")
    assert len(answer["state"]) > OFF_LOOP_BYTES
    world.host.agent = said
    assert (await talk(world, "b", state=answer["state"]))["turn_seq"] == 2


async def test_a_stream_has_the_state_in_done(world: World) -> None:
    first = await talk(world, "a")
    raw = await post(world, {"message": "b", "state": first["state"], "stream": True})
    assert raw.header("content-type") == "text/event-stream"
    assert raw.header("x-session-state") == "rehydrated"
    told = events(raw.body)
    assert [name for name, _, _ in told] == ["turn", "delta", "done"]
    assert told[0][2]["session_id"] == first["session_id"]
    assert told[1][2]["text"] == told[2][2]["reply"] == "2: ['a'] + b"
    assert (await talk(world, "c", state=told[2][2]["state"]))["reply"] == "3: ['a', 'b'] + c"


async def test_a_stream_is_told_piece_by_piece_while_the_agent_speaks(world: World) -> None:
    gate = asyncio.Event()

    async def slowly(conversation: Conversation) -> AsyncIterator[str]:
        yield "one "
        await gate.wait()
        yield "two"

    world.host.agent = slowly
    async with wire(world.port) as connection:
        body = json.dumps({"message": "m"}).encode()
        await connection.send(request_bytes("POST", "/chat/sealed", body, ("Accept", "text/event-stream")))
        await connection.head()
        told = b""
        while b"one " not in told:
            told += await connection.chunk()
        assert b"event: done" not in told
        gate.set()
        while chunk := await connection.chunk():
            told += chunk
    assert events(told)[-1][2]["reply"] == "one two"


async def test_a_refused_state_has_its_own_status_for_a_stream_too(world: World) -> None:
    refused(await post(world, {"message": "m", "state": "rs1.AAAA", "stream": True}), 400, "state-invalid")


async def test_an_agent_that_fails_in_a_stream_ends_it_with_an_error(world: World) -> None:
    async def breaking(conversation: Conversation) -> AsyncIterator[str]:
        yield "half"
        raise ValueError

    world.host.agent = breaking
    told = events((await post(world, {"message": "m", "stream": True})).body)
    assert [name for name, _, _ in told][-1] == "error"
    assert told[-1][2]["outcome"] == "not_done"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"keys": ""}])
async def test_without_keys_it_says_what_to_set(keys: dict[str, str]) -> None:
    async with serving(sealed=keys) as world:
        problem = refused(await post(world, {"message": "m"}), 404, "sealed-off")
        assert "sealed.keys" in problem["detail"]


def test_a_host_does_not_start_with_keys_that_are_none() -> None:
    world = World(SmallHost(), settings_with(sealed={"keys": "bm90IGEga2V5"}))
    with pytest.raises(Misconfigured, match=r"Key 1 of sealed\.keys"):
        Api(world)


async def test_each_reason_against_a_state_is_a_problem_of_its_own_and_never_a_new_conversation(world: World) -> None:
    state = (await talk(world, "a"))["state"]
    agent = {"agent": {"path": "actors.agents.echo:echo"}}
    cases: list[tuple[dict[str, Any], int, str, int]] = [
        ({"sealed": {"keys": OLD}}, 400, "state-key-unknown", 0),
        ({"sealed": SEALED} | agent, 409, "state-foreign", 0),
        ({"sealed": SEALED, "store": {"tenant": "acme"}}, 409, "state-foreign", 0),
        ({"sealed": SEALED | {"schema_version": 2, "schema_version_min": 2}}, 409, "state-outdated", 0),
        ({"sealed": SEALED}, 410, "state-expired", 7 * DAY_MS),
        ({"sealed": SEALED | {"ttl_s": 60}}, 410, "state-expired", 61_000),
    ]
    for groups, status, code, later_ms in cases:
        host = SmallHost(agent=Counting(), clock_ms=world.host.clock_ms + later_ms)
        async with serving(host, **groups) as other:
            problem = refused(await post(other, {"message": "b", "state": state}), status, code)
            assert problem["outcome"] == "not_done"
            assert host.agent.runs == []  # type: ignore[attr-defined]
    tampered = state[:-10] + ("A" if state[-10] != "A" else "B") + state[-9:]
    refused(await post(world, {"message": "b", "state": tampered}), 400, "state-invalid")


async def test_a_newer_hosts_state_may_be_sent_again(world: World) -> None:
    async with serving(sealed=SEALED | {"schema_version": 2}) as newer:
        state = (await talk(newer, "a"))["state"]
    answer = await post(world, {"message": "b", "state": state})
    assert refused(answer, 409, "state-newer")["schema_version"] == 2
    assert answer.header("retry-after") == "1"


@pytest.mark.parametrize("state", ["", 1, True, [], {}, ["rs1."]])
async def test_a_state_that_is_no_text_is_refused(world: World, state: Any) -> None:
    refused(await post(world, {"message": "m", "state": state}), 400, "bad-request")


@pytest.mark.parametrize(
    "document", [{}, {"message": ""}, {"message": 1}, {"message": "m", "stream": 1}, {"message": "m", "metadata": 1}]
)
async def test_the_rest_is_checked_as_in_a_chat(world: World, document: dict[str, Any]) -> None:
    refused(await post(world, document), 400, "bad-request")


async def test_null_is_no_state_as_everywhere(world: World) -> None:
    assert (await post(world, {"message": "m", "state": None})).json["turn_seq"] == 1


async def test_a_conversation_can_be_named_by_its_own_id_only(world: World) -> None:
    first = await talk(world, "a")
    same, state = first["session_id"], first["state"]
    assert (await post(world, {"message": "b", "state": state}, ("X-Session-Id", same))).status == 200
    assert (await post(world, {"message": "b", "state": state, "session_id": same})).status == 200
    for document, header in (({"state": state}, "other"), ({"state": state, "session_id": "other"}, same), ({}, same)):
        refused(await post(world, {"message": "b", **document}, ("X-Session-Id", header)), 400, "bad-request")


async def test_if_match_is_judged_against_the_state(world: World) -> None:
    state = (await talk(world, "a"))["state"]
    for tag, document, status in (
        ('"1"', {"state": state}, 200), ("*", {"state": state}, 200), ('"0"', {}, 200),
        ('"2"', {"state": state}, 412), ("*", {}, 412), ('"1"', {}, 412),
    ):  # fmt: skip
        answer = await post(world, {"message": "b", **document}, ("If-Match", tag))
        assert answer.status == status, (tag, document)
        if status == 412:
            assert answer.header("etag") == f'"{len(document)}"'


async def test_limits_of_the_agent_hold_as_in_a_chat() -> None:
    async def endless(conversation: Conversation) -> str:
        await asyncio.Event().wait()
        return ""

    async def long(conversation: Conversation) -> str:
        return "x" * 200

    async def hoarding(conversation: Conversation) -> str:
        conversation.state["x"] = "x" * 200
        return ""

    agent = {"deadline_s": 0.05, "reply_bytes_max": 100, "state_bytes_max": 100}
    async with serving(SmallHost(agent=endless), sealed=SEALED, agent=agent) as world:
        assert refused(await post(world, {"message": "m"}), 504, "agent-timed-out")["outcome"] == "not_done"
        for each in (long, hoarding):
            world.host.agent = each
            assert refused(await post(world, {"message": "m"}), 500, "agent-failed")["outcome"] == "not_done"


async def test_sizes_are_told() -> None:
    sizes = {"state_bytes_max": 1024, "opened_bytes_max": 4096}
    async with serving(SmallHost(agent=said), sealed=SEALED | sizes) as world:
        words = base64.b64encode(bytes(i * i % 251 for i in range(1_000))).decode()
        made = refused(await post(world, {"message": words}), 413, "state-too-large")
        assert made["state_bytes"] > made["state_bytes_max"] == 1024
        sent = refused(await post(world, {"message": "m", "state": "rs1." + "A" * 2_000}), 413, "state-too-large")
        assert sent["state_bytes"] == 2_004
        bomb = refused(await post(world, {"message": "a" * 5_000}), 413, "state-too-large")
        assert bomb["opened_bytes"] > bomb["opened_bytes_max"] == 4096
    async with serving(sealed=SEALED, session={"body_bytes_max": 300_000}) as world:
        refused(await post(world, {"message": "m", "state": "rs1." + "A" * 300_000}), 413, "too-large")


async def test_a_host_runs_so_many_sealed_turns_and_no_more() -> None:
    agent = Counting()
    agent.open.clear()
    async with serving(SmallHost(agent=agent), sealed=SEALED | {"running_max": 1}) as world:
        one = asyncio.create_task(post(world, {"message": "one"}))
        await agent.has_begun(1)
        full = await post(world, {"message": "two"})
        assert refused(full, 503, "host-full")["outcome"] == "not_done"
        assert full.header("retry-after") == "1"
        agent.open.set()
        assert (await one).status == 200
        assert (await post(world, {"message": "two"})).status == 200


async def test_a_client_that_leaves_does_not_stop_its_turn() -> None:
    agent = Counting()
    agent.open.clear()
    async with serving(SmallHost(agent=agent), sealed=SEALED) as world:
        async with wire(world.port) as connection:
            await connection.send(request_bytes("POST", "/chat/sealed", b'{"message": "m"}'))
            await agent.has_begun(1)
        (turn,) = world.host.tasks
        agent.open.set()
        await turn


async def test_a_host_that_leaves_lets_its_sealed_turns_end() -> None:
    agent = Counting()
    agent.open.clear()
    world = World(SmallHost(), settings_with(sealed=SEALED))
    world.host = host = Whole(agent, world.settings).host("inc-1")  # type: ignore[assignment]
    listener = Listener(Api(world), world.settings.http)
    world.address = await listener.start()
    try:
        turn = asyncio.create_task(post(world, {"message": "m"}))
        await agent.has_begun(1)
        leaving = asyncio.create_task(host.drain(30))
        await asyncio.sleep(0)
        assert not leaving.done()
        agent.open.set()
        await leaving
        assert (await turn).json["reply"] == "m, run 1"
    finally:
        await listener.aclose(1)


# --- repeats --------------------------------------------------------------------------------------------------------


async def test_a_key_that_the_state_has_gets_the_turn_that_it_has(world: World) -> None:
    first = await post(world, {"message": "a"}, key("k-1"))
    state = (await talk(world, "b", state=first.json["state"]))["state"]
    again = await post(world, {"message": "a", "state": state}, key("k-1"))
    assert again.json == first.json | {"replayed": True, "state": state}
    assert again.header("idempotent-replayed") == "true"
    refused(await post(world, {"message": "other", "state": state}, key("k-1")), 422, "key-mismatch")


async def test_a_repeated_begin_is_the_same_conversation(world: World) -> None:
    one, two = await post(world, {"message": "a"}, key("k-1")), await post(world, {"message": "a"}, key("k-1"))
    assert one.json["session_id"] == two.json["session_id"]
    assert (await post(world, {"message": "a"}, key("k-2"))).json["session_id"] != one.json["session_id"]
    assert (await post(world, {"message": "a"})).json["session_id"] != one.json["session_id"]
    chat = await ask(world, "POST", "/chat", b'{"message": "a"}', key("k-1"))
    assert chat.json["session_id"] != one.json["session_id"]


# --- as it is documented --------------------------------------------------------------------------------------------


async def test_the_document_describes_the_answer_that_is_given(world: World) -> None:
    paths = (await ask(world, "GET", "/openapi.json")).json
    operation = paths["paths"]["/chat/sealed"]["post"]
    schema = paths["components"]["schemas"]["SealedChatReply"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/SealedChatReply")
    assert set(schema["properties"]) == set(schema["required"]) == set(await talk(world, "m"))
    assert set(SealedChatRequest.model_fields) == {"message", "state", "stream", "metadata"}


async def test_other_methods_are_told_which_one_there_is(world: World) -> None:
    answer = await ask(world, "GET", "/chat/sealed")
    refused(answer, 405, "method-not-allowed")
    assert answer.header("allow") == "POST"


def test_settings_travel_with_their_keys_hidden() -> None:
    shown = repr(Settings.load({"sealed": SEALED}))
    assert NEW not in shown
