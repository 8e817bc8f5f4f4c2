"""``python -m deploy.edge``: one edge as a plain process, without Ray: HAProxy, and the loop that keeps it true.

It needs the Redis of the hosts that it stands before. When it serves it prints one line of JSON: pid, url, run_dir. Its
end in good order takes HAProxy away; if it is killed, HAProxy runs on, and the next edge of that port adopts it.
Settings, signals and exit codes: ``deploy.foreground``.
"""

from __future__ import annotations

import sys

from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores import open_membership
from deploy.foreground import asked_to_end, run, serves
from router.edge.admin import EdgeFailed
from router.edge.deployment import Edge, run_dir_of


async def live(settings: Settings) -> None:
    """One edge's life, until a signal asks for its end. Misconfigured if HAProxy can't be had."""
    # Before HAProxy is there, and for good: told twice, by a signal to its group and by its parent, the edge must still
    # take HAProxy away. That takes seconds at most.
    asked = asked_to_end(again_kills=False)
    edge = Edge(settings, open_membership)
    try:
        await edge.start()
        url = f"http://{settings.edge.bind}:{settings.edge.port}"
        serves(url=url, run_dir=run_dir_of(settings))
        await asked.wait()
    except EdgeFailed as error:
        raise Misconfigured(f"HAProxy doesn't start: {error}") from error
    finally:
        await edge.aclose(last=True)


if __name__ == "__main__":
    sys.exit(run("edge", live))
