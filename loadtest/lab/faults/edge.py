"""The edge and what follows the cluster for it: the Edge replica, Serve's controller, HAProxy itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from loadtest.lab.deployment import NotSo, until
from loadtest.lab.faults.kinds import EVERYBODY, Done, Fault, Ground, Need, kind
from loadtest.processes import alive

BACK_S = 60.0
"""Ray starts another one within this time, also on a busy machine."""

BROKEN = frozenset({"0"})


@kind(stops_map=True)
async def kill_edge_replica(ground: Ground, fault: Fault, done: Done) -> None:
    """HAProxy goes on without it; its successor finds it by its socket."""
    await _kill_and_replace(ground, done, lambda: ground.deployment.actor_pid("ServeReplica:rehydra:Edge"))


@kind()
async def kill_controller(ground: Ground, fault: Fault, done: Done) -> None:
    """Nobody is restarted or scaled until Ray has started another one."""
    await _kill_and_replace(ground, done, lambda: ground.deployment.actor_pid("ServeController"))


@kind(errors=BROKEN)
async def kill_haproxy(ground: Ground, fault: Fault, done: Done) -> None:
    """Every connection of a client breaks, and new ones are refused until the Edge has started it again."""
    await _kill_and_replace(ground, done, ground.deployment.edge_pid)


@kind(needs=frozenset({Need.SEVERAL_EDGES}))
async def kill_edge_of_several(ground: Ground, fault: Fault, done: Done) -> None:
    """SIGKILL of an edge and its HAProxy at one moment, as if its machine had gone: what ran on it is repeated by nginx
    on another one, and nobody sees it. Over when there is an edge again."""
    deployment, edges = ground.deployment, ground.deployment.edges
    assert edges is not None
    port = ground.random.choice(edges.ports)
    victims = edges.processes(port)
    done.pid, done.slot = victims[0], EVERYBODY
    if len(victims) < 2:
        raise NotSo(f"there is no edge at port {port}")
    await deployment.until_busy(EVERYBODY)
    done.at = min([deployment.signal(pid, signal.SIGKILL) for pid in victims])
    await until(lambda: not any(map(alive, victims)), BACK_S, f"processes {victims} live")
    await edges.start(port)
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"the edge at port {port} was gone, and there again after {done.effect_s} s"


async def _kill_and_replace(ground: Ground, done: Done, pid: Callable[[], int]) -> None:
    done.pid, done.slot = pid(), EVERYBODY
    await ground.deployment.until_busy(EVERYBODY)
    done.at = ground.deployment.signal(done.pid, signal.SIGKILL)
    found = 0

    def replaced() -> bool:
        nonlocal found
        try:
            found = pid()
        except NotSo:
            return False
        return found != done.pid and alive(found) and not alive(done.pid)

    await until(replaced, BACK_S, f"nobody came in the place of process {done.pid}")
    done.effect_s = round(time.monotonic() - done.at, 2)
    done.seen = f"pid {done.pid} -> {found} after {done.effect_s} s"
