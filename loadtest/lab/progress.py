"""What a person sees while an experiment runs: a line every few seconds, and one for each fault."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from loadtest.lab.deployment import Deployment

EVERY_S = 5.0


class Progress:
    """Follows the clients' history as it grows. The clients write in blocks, so the counts are a little behind."""

    def __init__(self, history: Path, deployment: Deployment, begun: float, for_s: float) -> None:
        self._path = history
        self._deployment = deployment
        self._begun = begun
        self._for_s = for_s
        self._position = 0
        self._acknowledged = 0
        self._unknown = 0

    def say(self, words: str) -> None:
        """One line, with the seconds since the load began."""
        print(f"{time.monotonic() - self._begun:6.1f} s  {words}", flush=True)

    async def watch(self) -> None:
        """A line every ``EVERY_S``, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            waits = self._look()
            late = f"p99 {1000 * waits[int(0.99 * (len(waits) - 1))]:5.0f} ms" if waits else "no answers"
            on_ring = sorted({slot for slot in self._deployment.snapshots[-1].slots if slot})
            self.say(
                f"of {self._for_s:g} s: {self._acknowledged} turns acknowledged ({len(waits) / EVERY_S:.0f}/s, {late}),"
                f" {self._unknown} unknown, on the ring: {' '.join(on_ring)}"
            )

    def _look(self) -> list[float]:
        """How long each turn took that was acknowledged since the last look, seconds, in order of size."""
        waits = []
        with self._path.open("rb") as file:
            file.seek(self._position)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                self._position += len(raw)
                line = json.loads(raw)
                if line["is"] == "ok":
                    waits.append(line["at"] - line["due"])
                self._unknown += line["is"] == "info"
        self._acknowledged += len(waits)
        return sorted(waits)
