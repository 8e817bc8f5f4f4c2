"""Who holds which session, as the store has it: the field ``incarnation`` of every key that ends in ``:lease``, save
those with a field ``deleted``: a tombstone names its last holder, which has nothing to give back any more.

Whoever changes these names in the runtime finds every planned scale-down accused of leases that nobody releases.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from loadtest.redis_wire import ask

SCRIPT = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*}:lease')) do
  local lease = redis.call('HMGET', key, 'incarnation', 'deleted')
  if lease[1] and not lease[2] then
    found[key] = lease[1]
  end
end
return cjson.encode(found)
"""


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Callable[[], Awaitable[dict[str, str]]]]:
    """Ask for the holders, each time anew."""
    yield partial(holders, url)


async def holders(url: str) -> dict[str, str]:
    """Session -> incarnation of its holder; sessions that nobody holds are left out. OSError as from ``ask``."""
    found = json.loads(await ask(url, "EVAL", SCRIPT, "0"))
    # An empty table of Lua is an empty list or an empty object, as the encoder likes.
    return {_session(key): str(host) for key, host in dict(found or {}).items() if host}


def _session(key: str) -> str:
    """``prefix:{tenant:session}:lease`` -> session."""
    return key.rpartition("}")[0].partition("{")[2].partition(":")[2]
