"""The supervisor's side of ``deploy.cluster``: start it under a keeper, hear what it reports, let it leave.

Its reports come through a pipe of their own, because Ray and the application write to the usual streams as they like.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from deploy.folder import ROOT
from deploy.keeper import AT_ONCE, END_MAX_S, kept
from deploy.processes import Process, find


class ClusterChild:
    """One child process. Start it inside the event loop, from the main thread."""

    def __init__(self, log: Path) -> None:
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """``step``, ``failed`` or ``ready``, in order."""
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Begin; what it has to say comes in ``reports``."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "deploy.cluster", *arguments, "--report-to", str(writing)]
        with open(self.log, "wb") as log:
            self._child = subprocess.Popen(
                kept(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                pass_fds=(writing,),
                # Ctrl-C is for the supervisor alone, which then ends all of it in order.
                start_new_session=True,
            )
        os.close(writing)
        os.set_blocking(reading, False)
        asyncio.get_running_loop().add_reader(reading, self._read, reading, bytearray())

    @property
    def session(self) -> Process | None:
        """Who leads the session in which Ray's own processes are; None before the start, and after the end."""
        return find(self._child.pid) if self._child is not None else None

    def ended(self) -> int | None:
        """Its exit code if it was started, has ended, and has nothing more to say."""
        if self._child is None or not self.reports.empty():
            return None
        return self._child.poll()

    async def leave(self, wait_s: float, impatient: asyncio.Event) -> None:
        """Have Serve end the hosts in good order, then all that is left. A limit ends the waiting, and so does an
        impatient person; returns when nothing below the keeper lives."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        gone = asyncio.create_task(asyncio.to_thread(_gone_within, child, wait_s + END_MAX_S))
        if wait_s:
            child.terminate()
            hurry = asyncio.create_task(impatient.wait())
            await asyncio.wait((gone, hurry), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if child.poll() is None:
            child.send_signal(AT_ONCE)
        if not await gone:
            child.kill()
        child.wait()

    def _read(self, reading: int, rest: bytearray) -> None:
        received = os.read(reading, 65_536)
        if not received:
            asyncio.get_running_loop().remove_reader(reading)
            os.close(reading)
        rest += received
        for line in _lines(rest):
            self.reports.put_nowait(from_json(line))


def _gone_within(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _lines(rest: bytearray) -> Iterator[bytes]:
    """Whole lines, taken out of ``rest``."""
    while (end := rest.find(b"\n")) >= 0:
        line = bytes(rest[:end])
        del rest[: end + 1]
        yield line
