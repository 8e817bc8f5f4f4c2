"""``loadtest/run`` as a program: however it is stopped, the stack that it started goes with it."""

from __future__ import annotations

import os
import signal
import sys
from asyncio import Event
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtest.lab import command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_takes_its_stack_down(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = list[str]()

    @asynccontextmanager
    async def stack(*_: object) -> AsyncIterator[None]:
        happened.append("up")
        try:
            yield
        finally:
            happened.append("down")

    async def run_until_stopped(*_: object) -> None:
        os.kill(os.getpid(), number)
        await Event().wait()

    monkeypatch.setattr(command, "_deployment", stack)
    monkeypatch.setattr(command, "_one", run_until_stopped)
    monkeypatch.setattr(sys, "argv", ["loadtest/run", "baseline", "--out", str(tmp_path)])
    assert command.main() == 2
    assert happened == ["up", "down"]
