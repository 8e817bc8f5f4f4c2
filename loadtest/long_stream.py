"""``python -m loadtest.long_stream --for-s 600``: streams of ten minutes, and everything that may change under them.

A stack of its own, a stream on each of three hosts, and meanwhile, evenly spread: a host more, the Edge replica
killed, that host taken away again, Serve's controller killed, HAProxy replaced by one with other settings together
with all hosts (a rolling update). Only the last may end streams, for it takes their own hosts: so it begins when they
have ``session.drain_stream_s`` left at most, and they have to be finished all the same. Exit code 1 if one was not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from loadtest.client import Answer, Client, Kind
from loadtest.lab.deployment import LOOK_S, Deployment, NotSo
from loadtest.lab.faults_ray import rolling_update
from loadtest.processes import alive
from loadtest.stack import NotUp, Stack, started

HOSTS = 3
DRAIN_S = 45.0
"""``session.drain_stream_s`` of the stack, above what the rolling update leaves of the streams."""
LAST_S = 30.0
"""How long before the end of the streams the rolling update begins."""
BEGIN_S = 30.0
TRIES_MAX = 200


async def begin_streams(client: Client, over_s: float) -> dict[str, asyncio.Task[Answer]]:
    """Slot -> a stream that has begun there. NotSo if some slot gets none."""
    found: dict[str, asyncio.Task[Answer]] = {}
    for number in range(TRIES_MAX):
        name = f"long-{number}"
        if (slot := (await client.chat(name, "where?")).slot) in found:
            continue
        found[slot] = asyncio.create_task(client.chat(name, "end", streams=True, metadata={"over_s": over_s}))
        async with asyncio.timeout(BEGIN_S):
            while not any(running.delta_at for running in client.running.values() if running.session == name):  # noqa: ASYNC110 - by other processes
                await asyncio.sleep(LOOK_S)
        if len(found) == HOSTS:
            return found
    raise NotSo(f"only {sorted(found)} got a stream")


async def kill(deployment: Deployment, actor: str) -> None:
    """SIGKILL, and wait until it is gone."""
    pid = deployment.actor_pid(actor)
    deployment.signal(pid, signal.SIGKILL)
    while alive(pid):  # noqa: ASYNC110 - by other processes
        await asyncio.sleep(LOOK_S)


async def scale(deployment: Deployment, hosts: int) -> None:
    """Have so many hosts, and wait for them."""
    await deployment.scale(hosts)
    await deployment.ready()


async def experiment(stack: Stack, for_s: float) -> dict[str, Any]:
    """The streams, the changes, and what became of both."""
    deployment = Deployment(stack, HOSTS)
    await deployment.ready()
    begun = time.monotonic()
    streams = await begin_streams(Client(stack.url, for_s + 2 * BEGIN_S), for_s)
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "a host more": lambda: scale(deployment, HOSTS + 1),
        "the Edge replica killed": lambda: kill(deployment, "ServeReplica:rehydra:Edge"),
        "a host less": lambda: scale(deployment, HOSTS),
        "the controller killed": lambda: kill(deployment, "ServeController"),
    }
    done = []
    for number, (name, change) in enumerate(changes.items(), 1):
        await asyncio.sleep(max(0.0, begun + number * (for_s - LAST_S) / (len(changes) + 1) - time.monotonic()))
        at_s = time.monotonic() - begun
        await change()
        running = sorted(slot for slot, stream in streams.items() if not stream.done())
        done.append({"change": name, "at_s": round(at_s, 1), "streams running after it": running})
        print(json.dumps(done[-1]), flush=True)
    await asyncio.sleep(max(0.0, begun + for_s - LAST_S - time.monotonic()))
    *_, seen = await rolling_update(deployment, {"session": {"idle_s": 301, "commit_patience_s": 16}}, {})
    done.append({"change": "a rolling update", "at_s": round(for_s - LAST_S, 1), "seen": seen})
    answers = {slot: await stream for slot, stream in streams.items()}
    torn = {slot: answer.why for slot, answer in answers.items() if answer.kind is not Kind.OK}
    return {"passed": not torn, "streams": len(streams), "of_s": for_s, "torn": torn, "changes": done}


async def run(for_s: float, port: int) -> dict[str, Any]:
    """On a stack of its own."""
    limit_s = str(for_s + 2 * BEGIN_S)
    settings = {
        "REHYDRA_AGENT__DEADLINE_S": limit_s,
        "REHYDRA_SESSION__REQUEST_WAIT_S": limit_s,
        "REHYDRA_SESSION__DRAIN_STREAM_S": str(DRAIN_S),
    }
    async with started(port, HOSTS, "loadtest.agents:lasting", "always", port + 1, settings=settings) as stack:
        return await experiment(stack, for_s)


def main() -> int:
    parser = argparse.ArgumentParser(prog="loadtest.long_stream", description=__doc__)
    parser.add_argument("--for-s", type=float, default=600.0, help="how long the streams are, seconds")
    parser.add_argument("--port", type=int, default=25_000 + random.SystemRandom().randrange(500) * 2)
    arguments = parser.parse_args()
    try:
        verdict = asyncio.run(run(arguments.for_s, arguments.port))
    except (NotUp, NotSo, TimeoutError, OSError) as error:
        print(f"loadtest.long_stream: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(verdict, indent=1))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
