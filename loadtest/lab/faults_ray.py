"""Faults and changes that go through Ray: a node killed, a node drained, every host replaced by a changed config.

What is asked of Ray is asked as anybody would: ``ray drain-node``, and the REST API behind ``serve deploy``. A node is
a raylet with all that descends from it; the one that has the edge is the head, and is left alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.client import Unreadable
from loadtest.lab.deployment import LOOK_S, Deployment, NotSo
from loadtest.processes import alive
from loadtest.stack import ROOT
from loadtest.wire import Address, Broken, request

EFFECT_S = 60.0
"""How long the effect may take to show: a drain or an update replaces hosts one after the other."""
APPLICATIONS = "/api/serve/applications/"
RAYLET = "raylet"

Ring = dict[str, dict[str, Any]]


async def kill_node(deployment: Deployment, chance: random.Random) -> tuple[float, int, list[str], str]:
    """SIGKILL of a raylet and all its workers at one moment. When, whom, the slots struck, and what was seen."""
    ring = await deployment.ring()
    raylet = chance.choice(nodes(ring))
    struck = slots_on(raylet, ring)
    victims = [raylet, *raylet.children(recursive=True)]
    at = time.monotonic()
    kill(deployment, victims)
    await _until(lambda: not any(alive(victim.pid) for victim in victims), f"the node of raylet {raylet.pid} lives")
    return at, raylet.pid, struck, f"raylet {raylet.pid} and {len(victims) - 1} processes below it are gone"


async def drain_node(
    deployment: Deployment, chance: random.Random, deadline_s: float
) -> tuple[float, int, list[str], str]:
    """Ray's drain of a node within ``deadline_s``, then its end, as an autoscaler would see to. As ``kill_node``."""
    ring = await deployment.ring()
    raylet = chance.choice(nodes(ring))
    struck = slots_on(raylet, ring)
    node_id = await _node_of(deployment, int(ring[struck[0]]["pid"]))
    at = time.monotonic()
    await _ray(
        deployment,
        *("drain-node", "--address", _gcs_address(raylet), "--node-id", node_id),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "an experiment"),
        *("--deadline-remaining-seconds", f"{deadline_s:.0f}"),
    )
    left = {str(ring[slot]["host"]) for slot in struck}
    await until_left(deployment, left, deadline_s)
    hosts = [int(ring[slot]["pid"]) for slot in struck]
    await _until(lambda: not any(alive(host) for host in hosts), f"hosts {hosts} live", deadline_s)
    took_s = time.monotonic() - at
    if alive(raylet.pid):
        # It has nothing left to lose; whoever drains a node takes it away then.
        try:
            kill(deployment, [raylet, *raylet.children(recursive=True)])
        except psutil.NoSuchProcess:
            pass  # It ended between the question and the list.
    return at, raylet.pid, struck, f"hosts {sorted(left)} had ended {took_s:.1f} s after the drain began"


def kill(deployment: Deployment, victims: Sequence[psutil.Process]) -> None:
    """SIGKILL of those that still live, a parent before its children: a raylet's workers go with it, at any moment
    from then on, also between the look at whose they are and the signal."""
    for victim in victims:
        try:
            deployment.signal(victim.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass


async def rolling_update(
    deployment: Deployment, args: dict[str, Any], options: dict[str, Any]
) -> tuple[float, int, list[str], str]:
    """Deploy the application anew with ``args``: if they differ, Serve replaces every host. As ``kill_node``.

    ``options``: Serve's of the hosts' deployment, such as ``max_surge_percent``.
    """
    ring = await deployment.ring()
    at = time.monotonic()
    application = {
        "name": "rehydra",
        "route_prefix": "/",
        "import_path": "deploy.app:build",
        "external_scaler_enabled": True,
        "args": {"hosts": deployment.hosts, **args},
        "deployments": [{"name": "SessionHost", **options}],
    }
    await ask_serve(deployment, "PUT", {"applications": [application]})
    left = {str(host["host"]) for host in ring.values()}
    await until_left(deployment, left, EFFECT_S + 20 * len(ring))
    await deployment.ready()
    return at, 0, sorted(ring), f"{len(left)} hosts were replaced within {time.monotonic() - at:.1f} s"


# --- what there is ----------------------------------------------------------------------------------------------------


def nodes(ring: Ring) -> list[psutil.Process]:
    """The raylets that have hosts, by pid. NotSo if there is only one: whoever is left must have somewhere to go."""
    found = {_raylet_of(int(host["pid"])) for host in ring.values()}
    if len(found) < 2:
        raise NotSo(f"the hosts are on {len(found)} node")
    return sorted(found, key=lambda raylet: raylet.pid)


def slots_on(raylet: psutil.Process, ring: Ring) -> list[str]:
    """The slots of this node's hosts."""
    return sorted(slot for slot, host in ring.items() if _raylet_of(int(host["pid"])) == raylet)


def _raylet_of(pid: int) -> psutil.Process:
    for parent in psutil.Process(pid).parents():
        if parent.name() == RAYLET:
            return parent
    raise NotSo(f"process {pid} has no raylet above it")


def _gcs_address(raylet: psutil.Process) -> str:
    option = "--gcs-address="
    return next(str(word).removeprefix(option) for word in raylet.cmdline() if word.startswith(option))


async def _node_of(deployment: Deployment, pid: int) -> str:
    """Ray's id of the node on which that replica runs."""
    document = await ask_serve(deployment, "GET")
    (application,) = document["applications"].values()
    for each in application["deployments"].values():
        for replica in each["replicas"]:
            if replica["pid"] == pid:
                return str(replica["node_id"])
    raise NotSo(f"Serve knows no replica with pid {pid}")


async def until_left(deployment: Deployment, incarnations: set[str], wait_s: float) -> None:
    """Return once none of those hosts is on the ring. NotSo after ``wait_s``."""
    deadline, on_it = time.monotonic() + wait_s, incarnations
    while on_it:
        if time.monotonic() > deadline:
            raise NotSo(f"{sorted(on_it)} are still on the ring after {wait_s:g} s")
        await asyncio.sleep(LOOK_S)
        try:
            on_it = incarnations & {str(host["host"]) for host in (await deployment.ring()).values()}
        except Unreadable:
            pass  # Whoever was asked has just left.


async def _until(condition: Any, otherwise: str, wait_s: float = EFFECT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotSo(f"{otherwise} after {wait_s:g} s")
        await asyncio.sleep(LOOK_S)


# --- asking Ray -------------------------------------------------------------------------------------------------------


async def ask_serve(deployment: Deployment, method: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Serve's REST API, as ``serve deploy`` and ``serve status`` use it. NotSo if it refuses."""
    stack = deployment.stack
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.token}"}
    body = json.dumps(document).encode() if document is not None else b""
    try:
        async with request(Address.of(stack.dashboard), method, APPLICATIONS, headers, body) as reply:
            text = (await reply.body()).decode(errors="replace")
    except Broken as error:
        raise NotSo(f"{method} {APPLICATIONS}: {error}") from error
    if reply.status != 200:
        raise NotSo(f"{method} {APPLICATIONS}: {reply.status} {text[:300]}")
    return dict(json.loads(text)) if text.startswith("{") else {}


async def _ray(deployment: Deployment, *arguments: str) -> None:
    """Ray's command line. NotSo if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ray.scripts.scripts", *arguments),
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": deployment.stack.token},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise NotSo(f"ray {arguments[0]}: {said.decode(errors='replace')[-500:]}")
