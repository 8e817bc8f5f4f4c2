"""A port, claimed before anybody listens on it: of two starts at one time the second must know of the first.

HAProxy opens the port seconds after the start has begun, and two HAProxies of one user would even share it. So the
supervisor binds a name in the kernel's abstract space, which like ports is one per network namespace, needs no file,
and is free again as soon as its last holder dies, however that happens.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from deploy.folder import NotPossible

_ASKERS_MAX = 1024


class PortClaim:
    """The right to start a stack on ``port``, from ``take`` on for as long as this process lives."""

    def __init__(self, port: int) -> None:
        self._name = f"\0rehydra-port-{port}"
        self._socket: socket.socket | None = None

    def take(self) -> bool:
        """False if another process has it."""
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(self._name)
        except OSError as error:
            claim.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise NotPossible(f"The port can't be claimed ({error.strerror}).") from error
        self._hold(claim)
        return True

    def adopt(self, handle: int) -> None:
        """Take over what another process has taken and left to this one."""
        self._hold(socket.socket(fileno=handle))

    def _hold(self, claim: socket.socket) -> None:
        # Nobody is ever answered. The kernel tells who asks the pid of whoever listened last: this process.
        claim.listen(_ASKERS_MAX)
        self._socket = claim

    def holder(self) -> int:
        """The pid of whoever has it; 0 if nobody has, or it can't be known."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker, contextlib.suppress(OSError):
            asker.setblocking(False)
            asker.connect(self._name)
            size = struct.calcsize("3i")
            pid, _, _ = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            return int(pid)
        return 0

    @property
    def handle(self) -> int:
        """Its file descriptor, for a child that adopts it."""
        assert self._socket is not None, "take() comes first"
        return self._socket.fileno()

    def drop(self) -> None:
        """Give it up; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
