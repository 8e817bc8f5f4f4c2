"""Ways 8 and 10: the JSON value of ``redis_json``, guarded by a version, or by a lock in Redis."""

from __future__ import annotations

import json
import uuid
from typing import Any

from fastapi import HTTPException
from redis.asyncio import Redis

from loadtest.baselines.chat import Message, Said, Turn, next_turn
from loadtest.baselines.ways.redis_json import EXPIRE_S, RedisJson

TRIES_MAX = 3
LOCK_S = 30

SET_IF_VERSION = """
local now = redis.call('GET', KEYS[1])
local version = now and cjson.decode(now)['version'] or 0
if version ~= tonumber(ARGV[1]) then return 0 end
redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
return 1
"""
"""The version that was read -> whether the new value is the talk now."""


class CompareAndSet(RedisJson):
    """A version in the value: a turn whose talk has changed meanwhile is done anew, three times in all, then 409."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._set_if_version = redis.register_script(SET_IF_VERSION)

    async def say(self, message: Message) -> Said:
        for _ in range(TRIES_MAX):
            version, talk = await self._read(message.session_id)
            turn, known = await next_turn(talk, message)
            if known or await self._write(message.session_id, version, [*talk, turn]):
                return Said(turn, known)
        raise HTTPException(409, "The conversation was changed at the same time.")

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        return (await self._read(session_id))[1]

    async def _read(self, session_id: str) -> tuple[int, list[Turn]]:
        value: Any = await self._redis.get(f"talk:{session_id}")
        document: dict[str, Any] = json.loads(value) if value else {"version": 0, "turns": []}
        return int(document["version"]), list(document["turns"])

    async def _write(self, session_id: str, version: int, talk: list[Turn]) -> bool:
        value = json.dumps({"version": version + 1, "turns": talk})
        return bool(await self._set_if_version(keys=[f"talk:{session_id}"], args=[version, value, EXPIRE_S]))


class RedisLock(RedisJson):
    """SET NX EX 30 before the turn and DEL after it, whoever holds it then; 409 while somebody else has it."""

    async def say(self, message: Message) -> Said:
        lock = f"lock:{message.session_id}"
        if not await self._redis.set(lock, uuid.uuid4().hex, nx=True, ex=LOCK_S):
            raise HTTPException(409, "Another request of this conversation is in progress.")
        try:
            return await super().say(message)
        finally:
            await self._redis.delete(lock)
