"""The same chat service without Ray and without sessions in memory: FastAPI, and the whole talk rewritten per message.

    REDIS_URL=redis://... uvicorn loadtest.baselines.rewriting:api --port P --workers 2

What most services of this kind do, written to do well: any worker answers any session, reads its talk, has the agent
answer, and writes the talk, in the JSON of the standard library. Its cost grows with the talk, and two requests of one
session at one time lose a turn.
"""

import json
import os
import uuid
from typing import Annotated, Any

from fastapi import FastAPI, Header
from pydantic import BaseModel
from redis.asyncio import Redis

from loadtest.bench.agents import TIMES

api = FastAPI()
redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), max_connections=1000)
"""The client's own limit of 100 is an error for whoever comes 101st."""


class ChatRequest(BaseModel):
    """A message."""

    message: str
    stream: bool = False


@api.post("/chat")
async def chat(request: ChatRequest, x_session_id: Annotated[str, Header()]) -> dict[str, Any]:
    """Read the talk, answer, write the talk."""
    text = await redis.get(f"talk:{x_session_id}")
    turns: list[dict[str, Any]] = json.loads(text) if text else []
    turn = {
        "turn_seq": len(turns) + 1,
        "turn_id": f"r:{uuid.uuid4().hex}",
        "message": request.message,
        "reply": request.message * TIMES,
    }
    await redis.set(f"talk:{x_session_id}", json.dumps([*turns, turn]))
    told = {name: turn[name] for name in ("turn_id", "turn_seq", "reply")}
    return {"session_id": x_session_id, **told, "replayed": False}
