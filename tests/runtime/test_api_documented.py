"""``/openapi.json`` against the error tree and against what is answered: neither says more than the other."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from actors import errors, sealed_errors
from actors.api_models import BEGINNING, CHATTING, DELETING, EVERYWHERE, READING, SEALING, Problem
from actors.errors import NotReady, RehydraError
from router.edge import answers as edge
from tests.runtime.api_world import Raw, World, chat, request_bytes, serving, wire

ERRORS: Final[dict[str, tuple[type[RehydraError], ...]]] = {
    "POST /chat": CHATTING,
    "POST /chat/sealed": SEALING,
    "POST /sessions": BEGINNING,
    "GET /sessions/{session_id}": READING,
    "GET /sessions/{session_id}/turns": READING,
    "DELETE /sessions/{session_id}": DELETING,
    "GET /ring": (),
    "GET /healthz": (),
    "GET /readyz": (NotReady,),
}
OF_THE_EDGE: Final[tuple[type[RehydraError], ...]] = (edge.NoHost, edge.HostFailed, edge.HostSilent, edge.EdgeBroken)
OF_NO_OPERATION = (
    errors.PathUnknown,
    errors.MethodNotAllowed,
    errors.Misdirected,
    errors.Outdated,
    errors.Misconfigured,
)
"""Answers where no operation is documented, of hosts to hosts, and of none that has started."""

DONE = {
    "POST /chat": {200},
    "POST /chat/sealed": {200},
    "POST /sessions": {200, 201},
    "GET /sessions/{session_id}": {200, 304},
    "GET /sessions/{session_id}/turns": {200, 304},
    "DELETE /sessions/{session_id}": {204},
    "GET /ring": {200},
    "GET /healthz": {200},
    "GET /readyz": {200},
}
EDGE_ONLY = {408, 502, 504}
"""Answered in front of a host, by tests of its own; but hosts have a 408 for bodies, and a 504 for a chat."""


def tree(root: type[RehydraError] = RehydraError) -> set[type[RehydraError]]:
    found = {root} if root.__module__ in (errors.__name__, edge.__name__, sealed_errors.__name__) else set()
    return found.union(*(tree(child) for child in root.__subclasses__()))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    session = {"message_bytes_max": 100, "body_bytes_max": 4_000}
    sealed = {"keys": base64.b64encode(bytes(32)).decode(), "state_bytes_max": 2_000}
    async with serving(http={"body_s": 0.2}, session=session, sealed=sealed) as served:
        await chat(served, {"message": "m", "session_id": "s"})
        yield served


def test_every_error_of_the_tree_has_its_place() -> None:
    placed = {error for told in ERRORS.values() for error in told}
    assert placed | {*EVERYWHERE, *OF_THE_EDGE, *OF_NO_OPERATION} == tree()


async def test_every_error_that_an_operation_gives_is_in_the_document_and_no_other(world: World) -> None:
    for operation, documented in (await _documented(world)).items():
        given: list[type[RehydraError]] = [*ERRORS[operation], *EVERYWHERE, *OF_THE_EDGE]
        told = {error.status for error in given}
        assert set(documented) == told | DONE[operation], operation
        for error in given:
            assert f"`{error.code}`: {error.title}." in documented[error.status]["description"]


@pytest.mark.parametrize("operation", ERRORS)
async def test_every_status_in_the_document_is_answered_and_every_answer_is_in_the_document(
    world: World, operation: str
) -> None:
    seen = set()
    async for answer in _answers(world, operation):
        seen.add(answer.status)
        if answer.status >= 400:
            assert Problem.model_validate(answer.json).status == answer.status
    documented = set((await _documented(world))[operation])
    assert seen <= documented
    of_hosts = (
        {408, 504}
        if operation in ("POST /chat", "POST /chat/sealed")
        else {408}
        if operation.split()[0] == "POST"
        else set()
    )
    assert documented - seen == EDGE_ONLY - of_hosts


async def _answers(world: World, operation: str) -> AsyncIterator[Raw]:
    """One operation in every way that it can go."""
    method, path = operation.replace("{session_id}", "s").split()
    body = b'{"message": "m", "session_id": "s"}' if method == "POST" else None
    if path == "/chat/sealed":
        body = b'{"message": "m"}'
    yield await _ask(world, request_bytes(method, path, body, ("If-None-Match", '"0"')))
    yield await _ask(world, request_bytes(method, path, body, ("no header", "v")))
    yield await _ask(world, request_bytes(method, path, body, ("x", "v" * 70_000)))
    yield await _ask(world, request_bytes(method, path + "?" + "q" * 70_000, body))
    if method == "GET" and path.startswith("/sessions"):
        yield await _ask(world, request_bytes(method, path, None, ("If-None-Match", "*")))
    if method == "POST":
        yield await _ask(world, request_bytes(method, path, body))
        yield await _ask(world, request_bytes(method, path, b'{"message": "%b"}' % (b"m" * 5_000)))
        yield await _ask(world, request_bytes(method, path, b'{"message": "%b"}' % (b"m" * 101)))
        yield await _ask(world, request_bytes(method, path, body, ("Content-Encoding", "gzip")))
        yield await _ask(world, request_bytes(method, path, b"{", ("Content-Length", "9")))
    async with serving(http={"connections_max": 1}) as full, wire(full.port) as one:
        # Answered, so it is surely counted when the other comes.
        await one.send(request_bytes("GET", "/healthz"))
        await one.answer()
        yield await _ask(full, b"")
    for error in (*ERRORS[operation], ValueError):
        _break(world, error)
        yield await _ask(world, request_bytes(method, path, body))


async def _ask(world: World, sent: bytes) -> Raw:
    async with wire(world.port) as connection, asyncio.timeout(5):
        await connection.send(sent)
        return await connection.answer()


def _break(world: World, error: type[Exception]) -> None:
    """Whatever is asked of the host ends so."""

    def failing(*_: Any) -> Any:
        raise error("on purpose")

    async def failing_later(*_: Any) -> Any:
        raise error("on purpose")

    host: Any = world.host
    host.chat, host.read, host.delete, host.open = failing_later, failing_later, failing_later, failing_later
    host.agent = failing_later
    host.stats = failing
    world.not_ready = failing_later  # type: ignore[method-assign]
    world.table = None  # type: ignore[assignment]


async def _documented(world: World) -> dict[str, dict[int, Any]]:
    paths = (await _ask(world, request_bytes("GET", "/openapi.json"))).json["paths"]
    return {
        f"{method.upper()} {path}": {int(status): told for status, told in operation["responses"].items()}
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
