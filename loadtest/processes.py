"""Which process listens where, and whether it lives: how an experiment finds its victims and sees that they died."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]


def listener_pid(address: str) -> int | None:
    """The process that listens at ``host:port`` on this machine, or None."""
    host, _, port = address.rpartition(":")
    for connection in psutil.net_connections(kind="tcp"):
        here = connection.laddr
        if connection.status == psutil.CONN_LISTEN and here.port == int(port) and here.ip in (host, "0.0.0.0", "::"):
            return int(connection.pid) if connection.pid else None
    return None


def alive(pid: int) -> bool:
    """Whether the process runs, or could run again: a zombie has ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
