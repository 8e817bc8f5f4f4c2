"""The frame of every rival: one HTTP interface, one agent, and a turn that is found again by its Idempotency-Key."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

from loadtest.agents import counted_reply

Turn = dict[str, Any]
"""``turn_seq``, ``turn_id``, ``message``, ``reply``: what a talk is a list of, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a client says. ``client_state``: what it was given with the last reply, if it was given anything."""

    session_id: str
    turn_id: str
    text: str
    over_s: float = 0.0
    client_state: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The turn of a message. ``client_state``: what the client has to bring with its next one."""

    turn: Turn
    replayed: bool
    client_state: str = ""


class Way(ABC):
    """Where talks are kept and who may write them. One for each server process."""

    @classmethod
    @abstractmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        """Connected to the stores at these URLs, for as long as the server runs."""
        yield NotImplemented

    @abstractmethod
    async def say(self, message: Message) -> Said:
        """One turn. HTTPException if it can't be had."""

    @abstractmethod
    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        """All turns; none if there is no such session."""


async def next_turn(talk: Sequence[Turn], message: Message) -> tuple[Turn, bool]:
    """The turn that the message becomes after this talk, and whether it was there already."""
    for turn in talk:
        if turn["turn_id"] == message.turn_id:
            return turn, True
    past = ((turn["message"], turn["reply"]) for turn in talk)
    reply = await counted_reply(past, message.text, message.over_s)
    return {"turn_seq": len(talk) + 1, "turn_id": message.turn_id, "message": message.text, "reply": reply}, False


class Chat(BaseModel):
    """Body of ``POST /chat``."""

    message: str
    metadata: dict[str, Any] = {}
    client_state: str = ""


class Reading(BaseModel):
    """Body of ``POST /sessions/{id}/turns``, for clients that have the talk themselves."""

    client_state: str


class Server:
    """One server process: the way that it goes, from its start to its end."""

    def __init__(self, way: type[Way], stores: Sequence[str]) -> None:
        self._kind = way
        self._stores = stores
        self._way: Way

    def app(self) -> FastAPI:
        """The service."""
        api = FastAPI(lifespan=self._lifespan)
        api.post("/chat")(self.chat)
        api.get("/sessions/{session_id}/turns")(self.turns)
        api.post("/sessions/{session_id}/turns")(self.turns_of_client)
        api.get("/healthz")(self.healthz)
        return api

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._kind.opened(self._stores) as self._way:
            yield

    async def chat(
        self,
        request: Chat,
        x_session_id: Annotated[str, Header()],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> dict[str, Any]:
        """One turn."""
        turn_id = f"k:{idempotency_key}" if idempotency_key else f"r:{uuid.uuid4().hex}"
        over_s = float(request.metadata.get("over_s", 0))
        said = await self._way.say(Message(x_session_id, turn_id, request.message, over_s, request.client_state))
        told = {name: said.turn[name] for name in ("turn_id", "turn_seq", "reply")}
        return {"session_id": x_session_id, **told, "replayed": said.replayed, "client_state": said.client_state}

    async def turns(self, session_id: str, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """A page of the talk; 404 if there is none."""
        return _page(session_id, await self._way.talk(session_id, ""), after, limit)

    async def turns_of_client(
        self, session_id: str, request: Reading, after: int = 0, limit: int = 100
    ) -> dict[str, Any]:
        """The same of a talk that the client has."""
        return _page(session_id, await self._way.talk(session_id, request.client_state), after, limit)

    async def healthz(self) -> dict[str, str]:
        """Whether the server listens."""
        return {"status": "ok"}


def _page(session_id: str, talk: Sequence[Turn], after: int, limit: int) -> dict[str, Any]:
    if not talk:
        raise HTTPException(404)
    page = [turn for turn in talk if turn["turn_seq"] > after][:limit]
    return {"session_id": session_id, "turn_seq": len(talk), "turns": page}
