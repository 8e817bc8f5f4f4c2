"""Is this server fit to keep sessions? Asked before a host takes its first turn, and when somebody asks if it is ready.

Each fault is one sentence (:class:`~actors.errors.Misconfigured`) that names the server, without its password, and what
to change. What can't be seen for want of rights is a warning in the log, as is a server that may forget.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from actors.errors import Misconfigured
from actors.stores.url import shown

log = logging.getLogger(__name__)
OLDEST: Final = (7, 0)
"""Oldest version of Redis whose commands the scripts use (Valkey reports one too, for its clients' sake)."""


class NotReached(Misconfigured):
    """Nobody answers at that address now."""


async def require_fit(url: str, timeout_s: float, warn: bool = True) -> None:
    """Misconfigured unless the server at ``url`` answers, lets us in, is new enough, writable, and never evicts."""
    try:
        client = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
    except ValueError as error:
        raise Misconfigured(f"store.url isn't one: {error}") from error
    try:
        info = await _info(client, shown(url), warn)
    finally:
        await client.aclose()
    if info is not None:
        _judge(info, shown(url), warn)


async def _info(client: Redis, where: str, warn: bool) -> dict[str, Any] | None:
    """What the server says of itself; None if it won't tell us."""
    try:
        await client.ping()
    except NoPermissionError:
        pass  # It let us in; a user without PING may still run the scripts.
    except (AuthenticationError, ResponseError) as error:
        raise Misconfigured(
            f"The store at {where} doesn't let us in ({error}): see user and password in store.url."
        ) from error
    except (RedisError, OSError) as error:
        raise NotReached(f"The store at {where} can't be reached: {error}") from error
    try:
        info: dict[str, Any] = await client.info()
    except (RedisError, OSError) as error:
        if warn:
            log.warning(
                "The store at %s doesn't say how it is set up (%s): make sure of maxmemory-policy noeviction.",
                where, error,
            )  # fmt: skip
        return None
    return info


def _judge(info: dict[str, Any], where: str, warn: bool) -> None:
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise Misconfigured(f"The store at {where} is Redis {version}; at least {OLDEST[0]}.{OLDEST[1]} is needed.")
    if info.get("redis_mode") == "cluster":
        raise Misconfigured(f"The store at {where} is a Redis Cluster, which isn't supported: name a single primary.")
    if info.get("role") == "slave":
        raise Misconfigured(f"The store at {where} is a replica, which takes no writes: name the primary in store.url.")
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        raise Misconfigured(
            f"The store at {where} evicts keys when memory is short (maxmemory-policy {policy}), which would lose"
            " sessions: set maxmemory-policy noeviction."
        )
    if warn and not int(info.get("aof_enabled", 0)):
        log.warning("The store at %s keeps no append-only file: a crash of it loses turns that were confirmed.", where)
