"""POST /chat on a real socket: its answers, its checks, and clients that come and go."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable

import pytest

from actors.agent import Conversation
from actors.agents.echo import paced
from actors.api import Api
from actors.api_models import IDEMPOTENCY_KEY, IF_MATCH
from actors.errors import (
    AgentFailed,
    AgentTimedOut,
    MailboxFull,
    Misconfigured,
    Outcome,
    RehydraError,
    StateRegressed,
    StoreUnavailable,
)
from tests.runtime.api_world import (
    PASS,
    Raw,
    SmallHost,
    World,
    ask,
    chat,
    pass_for,
    request_bytes,
    serving,
    settings_with,
    wire,
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(session={"message_bytes_max": 1000, "body_bytes_max": 4000}) as served:
        yield served


def problem(answer: object, status: int, code: str) -> dict[str, object]:
    """The answer is that problem, in the form that all problems have."""
    assert answer.status == status, (answer.status, answer.body)  # type: ignore[attr-defined]
    assert answer.header("content-type") == "application/problem+json"  # type: ignore[attr-defined]
    document = answer.json  # type: ignore[attr-defined]
    assert document["type"] == f"urn:rehydra:problem:{code}"
    assert document["status"] == status
    assert document["title"] and document["detail"]
    assert document["outcome"] in ("not_done", "unknown")
    return dict(document)


# --- answers --------------------------------------------------------------------------------------------------------


async def test_a_turn_is_answered_with_its_session_number_and_reply(world: World) -> None:
    answer = await chat(world, {"message": "hello", "session_id": "s1"}, ("X-Rehydra-Request", "req-1"), PASS)
    assert answer.status == 200
    assert answer.json == {
        "session_id": "s1",
        "turn_id": "r:req-1",
        "turn_seq": 1,
        "reply": "hello",
        "replayed": False,
    }
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-session-id") == "s1"
    assert answer.header("etag") == '"1"'
    assert answer.header("x-served-by") == "slot-0"
    assert answer.header("x-served-by-host") == world.host.ref.incarnation
    assert answer.header("x-session-state") == "new"
    assert answer.header("idempotent-replayed") is None
    assert (await chat(world, {"message": "again"}, ("X-Session-Id", "s1"))).header("x-session-state") == "resident"


async def test_the_same_key_gets_the_recorded_reply_and_says_so(world: World) -> None:
    first = await chat(world, {"message": "hello", "session_id": "s"}, ("Idempotency-Key", "k1"))
    again = await chat(world, {"message": "hello", "session_id": "s"}, ("Idempotency-Key", '"k1"'))
    assert first.json | {"replayed": True} == again.json
    assert again.json["turn_id"] == "k:k1"
    assert again.header("idempotent-replayed") == "true"


async def test_the_same_key_with_another_message_is_a_mismatch(world: World) -> None:
    await chat(world, {"message": "one", "session_id": "s"}, ("Idempotency-Key", "k"))
    problem(await chat(world, {"message": "two", "session_id": "s"}, ("Idempotency-Key", "k")), 422, "key-mismatch")


async def test_a_request_without_a_session_gets_the_id_that_the_edge_would_derive(world: World) -> None:
    secret = base64.b64decode(world.settings.edge.secret.get_secret_value())
    expected = hmac.new(secret, b"k:abc", hashlib.sha256).hexdigest()[:32]
    first = await chat(world, {"message": "hello"}, ("Idempotency-Key", "abc"))
    assert first.header("x-session-id") == expected == first.json["session_id"]
    again = await chat(world, {"message": "hello"}, ("Idempotency-Key", "abc"))
    assert again.json["replayed"] is True
    other = await chat(world, {"message": "hello"})
    assert other.json["session_id"] != expected


async def test_the_edges_own_session_id_counts_only_where_the_client_names_none(world: World) -> None:
    derived = ("X-Rehydra-Session", "derived")
    assert (await chat(world, {"message": "m"}, derived, PASS)).json["session_id"] == "derived"
    assert (await chat(world, {"message": "m", "session_id": "mine"}, derived, PASS)).json["session_id"] == "mine"


async def test_if_match_reaches_the_host_and_a_refusal_tells_the_current_tag(world: World) -> None:
    await chat(world, {"message": "one", "session_id": "s"})
    answer = await chat(world, {"message": "two", "session_id": "s"}, ("If-Match", '"0"'))
    assert problem(answer, 412, "precondition-failed")["turn_seq"] == 1
    assert answer.header("etag") == '"1"'
    assert (await chat(world, {"message": "two", "session_id": "s"}, ("If-Match", '"1"'))).status == 200
    assert (await chat(world, {"message": "three", "session_id": "s"}, ("If-Match", "2"))).status == 200


async def test_if_match_0_is_for_a_new_session_and_a_star_for_any_other(world: World) -> None:
    def asked(tag: str, session_id: str = "s") -> Awaitable[Raw]:
        return chat(world, {"message": "m", "session_id": session_id}, ("If-Match", tag))

    refused = await asked("*")
    assert problem(refused, 412, "precondition-failed")["turn_seq"] == 0
    assert refused.header("etag") == '"0"'
    assert world.host.chats == []
    assert (await asked('"0"')).json["turn_seq"] == 1
    problem(await asked('"0"'), 412, "precondition-failed")
    assert (await asked("*")).json["turn_seq"] == 2
    world.host.gone.add("gone")
    problem(await asked("*", "gone"), 410, "session-deleted")


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "should_retry", "outcome"),
    [
        (MailboxFull(retry_after_s=2.2), 429, "3", None, "not_done"),
        (StoreUnavailable(), 503, "1", None, "unknown"),
        (AgentTimedOut(), 504, None, None, "not_done"),
        (AgentFailed("it broke"), 500, None, "false", "not_done"),
        (AgentFailed("it broke", outcome=Outcome.UNKNOWN), 500, None, "false", "unknown"),
        (StateRegressed("lost", turn_seq=3), 409, None, "false", "not_done"),
        (ValueError("a bug"), 500, None, "false", "unknown"),
    ],
)
async def test_an_error_of_the_host_says_what_is_known_and_whether_to_come_back(
    world: World, error: Exception, status: int, retry_after: str | None, should_retry: str | None, outcome: str
) -> None:
    world.host.fail_with = error
    answer = await chat(world, {"message": "m", "session_id": "s"})
    code = error.code if isinstance(error, RehydraError) else "internal"
    document = problem(answer, status, code)
    assert document["outcome"] == outcome
    assert document["session_id"] == "s" == answer.header("x-session-id")
    assert answer.header("x-served-by") == "slot-0"
    assert answer.header("retry-after") == retry_after
    assert answer.header("x-should-retry") == should_retry
    assert "bug" not in answer.body.decode()


async def test_an_agent_that_raises_is_answered_and_the_session_goes_on(world: World) -> None:
    async def moody(conversation: Conversation) -> str:
        if conversation.message == "bad":
            raise RuntimeError("no")
        return "fine"

    world.host.agent = moody
    problem(await chat(world, {"message": "bad", "session_id": "s"}), 500, "agent-failed")
    assert (await chat(world, {"message": "good", "session_id": "s"})).json["turn_seq"] == 1


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"message": ""}',
        b'{"message": null}',
        b'{"message": 5}',
        b'{"message": ["a"]}',
        b'{"message": "m", "session_id": 5}',
        b'{"message": "m", "session_id": ""}',
        b'{"message": "m", "session_id": "a b"}',
        b'{"message": "m", "session_id": "{a}"}',
        b'{"message": "m", "session_id": "a\\n"}',
        b'{"message": "m", "session_id": "\\u0000"}',
        '{"message": "m", "session_id": "ö"}'.encode(),
        b'{"message": "m", "session_id": "' + b"a" * 129 + b'"}',
        b'{"message": "m", "stream": "yes"}',
        b'{"message": "m", "stream": 1}',
        b'{"message": "m", "metadata": []}',
        b'{"message": "m", "metadata": "x"}',
        b'{"message": "m", "metadata": {"x": NaN}}',
        b'{"message": "m", "metadata": {"x": 1e999}}',
        b'{"message": "m", "metadata": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
        b'{"message": "lone \\ud800 surrogate"}',
        b'{"message": "m", "metadata": {"x": "\\udfff"}}',
        b'{"message": "\xff\xfe"}',
        b'{"message": "m"} and more',
    ],
)
async def test_a_bad_body_is_refused_and_the_host_hears_nothing(world: World, body: bytes) -> None:
    document = problem(await ask(world, "POST", "/chat", body), 400, "bad-request")
    assert document["outcome"] == "not_done"
    assert world.host.chats == []


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Session-Id", "")],
        [("X-Session-Id", "a b")],
        [("X-Session-Id", "a" * 129)],
        [("X-Session-Id", "a"), ("X-Session-Id", "a")],
        [("X-Session-Id", "other")],
        [("Idempotency-Key", "")],
        [("Idempotency-Key", '""')],
        [("Idempotency-Key", '"half')],
        [("Idempotency-Key", "k" * 256)],
        [("Idempotency-Key", '"' + "k" * 256 + '"')],
        [("Idempotency-Key", "k" * 10_000)],
        [("Idempotency-Key", "kéy")],
        [("Idempotency-Key", "two words")],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
        [("If-Match", '*, "1"')],
        [("If-Match", 'W/"1"')],
        [("If-Match", '"1", "2"')],
        [("If-Match", '"-1"')],
        [("If-Match", '"1')],
        [("If-Match", "01")],
        [("If-Match", '"abc"')],
        [("X-Rehydra-Request", "a b"), PASS],
        [("X-Rehydra-Turn", "k:a"), ("X-Rehydra-Turn", "k:b"), PASS],
        [PASS, PASS],
    ],
)
async def test_a_bad_header_is_refused_and_the_host_hears_nothing(world: World, headers: list[tuple[str, str]]) -> None:
    answer = await chat(world, {"message": "m", "session_id": "s"}, *headers)
    problem(answer, 400, "bad-request")
    assert world.host.chats == []


@pytest.mark.parametrize(
    "key",
    ["k", "!~", 'a"b', '"a b"', '"a\\"b"', '"a\\\\"', '"a\\b"', '"', '""', '"a"b"', "a b", "k" * 255, "k" * 256, "\\"],
)
async def test_the_documented_key_and_the_hand_written_check_agree(world: World, key: str) -> None:
    documented = re.fullmatch(IDEMPOTENCY_KEY, key) is not None
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("Idempotency-Key", key))
    assert answer.status == (200 if documented else 400)
    deleted = await ask(world, "DELETE", "/sessions/s", None, ("Idempotency-Key", key))
    assert deleted.status == (204 if documented else 400)


@pytest.mark.parametrize(
    "tag", ["*", '"0"', "0", '"7"', "7", '"7', '7"', '"07"', '""', 'W/"0"', "-1", "9" * 15, "9" * 16, '"*"', "a"]
)
async def test_the_documented_tag_and_the_hand_written_check_agree(world: World, tag: str) -> None:
    documented = re.fullmatch(IF_MATCH, tag) is not None
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("If-Match", tag))
    assert answer.status in ((200, 412) if documented else (400,))


@pytest.mark.parametrize(
    ("raw", "turn_id"),
    [
        ("k", "k:k"),
        ("k" * 255, "k:" + "k" * 255),
        ('"' + "k" * 255 + '"', "k:" + "k" * 255),
        ('"a\\"b\\\\c"', 'k:a"b\\c'),
        ("!~", "k:!~"),
    ],
)
async def test_a_key_counts_the_same_quoted_or_bare(world: World, raw: str, turn_id: str) -> None:
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("Idempotency-Key", raw))
    assert answer.json["turn_id"] == turn_id


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f469\U0001f3fd\u200d\U0001f680 \u00e9 e\u0301",
        "\u05e9\u05dc\u05d5\u05dd \u202eabc",
        "a\x00b\x01\x7f",
        "\r\n\t",
        " ",
        "\u4e2d\u6587\u6ca1\u6709\u7a7a\u683c",
        "\ufffe\uffff\ufeff",
    ],
)
async def test_any_text_is_kept_as_it_came(world: World, text: str) -> None:
    answer = await chat(world, {"message": text, "session_id": "s", "metadata": {text: text}})
    assert answer.json["reply"] == text
    assert world.host.chats[0][0].metadata == {text: text}
    raw = json.dumps({"message": text, "session_id": "s"}, ensure_ascii=False).encode()
    assert (await ask(world, "POST", "/chat", raw)).json["reply"] == text


async def test_null_stands_for_what_may_be_left_out(world: World) -> None:
    document = {"message": "m", "session_id": None, "stream": None, "metadata": None, "more": "is ignored"}
    assert (await chat(world, document)).status == 200


@pytest.mark.parametrize("message", ["m" * 1001, "é" * 501])
async def test_a_message_over_its_limit_of_bytes_is_too_large(world: World, message: str) -> None:
    problem(await chat(world, {"message": message}), 413, "too-large")
    assert (await chat(world, {"message": message[:500]})).status == 200


async def test_a_body_over_its_limit_is_too_large_before_it_is_read(world: World) -> None:
    async with wire(world.port) as connection:
        await connection.send(request_bytes("POST", "/chat", b"", ("Content-Length", "4001")))
        problem(await connection.answer(), 413, "too-large")


async def test_a_chunked_body_is_taken_up_to_its_limit(world: World) -> None:
    async with wire(world.port) as connection:
        head = request_bytes("POST", "/chat", b"", ("Transfer-Encoding", "chunked"))
        await connection.send(head + b'a\r\n{"message"\r\n')
        await connection.send(b'5\r\n:"m"}\r\n0\r\n\r\n')
        assert (await connection.answer()).json["reply"] == "m"
        await connection.send(head)
        for _ in range(5):
            await connection.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        problem(await connection.answer(), 413, "too-large")
        # The rest of the body is dropped, and the connection is good for another request.
        await connection.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n" + request_bytes("GET", "/healthz"))
        assert (await connection.answer()).json["status"] == "ok"


async def test_a_compressed_body_is_refused(world: World) -> None:
    body = gzip.compress(b'{"message": "m"}')
    problem(await ask(world, "POST", "/chat", body, ("Content-Encoding", "gzip")), 415, "encoding-unsupported")
    assert (await chat(world, {"message": "m"}, ("Content-Encoding", "identity"))).status == 200


async def test_another_method_is_told_which_one_to_use(world: World) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await ask(world, method, "/chat")
        problem(answer, 405, "method-not-allowed")
        assert answer.header("allow") == "POST"


async def test_a_slow_body_is_given_up(world: World) -> None:
    async with serving(http={"body_s": 0.2}) as slow, wire(slow.port) as connection:
        await connection.send(request_bytes("POST", "/chat", b'{"mess', ("Content-Length", "20")))
        answer = await connection.answer()
        assert problem(answer, 408, "body-too-slow")["outcome"] == "not_done"
        assert answer.header("connection") == "close"
        assert await connection.reader.read() == b""


# --- clients that leave ---------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_in_mid_body_changes_nothing(world: World) -> None:
    async with wire(world.port) as connection:
        await connection.send(request_bytes("POST", "/chat", b'{"message": "m', ("Content-Length", "20")))
    assert (await ask(world, "GET", "/healthz")).status == 200
    assert world.host.chats == []


async def test_a_client_that_leaves_stops_its_own_waiting_and_not_its_turn() -> None:
    release = asyncio.Event()

    async def gated(conversation: Conversation) -> str:
        await release.wait()
        return "committed all the same"

    async with serving(SmallHost(agent=gated)) as world:
        async with wire(world.port) as connection:
            await connection.send(request_bytes("POST", "/chat", b'{"message": "m", "session_id": "s"}'))
            await asyncio.wait_for(world.host.busy.wait(), 5)
        await asyncio.wait_for(world.host.quiet.wait(), 5)
        assert world.host.log["s"] == []
        release.set()
        async with asyncio.timeout(5):
            assert (await world.host.turns_of("s", 1))[0].reply == "committed all the same"


async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    async with serving(SmallHost(agent=paced)) as world, wire(world.port) as connection:
        slow = b'{"message": "slow", "session_id": "a", "metadata": {"over_s": 0.1}}'
        quick = b'{"message": "quick", "session_id": "b"}'
        await connection.send(request_bytes("POST", "/chat", slow) + request_bytes("POST", "/chat", quick))
        assert [(await connection.answer()).json["reply"] for _ in range(2)] == ["slow", "quick"]


# --- from host to host ----------------------------------------------------------------------------------------------


async def test_a_request_for_another_incarnation_is_misdirected(world: World) -> None:
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("X-Rehydra-To", "inc-0"), PASS)
    problem(answer, 421, "misdirected")
    assert world.host.chats == []


async def test_a_passed_on_request_keeps_its_turn_id_and_counts_its_hops(world: World) -> None:
    internal = [PASS, ("X-Rehydra-To", "inc-1"), ("X-Rehydra-Hops", "2"), ("X-Rehydra-Turn", "k:abc")]
    answer = await chat(world, {"message": "m", "session_id": "s"}, *internal)
    assert answer.json["turn_id"] == "k:abc"
    assert world.host.chats[0][1] == 2


async def test_a_turn_id_without_an_incarnation_is_not_believed(world: World) -> None:
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("X-Rehydra-Turn", "k:theirs"), PASS)
    assert answer.json["turn_id"] != "k:theirs"


FORGED = [
    ("X-Rehydra-To", "inc-1"),
    ("X-Rehydra-Hops", "3"),
    ("X-Rehydra-Turn", "k:theirs"),
    ("X-Rehydra-Tenant", "theirs"),
    ("X-Rehydra-Request", "theirs"),
    ("X-Rehydra-Session", "theirs"),
]


@pytest.mark.parametrize("more", [[], [("X-Rehydra-To", "inc-0")], [("X-Rehydra-Turn", "k:theirs")]])
async def test_nothing_that_hosts_say_to_each_other_is_believed_without_their_pass(
    world: World, more: list[tuple[str, str]]
) -> None:
    answer = await chat(world, {"message": "m"}, *FORGED, *more)
    assert answer.status == 200
    ((request, hops),) = world.host.chats
    assert (hops, request.key.tenant) == (0, world.settings.store.tenant)
    assert "theirs" not in request.turn_id + request.key.session_id
    assert "theirs" not in str(answer.headers) + answer.body.decode()


@pytest.mark.parametrize("shown", ["", "0" * 32, PASS[1][:-1], PASS[1] + "0", PASS[1].upper(), "\xe9" * 32])
async def test_a_request_with_a_wrong_pass_is_refused_and_the_host_hears_nothing(world: World, shown: str) -> None:
    answer = await chat(world, {"message": "m", "session_id": "s"}, ("X-Rehydra-Pass", shown), *FORGED)
    problem(answer, 400, "bad-request")
    assert PASS[1] not in answer.body.decode()
    assert world.host.chats == []


async def test_the_pass_is_of_the_secret() -> None:
    async with serving(edge={"secret": "YW5vdGhlciBrZXk="}) as other:
        theirs = pass_for(other.settings)
        assert theirs != PASS
        problem(await chat(other, {"message": "m"}, PASS, *FORGED), 400, "bad-request")
        answer = await chat(other, {"message": "m", "session_id": "s"}, theirs, *FORGED)
        assert answer.json["turn_id"] == "k:theirs"
        assert other.host.chats[0][0].key.tenant == "theirs"


@pytest.mark.parametrize("secret", ["", "no base64", "YQ"])
def test_a_host_without_a_proper_secret_does_not_start(secret: str) -> None:
    with pytest.raises(Misconfigured, match=r"edge\.secret"):
        Api(World(SmallHost(), settings_with(edge={"secret": secret})))


async def test_trailers_are_no_headers(world: World) -> None:
    body = b'{"message": "m", "session_id": "s"}'
    trailers = "".join(f"{name}: {value}\r\n" for name, value in [PASS, *FORGED, ("If-Match", '"9"')]).encode()
    async with wire(world.port) as connection:
        head = request_bytes("POST", "/chat", b"", ("Transfer-Encoding", "chunked"))
        await connection.send(head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers))
        answer = await connection.answer()
        assert answer.status == 200
        ((request, hops),) = world.host.chats
        assert (hops, request.key.tenant, request.if_match) == (0, world.settings.store.tenant, None)
        assert request.turn_id != "k:theirs"
        # They end with their request.
        await connection.send(request_bytes("POST", "/chat", body, ("Idempotency-Key", "mine")))
        assert (await connection.answer()).json["turn_id"] == "k:mine"
