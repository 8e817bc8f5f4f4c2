"""``python -m deploy.host``: one session host as a plain process, without Ray. It needs a store and nothing else.

When the host serves it prints one line of JSON: pid, address, health_port, incarnation, slot. Settings, signals and
exit codes: ``deploy.foreground``.
"""

from __future__ import annotations

import sys

from actors.replica import HostLife
from actors.settings import Settings
from deploy.foreground import asked_to_end, run, serves
from router.routing import HostView


async def live(settings: Settings) -> None:
    """One host's life, until a signal asks for its end."""
    life = HostLife(settings, HostView)
    await life.start()
    asked = asked_to_end(again_kills=True)
    serves(**life.shown())
    await asked.wait()
    await life.end()


if __name__ == "__main__":
    sys.exit(run("host", live))
