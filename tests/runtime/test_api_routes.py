"""The other routes, on a real socket, and the documentation of all."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from actors.api import Api
from actors.api_models import ChatReply, ChatRequest, Problem, SessionView, TurnsView
from actors.model import HostRef, Member, SessionKey, Table, fingerprint_of
from actors.settings import Settings
from tests.runtime.api_world import PASS, Raw, SmallHost, World, ask, chat, request_bytes, serving, wire


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving(http={"turns_page_max": 3}) as served:
        for number in range(1, 6):
            await chat(served, {"message": f"m{number}", "session_id": "s", "metadata": {"n": number}})
        yield served


def problem(answer: Raw, status: int, code: str) -> None:
    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json"), answer.body
    assert Problem.model_validate(answer.json).type == f"urn:rehydra:problem:{code}"


async def test_a_session_says_how_far_it_is(world: World) -> None:
    answer = await ask(world, "GET", "/sessions/s")
    assert answer.status == 200
    assert answer.json == {"session_id": "s", "turn_seq": 5, "created_ms": 1_700_000_000_000}
    assert answer.header("etag") == '"5"'


@pytest.mark.parametrize(
    ("tag", "status"),
    [('"5"', 304), ('W/"5"', 304), ('"4", "5"', 304), ("*", 304), ('"4"', 200), ('"55"', 200), ("nonsense", 200)],
)
@pytest.mark.parametrize("path", ["/sessions/s", "/sessions/s/turns"])
async def test_an_unchanged_session_is_not_told_again(world: World, path: str, tag: str, status: int) -> None:
    answer = await ask(world, "GET", path, None, ("If-None-Match", tag))
    assert (answer.status, answer.header("etag")) == (status, '"5"')
    assert (answer.body == b"") == (status == 304)


async def test_several_headers_of_tags_are_one_list(world: World) -> None:
    tags = (("If-None-Match", '"4"'), ("If-None-Match", '"5"'))
    for known in (tags, tags[::-1]):
        assert (await ask(world, "GET", "/sessions/s", None, *known)).status == 304


async def test_turns_come_in_pages(world: World) -> None:
    first = (await ask(world, "GET", "/sessions/s/turns?limit=2")).json
    assert [turn["turn_seq"] for turn in first["turns"]] == [1, 2]
    assert first["turn_seq"] == 5
    rest = (await ask(world, "GET", "/sessions/s/turns?after=2")).json
    assert [turn["message"] for turn in rest["turns"]] == ["m3", "m4", "m5"]
    assert rest["turns"][0]["reply"] == "m3"
    assert rest["turns"][0]["metadata"] == {"n": 3}
    assert rest["turns"][0]["turn_id"].startswith("r:")
    assert (await ask(world, "GET", "/sessions/s/turns?after=5")).json["turns"] == []
    assert TurnsView.model_validate(rest)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=4", "limit=x", "after=-1", "after=1e3", f"after={10**15}", "after="]
)
async def test_a_page_out_of_range_is_refused(world: World, query: str) -> None:
    problem(await ask(world, "GET", f"/sessions/s/turns?{query}"), 400, "bad-request")


async def test_an_unknown_session_is_404_on_every_route(world: World) -> None:
    for method, path in (("GET", "/sessions/x"), ("GET", "/sessions/x/turns"), ("DELETE", "/sessions/x")):
        problem(await ask(world, method, path), 404, "session-unknown")


@pytest.mark.parametrize("session_id", ["a%20b", "%7Ba%7D", "a" * 129, "%00", "%C3%B6"])
async def test_a_bad_session_id_in_the_path_is_refused(world: World, session_id: str) -> None:
    problem(await ask(world, "GET", f"/sessions/{session_id}"), 400, "bad-request")
    problem(await ask(world, "DELETE", f"/sessions/{session_id}"), 400, "bad-request")


async def test_a_header_that_names_another_session_than_the_path_is_refused(world: World) -> None:
    assert (await ask(world, "GET", "/sessions/s", None, ("X-Session-Id", "s"))).status == 200
    for more in ([("X-Session-Id", "other")], [("X-Session-Id", "s"), ("X-Session-Id", "s")]):
        problem(await ask(world, "GET", "/sessions/s", None, *more), 400, "bad-request")


async def test_a_deletion_with_a_precondition_is_refused_and_deletes_nothing(world: World) -> None:
    refused = await ask(world, "DELETE", "/sessions/s", None, ("If-Match", '"1"'))
    problem(refused, 400, "bad-request")
    assert "If-Match" in refused.json["detail"]
    assert (await ask(world, "GET", "/sessions/s")).status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_wrong_session_id_in_the_path_is_told_in_words(world: World, method: str) -> None:
    refused = await ask(world, method, "/sessions/%20")
    problem(refused, 400, "bad-request")
    assert refused.json["detail"].startswith("A session id is 1 to 128 of the characters")


async def test_a_deleted_session_is_gone_and_a_repeat_says_the_same(world: World) -> None:
    answer = await ask(world, "DELETE", "/sessions/s", None, ("Idempotency-Key", '"k"'))
    assert (answer.status, answer.body) == (204, b"")
    assert (await ask(world, "DELETE", "/sessions/s")).status == 204
    problem(await ask(world, "GET", "/sessions/s"), 410, "session-deleted")
    problem(await ask(world, "GET", "/sessions/s/turns"), 410, "session-deleted")
    problem(await ask(world, "DELETE", "/sessions/s", None, ("Idempotency-Key", '"half')), 400, "bad-request")


async def test_the_ring_is_told_as_this_host_sees_it(world: World) -> None:
    world.table = Table(12, {"slot-0": Member("slot-0", "4711-abc", "10.0.0.1:99", 1, weight=2)})
    assert (await ask(world, "GET", "/ring")).json == {
        "ring_version": 12,
        "slots": {"slot-0": {"host": "4711-abc", "pid": 4711, "address": "10.0.0.1:99", "weight": 2}},
        "host": "inc-1",
        "slot": "slot-0",
    }


async def test_a_host_without_a_slot_says_so(world: World) -> None:
    world.host.ref = HostRef("inc-1", "", world.address)
    assert (await ask(world, "GET", "/ring")).json["slot"] is None
    assert (await chat(world, {"message": "m"})).header("x-served-by") == "-"


async def test_health_is_of_the_process_and_readiness_of_what_it_needs(world: World) -> None:
    health = await ask(world, "GET", "/healthz")
    assert (health.status, health.json["stats"]) == (200, {"resident": 1})
    assert (await ask(world, "GET", "/readyz")).json == {"status": "ready"}
    world.reasons.append("The store can't be reached.")
    answer = await ask(world, "GET", "/readyz")
    problem(answer, 503, "not-ready")
    assert answer.json["reasons"] == ["The store can't be reached."]
    assert answer.header("retry-after") == "1"


@pytest.mark.parametrize("path", ["/", "/nothing", "/chat/", "/sessions/", "/sessions/a/b", "/internal/x"])
async def test_an_unknown_path_is_a_problem(world: World, path: str) -> None:
    problem(await ask(world, "GET", path), 404, "path-unknown")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/sessions/s", "DELETE, GET, HEAD"),
        ("OPTIONS", "/sessions/s", "DELETE, GET, HEAD"),
        ("POST", "/sessions/s/turns", "GET, HEAD"),
        ("POST", "/ring", "GET, HEAD"),
        ("OPTIONS", "/readyz", "GET, HEAD"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("OPTIONS", "/chat", "POST"),
        ("GET", "/sessions", "POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(world: World, method: str, path: str, allow: str) -> None:
    answer = await ask(world, method, path)
    problem(answer, 405, "method-not-allowed")
    assert answer.header("allow") == allow


@pytest.mark.parametrize(
    "path",
    ["/sessions/s", "/sessions/s/turns", "/sessions/nobody", "/ring", "/readyz", "/docs", "/openapi.json", "/no"],
)
async def test_head_is_answered_as_get_is_without_the_body(world: World, path: str) -> None:
    async with wire(world.port) as connection:
        await connection.send(request_bytes("GET", path))
        whole = await connection.answer()
        await connection.send(request_bytes("HEAD", path))
        status, headers = await connection.head()
        assert (status, headers[1:]) == (whole.status, whole.headers[1:])
        assert dict(headers)["content-length"] == str(len(whole.body))
        # Not a byte of a body: the next answer begins right behind.
        await connection.send(request_bytes("HEAD", path, None, ("If-None-Match", '"5"')) + request_bytes("GET", "/no"))
        status, _ = await connection.head()
        assert status == (304 if path.startswith("/sessions/s") else whole.status)
        problem(await connection.answer(), 404, "path-unknown")


async def test_head_of_the_hot_route_is_a_wrong_method(world: World) -> None:
    async with wire(world.port) as connection:
        await connection.send(request_bytes("HEAD", "/chat"))
        status, headers = await connection.head()
        assert (status, dict(headers)["allow"]) == (405, "POST")


async def test_a_bug_behind_a_route_is_a_problem_that_tells_nothing(world: World) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("secret")

    world.host.stats = broken  # type: ignore[method-assign]
    answer = await ask(world, "GET", "/healthz")
    problem(answer, 500, "internal")
    assert b"secret" not in answer.body


# --- between hosts --------------------------------------------------------------------------------------------------

BATCH = (
    b'{"session_id": "s", "tenant": "-", "under": 7, "batch": '
    b'[{"turn_id": "k:1", "message": "a", "metadata": {"x": 1}, "if_match": 2}, {"turn_id": "r:2", "message": "b"}]}'
)


async def test_a_batch_arrives_in_order_and_whole(world: World) -> None:
    answer = await ask(world, "POST", "/internal/hand-off", BATCH, ("X-Rehydra-To", "inc-1"), PASS)
    assert (answer.status, answer.body) == (204, b"")
    (key, batch, under) = world.host.batches[0]
    assert under == 7
    assert str(key) == "-:s"
    assert [(turn.turn_id, turn.message, turn.metadata, turn.if_match) for turn in batch] == [
        ("k:1", "a", {"x": 1}, 2),
        ("r:2", "b", None, None),
    ]
    assert batch[0].fingerprint == fingerprint_of("a", {"x": 1})


@pytest.mark.parametrize("to", [[], [("X-Rehydra-To", "inc-0")]])
async def test_a_batch_for_nobody_or_another_incarnation_is_misdirected(
    world: World, to: list[tuple[str, str]]
) -> None:
    problem(await ask(world, "POST", "/internal/hand-off", BATCH, PASS, *to), 421, "misdirected")
    assert world.host.batches == []


@pytest.mark.parametrize("shown", [[], [("X-Rehydra-Pass", "0" * 32)], [PASS, PASS], [("X-Rehydra-Pass", "\xe9")]])
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("path", ["/internal/hand-off", "/internal/deleted"])
async def test_without_the_pass_the_paths_of_hosts_are_not_there(
    world: World, path: str, method: str, shown: list[tuple[str, str]]
) -> None:
    answer = await ask(world, method, path, BATCH, ("X-Rehydra-To", "inc-1"), *shown)
    problem(answer, 404, "path-unknown")
    nothing = await ask(world, method, "/internal/nothing", BATCH)
    assert answer.body == nothing.body.replace(b"/internal/nothing", path.encode())
    assert [name for name, _ in answer.headers] == [name for name, _ in nothing.headers]
    assert world.host.batches == [] and world.host.gone == set()


async def test_a_host_that_asks_the_wrong_way_is_told_the_right_one(world: World) -> None:
    answer = await ask(world, "GET", "/internal/hand-off", None, ("X-Rehydra-To", "inc-1"), PASS)
    problem(answer, 405, "method-not-allowed")


@pytest.mark.parametrize("shown", [[], [PASS]])
async def test_the_edges_request_id_names_a_deletion_only_with_its_pass(
    world: World, shown: list[tuple[str, str]]
) -> None:
    named: list[str] = []

    async def delete(key: SessionKey, turn_id: str) -> None:
        named.append(turn_id)

    world.host.delete = delete  # type: ignore[method-assign]
    assert (await ask(world, "DELETE", "/sessions/s", None, ("X-Rehydra-Request", "its-id"), *shown)).status == 204
    assert (named == ["r:its-id"]) == bool(shown)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        BATCH.replace(b'"message": "a"', b'"text": "a"'),
        BATCH.replace(b'"message": "a"', b'"message": 5'),
        BATCH.replace(b'"if_match": 2', b'"if_match": "2"'),
        BATCH.replace(b'"s"', b'"a b"'),
        BATCH.replace(b'"under": 7', b'"under": "7"'),
        BATCH.replace(b'"under": 7', b'"over": 7'),
        BATCH.replace(b'{"turn_id"', b'{"id"'),
        b'{"session_id": "s", "tenant": "-", "under": 7, "batch": 5}',
        b'{"session_id": 5, "tenant": "-", "under": 7, "batch": []}',
    ],
)
async def test_a_batch_that_is_none_is_refused(world: World, body: bytes) -> None:
    answer = await ask(world, "POST", "/internal/hand-off", body, ("X-Rehydra-To", "inc-1"), PASS)
    problem(answer, 400, "bad-request")
    assert world.host.batches == []


# --- the documentation ----------------------------------------------------------------------------------------------


async def test_every_public_route_is_documented(world: World) -> None:
    document = (await ask(world, "GET", "/openapi.json")).json
    operations = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert operations == {
        "POST /chat",
        "POST /chat/sealed",
        "POST /sessions",
        "GET /sessions/{session_id}",
        "DELETE /sessions/{session_id}",
        "GET /sessions/{session_id}/turns",
        "GET /ring",
        "GET /healthz",
        "GET /readyz",
    }
    answers = document["paths"]["/chat"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(answers["429"]["content"]) == {"application/problem+json"}
    assert "HTTPValidationError" not in str(document)
    assert "Problem" in document["components"]["schemas"]


async def test_the_page_of_the_documentation_loads_nothing_from_elsewhere(world: World) -> None:
    page = await ask(world, "GET", "/docs")
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    assert "://" not in text
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^']+)'", text)
    paths = {"/" + (one or other) for one, other in loaded}
    assert paths == {"/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon.png", "/openapi.json"}
    for path in paths:
        part = await ask(world, "GET", path)
        assert part.status == 200
        assert len(part.body) > 1_000
    problem(await ask(world, "GET", "/docs/other.js"), 404, "path-unknown")
    problem(await ask(world, "GET", "/docs/..%2Fcore.py"), 404, "path-unknown")
    problem(await ask(world, "GET", "/redoc"), 404, "path-unknown")


async def test_what_is_documented_of_an_answer_is_what_comes(world: World) -> None:
    assert ChatReply.model_validate((await chat(world, {"message": "m", "session_id": "s"})).json)
    assert SessionView.model_validate((await ask(world, "GET", "/sessions/s")).json)
    assert Problem.model_validate((await chat(world, {})).json)


@pytest.mark.parametrize(
    "document",
    [
        {"message": "m"},
        {"message": "m", "session_id": "a.b~c:d@e-f_G9"},
        {"message": "m", "session_id": None, "stream": None, "metadata": None},
        {"message": "m", "stream": True},
        {"message": "m", "metadata": {"a": [1, {"b": None}]}},
        {"message": "m", "other": 1},
        {"message": ""},
        {"message": None},
        {"message": 1},
        {"message": True},
        {},
        {"message": "m", "session_id": ""},
        {"message": "m", "session_id": "a\n"},
        {"message": "m", "session_id": "a b"},
        {"message": "m", "session_id": 1},
        {"message": "m", "stream": "true"},
        {"message": "m", "stream": 0},
        {"message": "m", "metadata": []},
        {"message": "m", "metadata": "x"},
    ],
)
async def test_the_documented_body_and_the_hand_written_checks_agree(world: World, document: dict[str, Any]) -> None:
    try:
        ChatRequest.model_validate(document)
        documented = 200
    except ValidationError:
        documented = 400
    assert (await chat(world, document)).status == documented


async def test_the_application_can_be_mounted_under_a_prefix() -> None:
    world = World(SmallHost(), Settings.load())
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"message": "m"}', "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/app/chat", "root_path": "/app", "headers": []}
    await Api(world)(scope, receive, send)
    assert sent[0]["status"] == 200
