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

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from actors.errors import Misconfigured
from actors.replica import SessionHost, end_s
from actors.settings import PUBLIC_SECRET, Settings, is_loopback
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
"""Claimed per host: hosts wait more than they compute, and any number must fit where it is wanted."""

ON_THE_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""Where the edge runs, as Serve's controller does: clients know one address, and a head that has no CPUs to give has
room for it all the same."""


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application. ``args``: ``hosts``, and the settings by group (``{"store": {"url": ...}}``).

    Misconfigured, one sentence, if they don't fit together, or not this cluster: Serve shows it in ``serve status``.
    """
    groups = dict(args)
    hosts = int(groups.pop("hosts", HOSTS))
    settings = load(groups)
    require_safe_on(_machines(), settings)
    edge = _deployment(
        EdgeReplica,
        settings,
        name="Edge",
        num_replicas=1,
        ray_actor_options=ON_THE_HEAD,
        # The new one first: it adopts HAProxy, which the last to end would take away with all that runs on it.
        max_surge_percent=100,
    )
    ingress = _deployment(serve.ingress()(SessionHost), settings, name="SessionHost", num_replicas=hosts)
    if settings.edge.kind == "serve":
        # Serve's own proxy is the way in: it asks the same ring.
        routing = RequestRouterConfig(
            request_router_class="router.serve_adapter.RingRouter",
            request_router_kwargs={"vnodes": settings.ring.vnodes},
        )
        return ingress.options(request_router_config=routing).bind(settings, HostView)
    return ingress.bind(settings, HostView, edge.bind(settings, open_membership))


def require_safe_on(machines: int, settings: Settings) -> None:
    """Misconfigured if a cluster of that many machines can't, or mustn't, run with these settings."""
    if machines <= 1:
        return
    if settings.edge.secret.get_secret_value() == PUBLIC_SECRET:
        raise Misconfigured(
            f"edge.secret is the public default, and Ray runs on {machines} nodes: set one of your own, the same for"
            " all (openssl rand -base64 32), under args in deploy/serve.yaml or as REHYDRA_EDGE__SECRET."
        )
    if is_loopback(settings.http.bind):
        raise Misconfigured(
            f"http.bind is {settings.http.bind}, and Ray runs on {machines} nodes: hosts couldn't reach each other;"
            ' set it to "", which is each node\'s own address.'
        )


def _machines() -> int:
    """Machines of the cluster on which this runs; 0 if it runs on none (``serve build``, tests).

    Several raylets of one machine have its loopback in common, so they count once.
    """
    if not ray.is_initialized():
        return 0
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def _deployment(target: Any, settings: Settings, **options: Any) -> Any:
    return serve.deployment(target).options(
        max_ongoing_requests=ONGOING_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        # Serve looks for its own ongoing requests before it ends a host; they have come by its proxy, if at all.
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=end_s(settings),
        logging_config={"enable_access_log": False, "log_level": settings.log.level},
        **{"ray_actor_options": {"num_cpus": CPUS}, **options},
    )
