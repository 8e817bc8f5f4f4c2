"""What ``python -m deploy.host`` and ``python -m deploy.edge`` share: settings, one line when it serves, and the end.

Settings come from the environment (``REHYDRA_STORE__URL`` and so on) or as one JSON object in the first argument.
SIGTERM and SIGINT let the part leave in good order; a second one ends a host at once. Exit codes: 0 left, 2
misconfigured (one line on stderr).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from pydantic_core import from_json, to_json

from actors.errors import Misconfigured
from actors.logs import write_logs
from actors.settings import Settings
from deploy.config import load

Live = Callable[[Settings], Coroutine[Any, Any, None]]


def run(name: str, live: Live) -> int:
    """Run one part of a deployment as this process, and return its exit code. ``name``: of its module and its log."""
    try:
        uvloop.run(_whole(name, live, sys.argv[1] if len(sys.argv) > 1 else "{}"))
    except Misconfigured as error:
        print(f"deploy.{name}: {error.detail}", file=sys.stderr)
        return 2
    return 0


def asked_to_end(*, again_kills: bool) -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT from now on. ``again_kills``: the second one finds the default handler."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask, loop, number if again_kills else None, asked)
    return asked


def serves(**shown: Any) -> None:
    """Print ``shown`` with this process's pid as one line of JSON: it serves."""
    print(to_json({"pid": os.getpid(), **shown}).decode(), flush=True)


async def _whole(name: str, live: Live, argument: str) -> None:
    settings = load(_named(argument))
    write_logs(settings.log, name)
    await live(settings)


def _named(argument: str) -> dict[str, Any]:
    try:
        groups = from_json(argument)
    except ValueError as error:
        raise Misconfigured(f"The first argument isn't JSON: {error}.") from error
    if not isinstance(groups, dict):
        raise Misconfigured('The first argument must be a JSON object, such as {"store": {"url": "redis://..."}}.')
    return groups


def _ask(loop: asyncio.AbstractEventLoop, last: signal.Signals | None, asked: asyncio.Event) -> None:
    if last is not None:
        # A person who asks twice doesn't want to wait.
        loop.remove_signal_handler(last)
        signal.signal(last, signal.SIG_DFL)
    asked.set()
