"""One blocking connection to Redis: for beat threads, and for the simulation's runs against a real server.

A call is sent once, waited for up to ``timeout_s``, and never repeated, save that a script which the server has
forgotten is loaded and called again: that call wasn't begun. Threads may share it; their calls queue up.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from actors.stores.redis_errors import as_store_error, is_unknown_script
from actors.stores.scripts import Call

A = TypeVar("A")


class SyncTransport:
    """Sends calls to the server at ``url`` (``redis://``, ``rediss://``, ``unix://``)."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._lock = threading.Lock()
        self._client = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            single_connection_client=False,
            max_connections=1,
            retry=Retry(NoBackoff(), 0),
        )

    def call(self, call: Call[A]) -> A:
        """The decoded answer. StoreUnavailable if there was none: the outcome is then unknown."""
        with self._lock:
            try:
                reply = self._evalsha(call)
            except redis.RedisError as error:
                raise as_store_error(error) from error
        return call.decode(reply)

    def close(self) -> None:
        """Free the connection. Idempotent; a later call opens another."""
        with self._lock:
            self._client.close()

    def _evalsha(self, call: Call[Any]) -> Any:
        command = ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not is_unknown_script(error):
                raise
            self._client.script_load(call.script.source)
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
