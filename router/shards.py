"""From a session id to its shard: one hash that Python and HAProxy agree on.

``shard_of`` is what the edge computes as ``xxh32,mod(16384)`` over the bytes of the id as they stand in the request
(DESIGN §2): ids are plain characters (``SESSION_ID_PATTERN``), so nothing is escaped on one side only. The number of
shards is fixed for ever: it is compiled into every map and every ring.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh32_intdigest

SHARDS: Final = 16_384
"""A power of two: enough that 64 slots are balanced (each has 256; with a quarter of them, chance alone gives one of
them a third more than its share), few enough that the whole map is swapped in 50 ms."""


def shard_of(session_id: str) -> int:
    """0 .. 16383, the same in every process and in HAProxy."""
    return xxh32_intdigest(session_id.encode()) % SHARDS
