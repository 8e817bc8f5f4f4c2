"""Speaking to a running HAProxy through its admin socket.

One connection per command, with a limit on the time and on the answer. HAProxy reports errors in prose and without a
status: each command here knows which answers mean success, and every other is an error that carries HAProxy's words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from actors.errors import RehydraError
from router.edge.config import ANY_HOST, BACKEND

BACKENDS: Final = (ANY_HOST, BACKEND)
"""Told in this order: ``BACKEND`` is the one whose state is looked at, so what failed halfway is done again."""
ANSWER_BYTES_MAX: Final = 8 << 20
_MAP_LINES_MAX: Final = 1_000
"""Lines of a map per command: what must fit HAProxy's smallest allowed buffer."""
_MAINTENANCE: Final = 0x01 | 0x02 | 0x20 | 0x40
_DRAIN: Final = 0x08 | 0x10
"""Flags of srv_admin_state, HAProxy management guide, "show servers state"."""


class EdgeFailed(RehydraError):
    """HAProxy doesn't answer, or refuses a command."""

    code = "edge-failed"
    title = "The edge doesn't do what it was told"
    status = 503
    retryable = True


class Admission(StrEnum):
    """What a server is allowed, in HAProxy's words: new requests; only those that run; nothing."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as HAProxy sees it. ``up``: its health checks pass, or haven't failed yet."""

    slot: str
    address: str
    port: int
    check_port: int
    admission: Admission
    up: bool


class Admin:
    """The admin socket of one HAProxy. Every method raises EdgeFailed; commands may be repeated without harm."""

    def __init__(self, socket_path: str, timeout_s: float = 2.0) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    async def command(self, text: str) -> str:
        """Send one command, return HAProxy's answer without surrounding white space."""
        first = text.split("\n", 1)[0]
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(text)
        except TimeoutError:
            raise EdgeFailed(f"HAProxy didn't answer {first!r} within {self._timeout_s} s.") from None
        except (OSError, EOFError) as error:
            raise EdgeFailed(f"HAProxy can't be asked {first!r}: {error}") from error

    async def info(self) -> Mapping[str, str]:
        """``show info``: HAProxy's own account of itself."""
        pairs = (line.partition(":") for line in (await self.command("show info")).splitlines())
        return {name: value.strip() for name, _, value in pairs}

    async def servers(self) -> Mapping[str, ServerState]:
        """slot -> its server, in the order of the configuration."""
        lines = (await self.command(f"show servers state {BACKEND}")).splitlines()
        if len(lines) < 2 or not lines[1].startswith("# "):
            raise EdgeFailed(f"HAProxy shows no servers: {' '.join(lines)[:200]!r}")
        names = lines[1][2:].split()
        rows = (dict(zip(names, line.split(), strict=False)) for line in lines[2:] if line.strip())
        return {row["srv_name"]: _server_state(row) for row in rows}

    async def place(self, slot: str, address: str, port: int, check_port: int) -> None:
        """Point the server at a host and its health check at that host's. What ran on the old address runs on."""
        for backend in BACKENDS:
            placed = r".*(changed from|no need to change).*"
            await self._expect(f"set server {backend}/{slot} addr {address} port {port}", placed)
            await self._expect(f"set server {backend}/{slot} check-port {check_port}")

    async def trust(self, slot: str) -> None:
        """Take the server for healthy until a check says otherwise: what failed was its predecessor's."""
        for backend in BACKENDS:
            await self._expect(f"set server {backend}/{slot} health up")

    async def admit(self, slot: str, admission: Admission) -> None:
        """Let it have new requests, finish those it has, or (``maint``) neither be checked nor have any."""
        for backend in BACKENDS:
            await self._expect(f"set server {backend}/{slot} state {admission.value}")

    async def end_requests(self, slot: str, backend: str) -> None:
        """End all that runs on the server. HAProxy repeats elsewhere what was sent and has got no byte of an answer."""
        await self._expect(f"shutdown sessions server {backend}/{slot}")

    async def swap_map(self, map_path: str, lines: Sequence[str]) -> None:
        """Replace the whole map in one step: no request sees a mixture of two rings."""
        prepared = re.fullmatch(r"New version created: (\d+)", await self.command(f"prepare map {map_path}"))
        if prepared is None:
            raise EdgeFailed(f"HAProxy has no map {map_path}.")
        number = prepared[1]
        for start in range(0, len(lines), _MAP_LINES_MAX):
            batch = "\n".join(lines[start : start + _MAP_LINES_MAX])
            await self._expect(f"add map @{number} {map_path} <<\n{batch}\n")
        await self._expect(f"commit map @{number} {map_path}")

    async def _expect(self, text: str, pattern: str = "") -> None:
        answer = await self.command(text)
        if re.fullmatch(pattern, answer, re.DOTALL) is None:
            raise EdgeFailed(f"HAProxy refused {text.splitlines()[0]!r}: {answer[:200]}")

    async def _exchange(self, text: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_BYTES_MAX)
        try:
            writer.write(text.encode("ascii") + b"\n")
            await writer.drain()
            answer = bytearray()
            while piece := await reader.read(65_536):
                answer += piece
                if len(answer) > ANSWER_BYTES_MAX:
                    raise EOFError(f"its answer has more than {ANSWER_BYTES_MAX} bytes")
            return answer.decode("ascii", "replace").strip()
        finally:
            writer.close()


def _server_state(row: Mapping[str, str]) -> ServerState:
    flags = int(row["srv_admin_state"])
    admission = Admission.MAINT if flags & _MAINTENANCE else Admission.DRAIN if flags & _DRAIN else Admission.READY
    return ServerState(
        row["srv_name"],
        row["srv_addr"],
        int(row["srv_port"]),
        int(row["srv_check_port"]),
        admission,
        up=row["srv_op_state"] != "0",
    )
