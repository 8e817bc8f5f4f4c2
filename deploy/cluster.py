"""``python -m deploy.cluster``: a Ray cluster of this process's own, with the application on it, until SIGTERM.

A child of ``deploy.keeper``, to whom it reports on a pipe, one JSON object a line: ``{"step": ...}``,
``{"failed": ...}``, ``{"ready": ...}``. Ray ties all that it starts to the life of this process, so a SIGKILL of it
ends the cluster within seconds. The cluster has random ports, a folder and an access token of its own: it can't be
taken for another one, and doesn't take another one for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

from pydantic_core import to_json

from actors.agent import load_agent
from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores import open_store
from deploy.config import load
from deploy.nodes import Nodes

APPLICATION = "rehydra"
OBJECT_STORE_BYTES = 80_000_000
"""About the least that Ray allows. Nothing here goes through it."""
TEND_S = 0.25
"""Time between two looks at the nodes."""


class Report:
    """What the stack is told."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def say(self, **what: Any) -> None:
        try:
            print(to_json(what).decode(), file=self._pipe, flush=True)
        except BrokenPipeError:
            pass  # The stack has died; the kernel is about to end this process too.


def check(settings: Settings) -> None:
    """Misconfigured for whatever would stop every host from starting: one line now, not three tracebacks later."""
    load_agent(settings.agent.path)
    if settings.store.url.startswith("memory:"):
        raise Misconfigured("store.url: several hosts can't share memory://; set REDIS_URL, or leave it unset.")

    async def knock() -> None:
        sessions, membership = await open_store(settings, whole=True)
        await sessions.aclose()
        membership.close()

    asyncio.run(knock())


def run(options: argparse.Namespace, settings: Settings, report: Report) -> None:
    """Start all of it and return when it was told to end."""
    import ray  # noqa: PLC0415 - whoever is misconfigured needn't wait for Ray
    from ray import serve  # noqa: PLC0415

    ended = threading.Event()
    ray.init(
        address="local",
        # No CPU: hosts find no room on the head, as it should be where there are other nodes.
        num_cpus=0 if options.nodes else max(4, os.cpu_count() or 1),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=bool(options.dashboard_port),
        dashboard_port=options.dashboard_port or None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        namespace=APPLICATION,
        _temp_dir=str(options.temp_dir),
    )
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    nodes = Nodes(options.nodes, ray.get_runtime_context().gcs_address, options.temp_dir.parent, options.logs)
    report.say(step="Ray is up; starting the edge and the hosts")
    behind_edge = settings.edge.kind == "haproxy"
    serve.start(
        # Clients come by the edge; Serve's own proxy would be one process more that nobody asks.
        proxy_location="Disabled" if behind_edge else "HeadOnly",
        http_options={"host": settings.edge.bind, "port": settings.edge.port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    from deploy.app import build  # noqa: PLC0415

    # Whoever was started before the others had joined would all be on the first.
    while sum(node["Alive"] for node in ray.nodes()) <= options.nodes and not ended.wait(TEND_S):
        nodes.tend()
    serve.run(
        build({"hosts": options.hosts}),
        name=APPLICATION,
        route_prefix="/",
        # So that hosts can be added and taken away through the dashboard, when there is one.
        external_scaler_enabled=True,
    )
    report.say(ready=True)
    while not ended.wait(TEND_S):
        nodes.tend()
    serve.shutdown()
    ray.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy.cluster")
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--temp-dir", type=Path, required=True)
    parser.add_argument("--dashboard-port", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=0, help="raylets beside the head, for the hosts")
    parser.add_argument("--logs", type=Path, default=Path(), help="folder for what the nodes print")
    parser.add_argument("--report-to", type=int, required=True, help="file descriptor")
    options = parser.parse_args()
    with os.fdopen(options.report_to, "w") as pipe:
        report = Report(pipe)
        try:
            settings = load()
            check(settings)
            report.say(step="settings, agent and store are fine; starting Ray")
            run(options, settings, report)
        except Misconfigured as error:
            report.say(failed=error.detail)
            return 2
        except Exception as error:
            logging.getLogger("rehydra").exception("the cluster ended")
            report.say(failed=f"{type(error).__name__}: {error}", unforeseen=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
