"""Planted bugs of the membership's scripts, tried on a real server."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import BEAT, EVICT, JOIN, LEAVE, MEMBERS, one

MEMBERSHIP: Final = (
    one(
        "lua: evict takes the slot from whoever has it by now",
        EVICT,
        "if redis.call('HGET', KEYS[1], host) == ARGV[1] then",
        "if redis.call('HEXISTS', KEYS[1], 'slot:' .. ARGV[1]) == 1 then",
    ),
    one(
        "lua: evict leaves the slot taken", EVICT, "HDEL', KEYS[1], host, 'slot:' .. ARGV[1])", "HDEL', KEYS[1], host)"
    ),
    one(
        "lua: join takes a slot that is occupied",
        JOIN,
        "redis.call('HSETNX', KEYS[1], 'slot:' .. slot, ARGV[2]) == 1",
        "redis.call('HSET', KEYS[1], 'slot:' .. slot, ARGV[2]) >= 0",
    ),
    one(
        "lua: who joins again gets a second slot",
        JOIN,
        "if redis.call('HEXISTS', KEYS[1], host) == 0 then",
        "if true then",
    ),
    one(
        "lua: leave gives the first slot back, whosever it is",
        LEAVE,
        "local slot = redis.call('HGET', KEYS[1], host)\n",
        "local slot = redis.call('HGET', KEYS[1], host) and 'slot-0'\n",
    ),
    one("lua: leave keeps the slot", LEAVE, "HDEL', KEYS[1], host, 'slot:' .. slot)", "HDEL', KEYS[1], host)"),
    one("lua: leave is no change of the ring", LEAVE, "  changed()\n", ""),
    one("lua: a beat doesn't count", BEAT, "tonumber(string.match(last, '^%d+')) + 1 or now", "0 or now"),
    one(
        "lua: whoever beats is told to be listed",
        BEAT,
        "local listed = redis.call('HEXISTS', KEYS[1], 'host:' .. incarnation)",
        "local listed = 1",
    ),
    one(
        "lua: whoever beats is told to wait for a slot",
        BEAT,
        "local waits = redis.call('HEXISTS', KEYS[1], 'spare:' .. incarnation)",
        "local waits = 1",
    ),
    one(
        "lua: another table under the same ring_version",
        MEMBERS,
        "known == 0 and now_ms() or known + 1",
        "known == 0 and now_ms() or known",
    ),
)
