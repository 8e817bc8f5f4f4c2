"""The same chat service on LangGraph with its Redis checkpointer (``langgraph-checkpoint-redis``).

    REDIS_URL=redis://... uvicorn loadtest.baselines.graph_chat:api --port P --workers 2

A graph of one node, a thread for each session, one checkpoint a turn (``durability="exit"``, which is cheaper than the
default: none between the steps of a turn). Runs in the rivals' own environment (``loadtest.compare.environment``).

    REDIS_URL=redis://... python -m loadtest.baselines.graph_chat PREFIX SESSIONS HISTORY

writes talks of HISTORY turns, in one checkpoint each, for whoever wants to begin with long ones.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header
from langchain_core.messages import AIMessage, HumanMessage  # type: ignore[import-not-found, unused-ignore]
from langgraph.checkpoint.redis.aio import AsyncRedisSaver  # type: ignore[import-not-found, unused-ignore]
from langgraph.graph import END, START, MessagesState, StateGraph  # type: ignore[import-not-found, unused-ignore]
from pydantic import BaseModel

from loadtest.bench.agents import TIMES

AT_ONCE = 16
MESSAGE_BYTES = 200
ROOMY = {"max_connections": 1_000}
"""By default the client's pool has 100 connections and raises beyond them: 64 requests at one time are refused then."""
NODE = "agent"


class ChatRequest(BaseModel):
    """A message."""

    message: str
    stream: bool = False


def _answer(state: MessagesState) -> dict[str, list[Any]]:
    """The node."""
    return {"messages": [AIMessage(state["messages"][-1].content * TIMES, id=uuid.uuid4().hex)]}


@asynccontextmanager
async def opened() -> AsyncIterator[Any]:
    """The graph on the Redis that the environment names."""
    plan = StateGraph(MessagesState)
    plan.add_node(NODE, _answer)
    plan.add_edge(START, NODE)
    plan.add_edge(NODE, END)
    async with AsyncRedisSaver.from_conn_string(os.environ["REDIS_URL"], connection_args=ROOMY) as saver:
        yield plan.compile(checkpointer=saver)


@asynccontextmanager
async def _lifespan(service: FastAPI) -> AsyncIterator[None]:
    async with opened() as service.state.graph:
        yield


api = FastAPI(lifespan=_lifespan)


@api.post("/chat")
async def chat(request: ChatRequest, x_session_id: Annotated[str, Header()]) -> dict[str, Any]:
    """Load the thread, answer, write a checkpoint."""
    turn_id = f"r:{uuid.uuid4().hex}"
    sent = {"messages": [HumanMessage(request.message, id=turn_id)]}
    state = await api.state.graph.ainvoke(sent, _thread(x_session_id), durability="exit")
    said = state["messages"]
    told = {"turn_id": turn_id, "turn_seq": len(said) // 2, "reply": said[-1].content}
    return {"session_id": x_session_id, **told, "replayed": False}


def _thread(session_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": session_id}}


async def write(prefix: str, sessions: int, history: int) -> None:
    """Talks as if they had been led."""
    texts = [f"m{number:09d} ".ljust(MESSAGE_BYTES, "x") for number in range(1, history + 1)]
    said = [kind(text * times) for text in texts for kind, times in ((HumanMessage, 1), (AIMessage, TIMES))]
    async with opened() as graph:
        for first in range(0, sessions, AT_ONCE):
            names = [f"{prefix}-{number}" for number in range(first, min(first + AT_ONCE, sessions))]
            written = (graph.aupdate_state(_thread(name), {"messages": said}, as_node=NODE) for name in names)
            await asyncio.gather(*written)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
