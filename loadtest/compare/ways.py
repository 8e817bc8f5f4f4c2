"""The ways that are compared: what each is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Balance(StrEnum):
    """Who gets which of the two servers."""

    ROUND_ROBIN = "round_robin"
    IP_HASH = "ip_hash"
    COOKIE = "cookie"


class Store(StrEnum):
    """What is started beside the servers."""

    REDIS = "redis"
    REDIS_STACK = "redis-stack"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class Way:
    """One row of the table. ``guide``: its number in the guide's list; ``serves``: its name in ``baselines.ways``,
    empty for those that are programs of their own."""

    name: str
    guide: str
    about: str
    serves: str = ""
    balance: Balance = Balance.ROUND_ROBIN
    stores: tuple[Store, ...] = ()

    @property
    def set_up(self) -> str:
        """In a few words, for whoever reads the figures."""
        if not self.serves:
            return OWN[self.name]
        behind = {
            Balance.ROUND_ROBIN: "round robin",
            Balance.IP_HASH: "ip_hash with real_ip",
            Balance.COOKIE: "hash of a cookie, consistent",
        }
        stores = "".join(f"; {STORES[store]}" for store in self.stores)
        pool = "; pool of 4 to 20 connections a server" if Store.POSTGRES in self.stores else ""
        return f"2 uvicorn processes behind nginx ({behind[self.balance]}){stores}{pool}"


STORES: Final = {
    Store.REDIS: "Redis (the bundled Valkey, appendfsync always)",
    Store.REDIS_STACK: "Redis 8 with RedisJSON and RediSearch (appendfsync always)",
    Store.POSTGRES: "PostgreSQL (synchronous_commit on)",
}

REHYDRA: Final = "rehydra"
RAY_ROUTER: Final = "ray-router"
OWN: Final = {
    REHYDRA: "deploy/up: 2 hosts on Ray Serve behind HAProxy; Redis (the bundled Valkey, appendfsync always)",
    RAY_ROUTER: "2 replicas on Ray Serve behind its own proxy, 100 requests at once for each; JSON value in Redis",
}

_REDIS, _POSTGRES = (Store.REDIS,), (Store.POSTGRES,)

WAYS: Final = (
    Way(REHYDRA, "–", "one owner for each session, fenced, one append a turn"),
    Way("in-memory", "1", "a dict in each server's memory", "in-memory"),
    Way("ip-hash", "2", "the same, clients stay by their address", "in-memory", Balance.IP_HASH),
    Way("cookie", "2", "the same, clients stay by a cookie", "in-memory", Balance.COOKIE),
    Way("redis-json", "3", "GET, append, SETEX of one JSON value", "redis-json", stores=_REDIS),
    Way("postgres-json", "4", "SELECT, append, UPDATE of one JSON row", "postgres-json", stores=_POSTGRES),
    Way("base64-state", "6", "the client has the talk, as base64", "base64-state"),
    Way("sealed-state", "6", "the client has the talk, encrypted and signed", "sealed-state"),
    Way("hybrid-cache", "7", "Redis in front of PostgreSQL", "hybrid-cache", stores=(Store.REDIS, Store.POSTGRES)),
    Way("compare-and-set", "8", "a version in the JSON value, 3 tries", "compare-and-set", stores=_REDIS),
    Way("process-locks", "9", "a lock for each session in each process", "process-locks", stores=_REDIS),
    Way("redis-lock", "10", "SET NX EX 30, else 409", "redis-lock", stores=_REDIS),
    Way(RAY_ROUTER, "16", "Ray's ConsistentHashRouter, JSON value and process locks"),
    Way(
        "langgraph-redis",
        "17",
        "LangGraph, Redis checkpointer, one checkpoint a turn",
        "langgraph-redis",
        stores=(Store.REDIS_STACK,),
    ),
    Way(
        "langgraph-postgres",
        "17",
        "LangGraph, PostgreSQL checkpointer, one checkpoint a turn",
        "langgraph-postgres",
        stores=_POSTGRES,
    ),
)
BY_NAME: Final = {way.name: way for way in WAYS}
