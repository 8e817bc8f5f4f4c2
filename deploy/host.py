"""``python -m deploy.host``: one session host as a plain process, without Ray. It needs a Redis and nothing else.

Settings come from the environment (``REHYDRA_STORE__URL`` and so on) or as one JSON object in the first argument.
When the host serves it prints one line of JSON: pid, address, health_port, incarnation, slot. SIGTERM and SIGINT let
it leave in good order; a second one ends it at once. Exit codes: 0 left, 2 misconfigured (one line on stderr).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import uvloop
from pydantic_core import from_json, to_json

from actors.errors import Misconfigured
from actors.logs import write_logs
from actors.replica import HostLife
from deploy.config import load
from router.routing import HostView


async def live(argument: str) -> None:
    """One host's life, until a signal asks for its end."""
    settings = load(_named(argument))
    write_logs(settings.log, "host")
    life = HostLife(settings, HostView)
    await life.start()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _leave, loop, number, ended)
    print(to_json({"pid": os.getpid(), **life.shown()}).decode(), flush=True)
    await ended.wait()
    await life.end()


def _named(argument: str) -> dict[str, Any]:
    try:
        groups = from_json(argument)
    except ValueError as error:
        raise Misconfigured(f"The first argument isn't JSON: {error}.") from error
    if not isinstance(groups, dict):
        raise Misconfigured('The first argument must be a JSON object, such as {"store": {"url": "redis://..."}}.')
    return groups


def _leave(loop: asyncio.AbstractEventLoop, number: signal.Signals, ended: asyncio.Event) -> None:
    # The next one finds the default handler, which kills: a person who asks twice doesn't want to wait.
    loop.remove_signal_handler(number)
    signal.signal(number, signal.SIG_DFL)
    ended.set()


def main() -> int:
    try:
        uvloop.run(live(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    except Misconfigured as error:
        print(f"deploy.host: {error.detail}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
