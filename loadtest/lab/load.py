"""A scenario's load: Locust in a process of its own, from its first message to its last answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.lab.deployment import LOOK_S, NotSo
from loadtest.lab.scenario import Scenario
from loadtest.stack import ROOT

BEGIN_S = 30.0
END_S = 90.0


@dataclass(frozen=True, slots=True)
class Talking:
    """Load that runs. ``begun``: when, monotonic seconds."""

    begun: float
    _locust: asyncio.subprocess.Process
    _for_s: float

    async def end(self) -> list[str]:
        """Wait until the last user has got an answer. What went wrong with Locust itself."""
        async with asyncio.timeout(self._for_s + END_S):
            code = await self._locust.wait()
        return [f"locust: exit code {code}, see locust.log"] if code else []


@asynccontextmanager
async def talking(url: str, scenario: Scenario, out: Path, talks: Sequence[Sequence[str]]) -> AsyncIterator[Talking]:
    """Users talk to whoever is at ``url``, in the words of ``talks`` if there are any; their history is ``users.jsonl``
    in ``out``. NotSo if they don't begin."""
    plan = out / "plan.json"
    about = scenario.model_dump(mode="json") | {"talks": talks}
    files = {"history": str(out / "users.jsonl"), "begun": str(out / "begun")}
    (out / "begun").unlink(missing_ok=True)
    plan.write_text(json.dumps(about | files), encoding="utf-8")
    with (out / "locust.log").open("w") as log:
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"),
            *("--host", url, "--stop-timeout", "70", "--exit-code-on-error", "0"),
            *("--csv", str(out / "locust")),
            env=os.environ | {"REHYDRA_LOADTEST_PLAN": str(plan), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        begun = await _begun(locust, out / "begun")
        print(f"{scenario.load.users} users talk for {scenario.for_s:g} s; seed {scenario.seed}", flush=True)
        yield Talking(begun, locust, scenario.for_s)
    finally:
        if locust.returncode is None:
            locust.kill()
            await locust.wait()


async def _begun(locust: asyncio.subprocess.Process, path: Path) -> float:
    deadline = time.monotonic() + BEGIN_S
    while locust.returncode is None and time.monotonic() < deadline:
        if text := _text(path):
            return float(text)
        await asyncio.sleep(LOOK_S)
    raise NotSo("locust didn't begin; see locust.log")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
