"""What is done in one round of a measurement, by kind; each gives figures as JSON, or raises :class:`Unmeasured`.

``turns``      so many seconds of load: throughput, latency, CPU by part, the store's commands and bytes
``calls``      system calls per turn and part, under ``strace -c``
``rehydrate``  the first turn of sessions that are in no memory, one after the other, beside the next turns of the same
``claim``      claim and load of such sessions by the product's own code, without HTTP, in a process of its own
``takeover``   a host is killed while nobody asks; then one turn in every session
``residents``  what sessions that are in memory and idle weigh
``passivate``  how soon they leave, and what the host gives back
``ring``       the ring's own times and balance
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.bench.counters import info, per_turn, snapshot, traced
from loadtest.bench.load import LoadFailed, Spec, load
from loadtest.bench.plan import Measurement, Point
from loadtest.bench.systems import Live
from loadtest.bench.traffic import MESSAGE_BYTES
from loadtest.client import Unreadable
from loadtest.processes import resident_bytes
from loadtest.stack import ROOT

TURN_BYTES = MESSAGE_BYTES + 1000
"""Message and reply."""
TRACED_S = 2.0
LEAVE_S = 120.0
LOOK_S = 0.25
WARM_SESSIONS = 50


class Unmeasured(Exception):
    """There is no figure; the text says why."""


def spec_of(live: Live, point: Point, prefix: str, seconds: float = 0.0) -> Spec:
    """The load of that point, against that system."""
    kind = "instant" if live.instant else "stream" if point.stream else "json"
    verify = live.scripts and not live.instant
    return Spec(
        live.url,
        point.connections,
        point.sessions,
        prefix,
        history=point.history,
        seconds=seconds,
        kind=kind,
        zipf=point.zipf,
        verify=verify,
    )


def sound(found: dict[str, Any]) -> dict[str, Any]:
    """The outcome, if every answer was right."""
    if found["errors"] or not found["turns"]:
        raise Unmeasured(f"{found['errors']} errors in {found['turns']} turns: {found['examples'][:3]}")
    return found


async def turns(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """Throughput, and what a turn costs."""
    await live.seeds.make(wanted.point.history, prefix, wanted.point.sessions)
    async with load(spec_of(live, wanted.point, prefix, wanted.seconds)) as running:
        await running.warm()
        parts = live.parts()
        before = await snapshot(parts, live.redis_url)
        measured = sound(await running.measured())
        after = await snapshot(parts, live.redis_url)
        if wrong := await running.verified():
            raise Unmeasured(f"acknowledged, and not in the log: {wrong[:3]}")
    cores = measured["generator_s"] / measured["seconds"]
    return measured | per_turn(before, after, measured["turns"], scripts=live.scripts) | {"generator_cores": cores}


async def calls(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """System calls per turn: of each part, and by name."""
    if shutil.which("strace") is None:
        raise Unmeasured("strace isn't installed")
    await live.seeds.make(wanted.point.history, prefix, wanted.point.sessions)
    async with load(spec_of(live, wanted.point, prefix, TRACED_S)) as running:
        await running.warm()
        async with traced(live.parts()) as found:
            measured = sound(await running.measured())
    per = {name: {call: count / measured["turns"] for call, count in each.items()} for name, each in found.items()}
    sums = {name: sum(each.values()) for name, each in per.items()}
    if not any(sums.values()):
        raise Unmeasured("strace counted nothing: this user may not trace")
    most = {name: dict(sorted(each.items(), key=lambda item: -item[1])[:6]) for name, each in per.items()}
    return {"calls_per_turn": sums | {"all": sum(sums.values())}, "most": most, "turns": measured["turns"]}


async def rehydrate(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """First turns: claim, load and commit."""
    await live.seeds.make(wanted.point.history, prefix, wanted.point.sessions)
    parts = live.parts()
    before = await snapshot(parts, live.redis_url)
    async with load(spec_of(live, wanted.point, prefix, wanted.seconds)) as running:
        first = await running.warm()
        after = await snapshot(parts, live.redis_url)
        again = sound(await running.measured())
    if list(first["by_state"]) != ["rehydrated"]:
        raise Unmeasured(f"these sessions were to be loaded, and were {list(first['by_state'])}")
    resident_ms = again["latency_ms"]["p50"]
    load_ms = {name: first["latency_ms"][name] - resident_ms for name in ("p50", "p90", "p99", "max")}
    return {
        "first_ms": first["latency_ms"],
        "resident_ms": again["latency_ms"],
        "load_ms": load_ms,
        **per_turn(before, after, first["turns"], scripts=True),
    }


async def claim(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """Claim and load alone."""
    point = wanted.point
    await live.seeds.make(point.history, prefix, point.sessions)
    asked = (live.redis_url or "", prefix, str(point.sessions), str(point.history))
    return await _said_by("loadtest.bench.claim_subject", *asked)


async def takeover(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """SIGKILL, and at once a turn in every session; a half of them, about, had the host that is gone."""
    assert live.bare is not None
    await live.seeds.make(wanted.point.history, prefix, wanted.point.sessions)
    spec = spec_of(live, wanted.point, prefix)
    async with load(Spec(**{**_fields(spec), "again": True})) as running:
        await running.warm()
        live.bare.hosts[0].signal(signal.SIGKILL)
        measured = sound(await running.measured())
    moved = measured["by_state"].get("rehydrated", {})
    if not moved:
        raise Unmeasured("no session was taken over")
    return {"moved": moved["n"], "moved_ms": moved, "all_s": measured["seconds"], "latency_ms": measured["latency_ms"]}


def _fields(spec: Spec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in Spec.__slots__}


async def residents(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """Memory per session beyond its text. Some sessions before warm what every host has once."""
    point = wanted.point
    weighed = await _warmed(live, point, prefix)
    after = weighed["after_bytes"]
    per_session = (after - weighed["before_bytes"]) / point.sessions
    text = TURN_BYTES * (point.history + 1)
    memory = await info(live.redis_url or "", "memory")
    return {
        "bytes_per_session": per_session,
        "text_bytes": text,
        "beyond_text_bytes": per_session - text,
        "host_bytes": after,
        "redis_bytes": int(memory["used_memory"]),
        "sessions": point.sessions,
        "latency_ms": weighed["latency_ms"],
        "seconds": weighed["seconds"],
    }


async def passivate(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """From the last turn until nobody is in memory any more."""
    assert live.bare is not None
    weighed = await _warmed(live, wanted.point, prefix)
    host, begun = live.bare.hosts[0], time.monotonic()
    before = await snapshot(live.parts(), live.redis_url)
    while (await host.stats())["resident"]:
        if time.monotonic() > begun + LEAVE_S:
            raise Unmeasured(f"sessions were still in memory after {LEAVE_S:g} s")
        await asyncio.sleep(LOOK_S)
    seconds = time.monotonic() - begun
    spent = per_turn(before, await snapshot(live.parts(), live.redis_url), wanted.point.sessions, scripts=True)
    left = resident_bytes([host.pid])
    grown = weighed["after_bytes"] - weighed["before_bytes"]
    given_back = (weighed["after_bytes"] - left) / grown if grown > 0 else 0.0
    return {"all_s": seconds, "given_back": given_back, "host_bytes": left, **spent}


async def _warmed(live: Live, point: Point, prefix: str) -> dict[str, Any]:
    assert live.bare is not None
    few = Point(history=point.history, sessions=WARM_SESSIONS)
    host = live.bare.hosts[0]
    await live.seeds.make(few.history, f"{prefix}-few", few.sessions)
    async with load(spec_of(live, few, f"{prefix}-few")) as running:
        await running.warm()
    await live.seeds.make(point.history, prefix, point.sessions)
    before = resident_bytes([host.pid])
    async with load(spec_of(live, point, prefix)) as running:
        found = await running.warm()
    return found | {"before_bytes": before, "after_bytes": resident_bytes([host.pid])}


async def ring(live: Live, wanted: Measurement, prefix: str) -> dict[str, Any]:
    """Look-up, change and balance of the product's ring, which times itself in a process of its own."""
    return await _said_by("loadtest.bench.ring_subject")


async def _said_by(program: str, *arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, *arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise Unmeasured(f"{program}: exit code {process.returncode}")
    return dict(json.loads(said))


Kind = Callable[[Live, Measurement, str], Awaitable[dict[str, Any]]]
KINDS: dict[str, Kind] = {
    each.__name__: each for each in (turns, calls, rehydrate, claim, takeover, residents, passivate, ring)
}

FAILURES = (Unmeasured, LoadFailed, Unreadable, psutil.Error, OSError, TimeoutError)
"""What leaves one measurement without a figure, and lets the others go on."""
