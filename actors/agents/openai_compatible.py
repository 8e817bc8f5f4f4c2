"""An agent that asks a model: any endpoint that speaks OpenAI's chat completions, streamed.

``agent: actors.agents.openai_compatible:OpenAICompatible``, with the extra ``[openai]`` installed. It is set up by
environment variables of the hosts, under the names that such endpoints are usually given (:class:`Endpoint`).

The session's committed turns are the history, newest first as far as the limits go. A request that is repeated (a lost
answer, a retry before the first byte) carries the same ``Idempotency-Key``; each call of the agent has its own: an
endpoint that knows a key answers as it did before, also with a failure. Once a byte of the reply has come nothing is
retried here: what is broken off is a failed turn, of which nothing is committed. When the attempt is cancelled (its
deadline, a host that leaves), the connection is closed, which is how such endpoints are told to stop.

Deliberately absent: tools, images, and token counts. An agent that needs them is better written against the client.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from actors.agent import Conversation
from actors.errors import AgentFailed

try:
    import httpx2
    import openai
except ImportError as missing:
    raise ImportError(f"{missing}: it comes with the extra, pip install 'rehydra[openai]'") from None

log = logging.getLogger("rehydra.agent")

NO_KEY: Final = "none"
"""Sent where no key is set: an endpoint of one's own often wants none, and the client insists on one."""


class Endpoint(BaseSettings):
    """What the agent asks, and how long it waits. Each is the environment variable ``OPENAI_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="OPENAI_", frozen=True, extra="ignore")

    base_url: str = Field("https://api.openai.com/v1", pattern="^https?://", description="Where /chat/completions is.")
    api_key: SecretStr = Field(SecretStr(NO_KEY), min_length=1, description="Sent as the bearer token.")
    model: str = Field(min_length=1, description="The model's name, as the endpoint knows it.")
    system_prompt: str = Field("", description="The first message of every request; empty = none.")
    history_turns_max: int = Field(50, ge=0, description="Committed turns that are sent along, the newest.")
    history_chars_max: int = Field(
        60_000, ge=0, description="Characters of those turns at most; older ones are left out."
    )
    reply_tokens_max: int = Field(0, ge=0, description="Sent as max_completion_tokens; 0 = the endpoint's own limit.")
    connect_timeout_s: float = Field(5.0, gt=0, description="How long a connection may take.")
    silence_timeout_s: float = Field(60.0, gt=0, description="How long the endpoint may send nothing.")
    retries_max: int = Field(2, ge=0, le=10, description="Repeats of a request before the first byte of its answer.")


class OpenAICompatible:
    """The agent. ValueError, in one sentence, if the environment doesn't name what to ask."""

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self._endpoint = endpoint or endpoint_of_environment()
        self.window = max(1, self._endpoint.history_turns_max)
        """What isn't sent along needn't be in memory."""
        self._client = openai.AsyncOpenAI(
            api_key=self._endpoint.api_key.get_secret_value(),
            base_url=self._endpoint.base_url,
            max_retries=self._endpoint.retries_max,
            timeout=httpx2.Timeout(self._endpoint.silence_timeout_s, connect=self._endpoint.connect_timeout_s),
        )

    async def __call__(self, conversation: Conversation) -> AsyncIterator[str]:
        finished = False
        try:
            async with await self._ask(conversation) as stream:
                async for chunk in stream:
                    for choice in chunk.choices[:1]:
                        finished = finished or choice.finish_reason is not None
                        if choice.delta.content:
                            yield choice.delta.content
        except openai.APIStatusError as error:
            raise _failed(f"The model's endpoint answered {error.status_code}.", conversation, error) from None
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise _failed("The model's endpoint didn't answer in time.", conversation, error) from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise _failed("The model's endpoint can't be reached, or broke off.", conversation, error) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise _failed("The model's endpoint sent what is no chat completion.", conversation, error) from None
        if not finished:
            raise _failed("The model's answer ended before it was finished.", conversation)

    async def _ask(self, conversation: Conversation) -> openai.AsyncStream[Any]:
        limits: dict[str, Any] = {}
        if self._endpoint.reply_tokens_max:
            limits["max_completion_tokens"] = self._endpoint.reply_tokens_max
        stream: openai.AsyncStream[Any] = await self._client.chat.completions.create(
            model=self._endpoint.model,
            messages=list(self._messages(conversation)),
            stream=True,
            extra_headers={"Idempotency-Key": uuid.uuid4().hex},
            **limits,
        )
        return stream

    def _messages(self, conversation: Conversation) -> Any:
        """The system prompt, the newest turns that fit, and the message."""
        endpoint = self._endpoint
        if endpoint.system_prompt:
            yield {"role": "system", "content": endpoint.system_prompt}
        first, chars = len(conversation.turns), 0
        for turn in reversed(conversation.turns[-endpoint.history_turns_max :] if endpoint.history_turns_max else ()):
            chars += len(turn.message) + len(turn.reply)
            if chars > endpoint.history_chars_max:
                break
            first -= 1
        for turn in conversation.turns[first:]:
            yield {"role": "user", "content": turn.message}
            yield {"role": "assistant", "content": turn.reply}
        yield {"role": "user", "content": conversation.message}


def endpoint_of_environment() -> Endpoint:
    """ValueError names each variable that is missing or wrong, and no secret."""
    try:
        return Endpoint()
    except ValidationError as error:
        faults = "; ".join(
            f"OPENAI_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors()
        )
        raise ValueError(f"{faults} (see actors/agents/openai_compatible.py)") from None


def _failed(text: str, conversation: Conversation, error: Exception | None = None) -> AgentFailed:
    """What the client is told. Neither it nor the log gets the endpoint's own words: they may repeat the key, or the
    message."""
    where = {"session": str(conversation.key), "turn_id": conversation.turn_id, "error": type(error).__name__}
    log.warning("model failed: %s", text, extra=where)
    return AgentFailed(text)
