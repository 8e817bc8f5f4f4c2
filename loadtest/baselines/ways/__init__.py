"""The ways of the guides, one module for each family, and their names."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from loadtest.baselines.chat import Way

MODULES: Final = {
    "in-memory": "in_memory:InMemory",
    "redis-json": "redis_json:RedisJson",
    "process-locks": "redis_json:ProcessLocks",
    "compare-and-set": "redis_guarded:CompareAndSet",
    "redis-lock": "redis_guarded:RedisLock",
    "postgres-json": "postgres_json:PostgresJson",
    "hybrid-cache": "postgres_json:HybridCache",
    "base64-state": "client_state:Base64State",
    "sealed-state": "client_state:SealedState",
    "langgraph-redis": "graph_redis:LangGraphRedis",
    "langgraph-postgres": "graph_postgres:LangGraphPostgres",
}
"""Name of a way -> module and class. Loaded on demand: each needs packages that the others don't."""


def way_named(name: str) -> type[Way]:
    """The class. KeyError if there is none."""
    module, _, kind = MODULES[name].partition(":")
    found: type[Way] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found
