"""``python -m loadtest.bench.load SPEC``: the load generator as a process of its own, pinned to one CPU.

It has to be one: children inherit a pin, and the suite starts what it measures; and its CPU is then simply its own.
SPEC is the JSON of :class:`Spec`. The program warms up (``warm_turns`` in every session), prints the outcome as one
line of JSON, and if there is more to do (``seconds``, ``again``) waits for a line, measures, and prints a second
outcome: whoever started it looks at everybody's counters before it says go, and again when the line is here. After
another line it has some logs' lengths read, and says which are wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from loadtest.bench.traffic import KINDS, Talk, outcome
from loadtest.generator import Generator
from loadtest.stack import ROOT

VERIFIED_MAX = 20
"""Sessions whose logs are asked for their length at the end."""
WARM_S = 600.0
"""Longest time for the warm-up: 100,000 sessions are loaded one after the other."""
ANSWER_S = 60.0
"""How much longer than the load itself it may take until the generator says what it saw."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is asked of one load."""

    url: str
    connections: int
    sessions: int
    prefix: str
    """The sessions are ``prefix-0``, ``prefix-1``, ..."""
    history: int = 0
    """Turns that they have already."""
    warm_turns: int = 1
    seconds: float = 0.0
    again: bool = False
    """Measured is one more turn in every session, however long it takes."""
    kind: str = "json"
    zipf: bool = False
    verify: bool = False


class LoadFailed(Exception):
    """The generator ended without an outcome; the text is what it said."""


def pinned() -> int | None:
    """Give this process the last of its CPUs, alone; which one, or None if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    os.sched_setaffinity(0, {allowed[-1]})
    return allowed[-1]


async def run(spec: Spec, go: Callable[[], Any]) -> None:
    """Print an outcome, or two, and what is wrong with the logs."""
    cpu = pinned()
    kind = KINDS[spec.kind]
    generator = Generator(spec.url, spec.connections, spec.sessions, None, kind=kind, prefix=spec.prefix)
    for session in generator.sessions:
        session.turn_seq = spec.history
    await generator.connect()
    talks = [connection for connection in generator.connections if isinstance(connection, Talk)]
    warm = await generator.warm_up(spec.warm_turns, WARM_S)
    _say(outcome(warm, talks) | {"cpu": cpu})
    if not spec.seconds and not spec.again:
        return
    await asyncio.get_running_loop().run_in_executor(None, go)
    for talk in talks:
        talk.begin(spec.zipf)
    measured = await (generator.warm_up(1, WARM_S) if spec.again else generator.measure(spec.seconds))
    found = outcome(measured, talks)
    first = spec.history + spec.warm_turns
    grown = sum(session.turn_seq - first for session in generator.sessions) / spec.sessions
    _say(found | {"cpu": cpu, "turns_before_mean": first + grown / 2})
    # After the figures: whoever started this has looked at the store's counters by the time it is asked to read.
    await asyncio.get_running_loop().run_in_executor(None, go)
    _say({"wrong": await generator.verify(VERIFIED_MAX) if spec.verify else []})


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


# --- from the suite's side --------------------------------------------------------------------------------------------


class Running:
    """A generator that runs."""

    def __init__(self, process: asyncio.subprocess.Process, spec: Spec) -> None:
        self.process = process
        self._spec = spec

    async def warm(self) -> dict[str, Any]:
        """The outcome of the warm-up. LoadFailed on any error in it: what is measured then is something else."""
        found = await self._outcome(WARM_S)
        if found["errors"]:
            raise LoadFailed(f"warm-up: {found['errors']} errors, such as {found['examples']}")
        return found

    async def measured(self) -> dict[str, Any]:
        """Say go, and return the outcome."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        return await self._outcome(WARM_S if self._spec.again else self._spec.seconds)

    async def verified(self) -> list[str]:
        """What is wrong with the logs of some of the sessions, by what was acknowledged."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"verify\n")
        return list((await self._outcome(0.0))["wrong"])

    async def _outcome(self, within_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        try:
            async with asyncio.timeout(within_s + ANSWER_S):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise LoadFailed(f"no outcome within {within_s + ANSWER_S:g} s") from None
        if not line:
            raise LoadFailed((await self.process.stderr.read()).decode(errors="replace")[-1000:])
        return dict(json.loads(line))


@asynccontextmanager
async def load(spec: Spec) -> AsyncIterator[Running]:
    """A generator, surely ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.bench.load", json.dumps(asdict(spec))),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C is for the suite, which ends this.
        start_new_session=True,
    )
    try:
        yield Running(process, spec)
    finally:
        if process.returncode is None and process.stdin is not None:
            process.stdin.close()
            try:
                async with asyncio.timeout(1.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()


def main() -> int:
    uvloop.run(run(Spec(**json.loads(sys.argv[1])), sys.stdin.readline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
