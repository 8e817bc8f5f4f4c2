"""Claim and load, timed without HTTP: a process that is measured, and imports what it measures.

    python -m loadtest.bench.claim_subject REDIS_URL PREFIX SESSIONS TURNS

What a host does before a session's first turn: one call of the store, and what it brings put into memory. Asked for
over HTTP, the same stands beside a whole turn and the waits of two more processes. Each of the sessions is claimed,
loaded and released, one after the other, several times; ``kinds.claim`` reads one line of JSON.
"""

from __future__ import annotations

import json
import secrets
import sys
import time

import uvloop

from actors.model import HostRef, SessionKey
from actors.settings import Settings
from actors.stores.base import Granted
from actors.stores.redis import RedisStore
from actors.transcript import Transcript
from loadtest.bench.traffic import quantiles_ms

PASSES = 5
"""How often each session: 1,000 claims of 200 sessions, so that ten are above the p99."""
NOBODY = HostRef("claim-subject", "slot-9", "127.0.0.1:9")


def _nothing(delta_bytes: int) -> None:
    """No host counts these bytes."""


async def timed(store: RedisStore, name: str, turns: int) -> tuple[float, float]:
    """Seconds of the call, and until everything was in memory."""
    key = SessionKey(name)
    begun = time.perf_counter()
    granted = await store.claim(key, secrets.token_hex(8), NOBODY)
    answered = time.perf_counter()
    if not isinstance(granted, Granted):
        raise SystemExit(f"{name}: {granted}, where the lease was to be free")
    transcript = Transcript(_nothing, None)
    transcript.load(granted.checkpoint)
    loaded = time.perf_counter()
    if len(transcript) != turns:
        raise SystemExit(f"{name}: {len(transcript)} turns, where {turns} were to be loaded")
    await store.release(key, granted.lease, transcript.turn_seq, transcript.last_turn_id)
    return answered - begun, loaded - begun


async def main(url: str, prefix: str, sessions: int, turns: int) -> None:
    store = await RedisStore.open(Settings.load({"store": {"url": url}}))
    try:
        spent = [await timed(store, f"{prefix}-{number}", turns) for _ in range(PASSES) for number in range(sessions)]
    finally:
        await store.aclose()
    calls_s, all_s = zip(*spent, strict=True)
    print(json.dumps({"call_ms": quantiles_ms(list(calls_s)), "load_ms": quantiles_ms(list(all_s)), "n": len(spent)}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
