"""The composition root: where the session runtime, the router and Ray Serve meet. Nothing else imports all three.

``build`` is a Serve application builder: ``serve run deploy.app:build``, ``serve deploy deploy/serve.yaml``, and
``deploy/up`` all call it. SessionHost is the application's ingress, so Serve's own proxy reaches it; clients come by
the edge, straight to the listener that each host opens for itself. Edge rides along as an argument of the ingress,
which is how Serve takes it into the application.

It runs once, where the application is built, and the settings travel from there: hosts can't disagree about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from actors.replica import SessionHost, end_s
from actors.settings import Settings
from actors.stores import open_membership
from deploy.config import load
from router.edge.deployment import EdgeReplica
from router.routing import HostView

HOSTS = 3
"""Session hosts, unless ``args`` or the Serve config say otherwise."""

ONGOING_MAX = 100_000
"""Serve's own limit per replica, out of the way: hosts shed by the limits of their mailboxes and connections."""

HEALTH_PERIOD_S = 2.0
"""How soon Serve notices that a replica has died, and begins to start another."""

CPUS = 0.01
"""Claimed per replica: hosts wait more than they compute, and any number must fit where it is wanted."""


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application. ``args``: ``hosts``, and the settings by group (``{"store": {"url": ...}}``).

    Misconfigured, one sentence, if they don't fit together.
    """
    groups = dict(args)
    hosts = int(groups.pop("hosts", HOSTS))
    settings = load(groups)
    edge = _deployment(EdgeReplica, settings, name="Edge", num_replicas=1)
    ingress = _deployment(serve.ingress()(SessionHost), settings, name="SessionHost", num_replicas=hosts)
    if settings.edge.kind == "serve":
        return ingress.bind(settings, HostView)
    return ingress.bind(settings, HostView, edge.bind(settings, open_membership))


def _deployment(target: Any, settings: Settings, **options: Any) -> Any:
    return serve.deployment(target).options(
        max_ongoing_requests=ONGOING_MAX,
        ray_actor_options={"num_cpus": CPUS},
        health_check_period_s=HEALTH_PERIOD_S,
        # Serve looks for its own ongoing requests before it ends a host; they have come by its proxy, if at all.
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=end_s(settings),
        logging_config={"enable_access_log": False, "log_level": settings.log.level},
        **options,
    )
