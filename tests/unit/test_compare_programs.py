"""What a comparison starts ends with it, and what doesn't start is told in its own words."""

from __future__ import annotations

import os
import shutil
import signal
from asyncio import Event
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest.compare import command, environment
from loadtest.compare.programs import needed, programs
from loadtest.processes import alive, family
from loadtest.stack import NotUp


async def never() -> bool:
    return False


async def test_programs_end_with_the_block_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with programs(tmp_path, {"MARK": str(tmp_path)}) as up:
            pids = {await up.start(name, "sleep", "60") for name in ("one", "two")}
            assert {process.pid for process in family(str(tmp_path))} == pids == up.pids()
            raise ZeroDivisionError
    assert not any(alive(pid) for pid in pids)


async def test_a_program_that_ends_before_it_answers_is_quoted(tmp_path: Path) -> None:
    async with programs(tmp_path, {}) as up:
        await up.start("server", "sh", "-c", "echo no such table; exit 3")
        with pytest.raises(NotUp, match="server doesn't run: no such table"):
            await up.ready("server", never)


async def test_a_program_that_must_run_to_its_end_must_end_well(tmp_path: Path) -> None:
    async with programs(tmp_path, {}) as up:
        await up.run("good", "true")
        with pytest.raises(NotUp, match="bad doesn't run: oh"):
            await up.run("bad", "sh", "-c", "echo oh; exit 1")


def test_what_the_machine_lacks_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NotUp, match="apt-get install nginx-light"):
        needed("nginx")


def test_an_environment_that_has_the_lock_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = list[list[str]]()
    monkeypatch.setattr(environment, "_call", called.append)
    environment.environment(tmp_path)
    assert [words[1:3] for words in called] == [["-m", "venv"], ["-m", "pip"]]
    environment.environment(tmp_path)
    assert len(called) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_comparison_that_is_stopped_takes_its_way_down(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = list[str]()

    @asynccontextmanager
    async def running(*_: object) -> AsyncIterator[None]:
        happened.append("up")
        try:
            yield
        finally:
            happened.append("down")

    class Course:
        def __init__(self, *_: object) -> None: ...

        async def run(self) -> dict[str, Any]:
            os.kill(os.getpid(), number)
            await Event().wait()
            raise AssertionError

    monkeypatch.setattr(command, "running", running)
    monkeypatch.setattr(command, "Course", Course)
    monkeypatch.setattr(command, "environment", lambda: None)
    assert command.main(["--only", "cookie", "--out", str(tmp_path)]) == 2
    assert happened == ["up", "down"]
