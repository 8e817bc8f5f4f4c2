"""``openai_compatible`` against a server of the tests, over real sockets: whatever such an endpoint may do."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from actors.agent import Conversation, load_agent, window_of
from actors.agents.openai_compatible import Endpoint, OpenAICompatible
from actors.attempt import run_attempt
from actors.errors import AgentFailed, AgentTimedOut, Misconfigured
from actors.model import SessionKey, Turn
from actors.replica import HostLife
from actors.settings import AgentSettings
from router.routing import HostView
from tests.runtime.test_replica import chat, settings

PATH = "actors.agents.openai_compatible:OpenAICompatible"
SECRET = "sk-very-secret"
Handler = Callable[["Model", web.Request], Awaitable[web.StreamResponse]]


class Model:
    """A model's endpoint. ``handlers`` answer the requests in turn, the last one all further ones."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = list(handlers)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.may_go_on = asyncio.Event()
        self.left = asyncio.Event()
        self.url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(request.headers)
        handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
        try:
            return await handler(self, request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


@asynccontextmanager
async def serving(*handlers: Handler) -> AsyncIterator[Model]:
    model = Model(*handlers)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        model.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield model
    finally:
        await runner.cleanup()


async def begin(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    return answer


async def piece(answer: web.StreamResponse, text: str, finish: str | None = None) -> None:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    await answer.write(f"data: {json.dumps(chunk)}\n\n".encode())


async def hello(_: Model, request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    for text in ("Hello", ", ", "world"):
        await piece(answer, text)
    await piece(answer, "", "stop")
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def hello_then_waits(model: Model, request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    await piece(answer, "Hello")
    await model.may_go_on.wait()
    await piece(answer, "!", "stop")
    return answer


async def hello_then_breaks(_: Model, request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    await piece(answer, "Hello")
    assert request.transport is not None
    request.transport.close()
    return answer


async def hello_without_an_end(_: Model, request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    await piece(answer, "Hello")
    await answer.write(b"data: [DONE]\n\n")
    return answer


def sends(chunk: str) -> Handler:
    async def answer(_: Model, request: web.Request) -> web.StreamResponse:
        answer = await begin(request)
        await answer.write(f"data: {chunk}\n\n".encode())
        return answer

    return answer


async def silent(model: Model, _: web.Request) -> web.StreamResponse:
    await model.may_go_on.wait()
    return web.Response()


def refuses(status: int) -> Handler:
    async def answer(_: Model, __: web.Request) -> web.StreamResponse:
        told = {"error": {"message": f"Incorrect API key provided: {SECRET}"}}
        return web.json_response(told, status=status, headers={"retry-after-ms": "1"})

    return answer


def agent_of(model: Model, **more: Any) -> OpenAICompatible:
    return OpenAICompatible(Endpoint(base_url=model.url, api_key=SECRET, model="m", **more))  # type: ignore[call-arg]


def conversation(turns: int = 0) -> Conversation:
    past = [Turn(n, f"k:{n}", "", f"message {n}", f"reply {n}", None, 1, 0) for n in range(1, turns + 1)]
    return Conversation(SessionKey("s"), past, b"", "and now?", None, "k:now", 1)


async def answer_of(
    agent: OpenAICompatible,
    asked: Conversation | None = None,
    deadline_s: float = 10.0,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    limits = AgentSettings(path=PATH, deadline_s=deadline_s)  # type: ignore[call-arg]
    return (await run_attempt(agent, asked or conversation(), say, limits, None))[0]


@pytest.mark.parametrize(("turns_max", "window"), [(50, 50), (1, 1), (0, 1)])
def test_a_host_keeps_no_more_turns_than_may_be_sent(turns_max: int, window: int) -> None:
    agent = OpenAICompatible(Endpoint(model="m", history_turns_max=turns_max))  # type: ignore[call-arg]
    assert window_of(agent) == window


async def test_the_reply_is_streamed_piece_by_piece_as_it_comes() -> None:
    async with serving(hello_then_waits) as model:
        heard = asyncio.Event()
        answer = asyncio.create_task(answer_of(agent_of(model), say=lambda _: heard.set()))
        await heard.wait()
        assert not answer.done()
        model.may_go_on.set()
        assert await answer == "Hello!"
        assert model.bodies[0]["stream"] is True
        assert model.headers[0]["authorization"] == f"Bearer {SECRET}"


async def test_the_history_is_the_system_prompt_and_the_newest_turns_that_fit() -> None:
    async with serving(hello) as model:
        assert await answer_of(agent_of(model, system_prompt="Be kind."), conversation(2)) == "Hello, world"
        assert [(said["role"], said["content"]) for said in model.bodies[0]["messages"]] == [
            ("system", "Be kind."), ("user", "message 1"), ("assistant", "reply 1"), ("user", "message 2"),
            ("assistant", "reply 2"), ("user", "and now?"),
        ]  # fmt: skip
        for limits in ({"history_turns_max": 1}, {"history_chars_max": 20}):
            await answer_of(agent_of(model, **limits), conversation(2))
            assert [said["content"] for said in model.bodies[-1]["messages"]] == ["message 2", "reply 2", "and now?"]
        await answer_of(agent_of(model, history_turns_max=0, reply_tokens_max=7), conversation(2))
        assert [said["content"] for said in model.bodies[-1]["messages"]] == ["and now?"]
        assert model.bodies[-1]["max_completion_tokens"] == 7


async def test_a_busy_endpoint_is_asked_again_under_the_same_key_and_a_turn_that_is_run_again_has_another() -> None:
    async with serving(refuses(429), refuses(503), hello) as model:
        agent = agent_of(model)
        for _ in range(2):
            assert await answer_of(agent, conversation()) == "Hello, world"
        keys = [headers["idempotency-key"] for headers in model.headers]
        assert keys[0] == keys[1] == keys[2] != keys[3]
        assert "now" not in keys[0]


async def test_a_failure_that_the_endpoint_remembers_by_its_key_is_not_the_answer_to_a_repeat() -> None:
    failed: set[str] = set()

    async def once(model: Model, request: web.Request) -> web.StreamResponse:
        key = request.headers["idempotency-key"]
        if not failed or key in failed:
            failed.add(key)
            return await refuses(400)(model, request)
        return await hello(model, request)

    async with serving(once) as model:
        with pytest.raises(AgentFailed, match="400"):
            await answer_of(agent_of(model), conversation())
        assert await answer_of(agent_of(model), conversation()) == "Hello, world"


@pytest.mark.parametrize(("status", "requests"), [(500, 3), (429, 3), (401, 1), (400, 1)])
async def test_retries_are_bounded_and_the_answer_tells_no_secret(
    status: int, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(refuses(status)) as model:
        with pytest.raises(AgentFailed, match=f"answered {status}") as failed:
            await answer_of(agent_of(model))
        assert len(model.bodies) == requests
        assert SECRET not in str(failed.value) + caplog.text
        assert "and now?" not in caplog.text


@pytest.mark.parametrize("handler", [hello_then_breaks, hello_without_an_end])
async def test_what_ends_in_the_middle_is_no_reply_and_is_not_asked_for_again(handler: Handler) -> None:
    async with serving(handler) as model:
        with pytest.raises(AgentFailed):
            await answer_of(agent_of(model))
        assert len(model.bodies) == 1


@pytest.mark.parametrize("chunk", ["no JSON", "[]", "7", '{"choices": 1}', '{"choices": [{"delta": 3}]}', "{}"])
async def test_what_is_no_chat_completion_is_a_failed_turn_that_says_so(chunk: str) -> None:
    async with serving(sends(chunk)) as model:
        with pytest.raises(AgentFailed, match="model's") as failed:
            await answer_of(agent_of(model))
        assert "Error" not in str(failed.value)


async def test_a_retry_waits_as_long_as_the_endpoint_asks() -> None:
    async def busy(_: Model, __: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=429, headers={"retry-after": "1"})

    async with serving(busy, hello) as model:
        began = asyncio.get_running_loop().time()
        assert await answer_of(agent_of(model)) == "Hello, world"
        assert asyncio.get_running_loop().time() - began >= 1.0


async def test_a_silent_endpoint_is_given_up_in_time() -> None:
    async with serving(silent) as model:
        with pytest.raises(AgentFailed, match="in time"):
            await answer_of(agent_of(model, silence_timeout_s=0.05, retries_max=0))


async def test_nobody_at_the_address_is_an_answer_too() -> None:
    async with serving(hello) as model:
        pass
    with pytest.raises(AgentFailed, match="reached"):
        await answer_of(agent_of(model, retries_max=0))


@pytest.mark.parametrize("handler", [silent, hello_then_waits])
async def test_at_its_deadline_the_endpoint_sees_the_connection_closed(handler: Handler) -> None:
    async with serving(handler) as model:
        with pytest.raises(AgentTimedOut):
            await answer_of(agent_of(model), deadline_s=0.3)
        async with asyncio.timeout(5.0):
            await model.left.wait()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "OPENAI_MODEL: Field required"),
        ({"OPENAI_MODEL": "m", "OPENAI_BASE_URL": "localhost"}, "OPENAI_BASE_URL"),
        ({"OPENAI_MODEL": "m", "OPENAI_RETRIES_MAX": "many"}, "OPENAI_RETRIES_MAX"),
    ],
)
def test_what_is_not_set_up_is_said_at_the_start(
    environment: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=told) as refused:
        load_agent(PATH)
    assert "\n" not in refused.value.detail


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "actors.agents.openai_compatible")
    with pytest.raises(Misconfigured, match=r"pip install 'rehydra\[openai\]'"):
        load_agent(PATH)


async def test_a_host_with_this_agent_answers_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(hello) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        monkeypatch.setenv("OPENAI_MODEL", "m")
        life = HostLife(settings(agent={"path": PATH}), HostView)
        await life.start()
        try:
            assert (await chat(life.host.ref.address, "s", "one"))[1]["reply"] == "Hello, world"
            assert (await chat(life.host.ref.address, "s", "two"))[1]["turn_seq"] == 2
        finally:
            await life.end()
        assert [said["content"] for said in model.bodies[1]["messages"]] == ["one", "Hello, world", "two"]
