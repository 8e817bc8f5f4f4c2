"""Finding and ending processes: what carries the mark, what descends from it, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import processes
from deploy.processes import MARK

ROOT = Path(__file__).resolve().parents[2]
Marked = tuple[str, list[subprocess.Popen[bytes]]]


@pytest.fixture
def mark() -> Iterator[Marked]:
    """A mark, and a list of processes to be ended whatever happens."""
    started: list[subprocess.Popen[bytes]] = []
    yield uuid.uuid4().hex, started
    for process in started:
        process.kill()
        process.wait()


def start(mark: Marked, script: str, *, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A Python process that has run ``script``, said so, and then stays."""
    code = f"import os, signal, subprocess, sys\n{script}\nprint(flush=True)\nsys.stdin.read()"
    value, started = mark
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: value} if env is None else env,
    )
    started.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def pids(value: str) -> set[int]:
    return {process.pid for process in processes.marked(value)}


def test_whatever_carries_the_mark_is_found_and_nothing_else(mark: Marked) -> None:
    mine, others = start(mark, ""), start(mark, "", env={**os.environ, MARK: "another"})
    assert pids(mark[0]) == {mine.pid}
    assert others.pid not in pids(mark[0])


def test_a_descendant_is_found_though_it_lost_the_mark(mark: Marked) -> None:
    script = "print(subprocess.Popen(['sleep', '60'], env={}, stdout=subprocess.DEVNULL).pid, flush=True)"
    process = start(mark, script)
    assert len(pids(mark[0])) == 2
    assert process.pid in pids(mark[0])
    processes.end(processes.marked(mark[0]), 1.0)


def test_the_caller_is_never_among_the_marked(mark: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"from deploy import processes; print(len(processes.marked({mark[0]!r})), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, MARK: mark[0]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


def test_ending_waits_for_the_end_and_kills_who_will_not_listen(mark: Marked) -> None:
    polite = start(mark, "")
    stubborn = start(mark, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert processes.end(processes.marked(mark[0]), 0.3) == 2
    assert pids(mark[0]) == set()
    assert (polite.wait(), stubborn.wait()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_a_pid_that_was_given_to_somebody_else_is_left_alone(mark: Marked) -> None:
    stranger = start(mark, "")
    found = processes.find(stranger.pid)
    assert found is not None
    assert processes.end([processes.Process(found.pid, found.started - 1)], 0.1) == 0
    assert stranger.poll() is None


def test_who_has_ended_is_not_found(mark: Marked) -> None:
    process = start(mark, "")
    process.kill()
    assert processes.wait_gone(processes.marked(mark[0]), 5.0) == set()
    # Not waited for yet: its remains still stand in the table of processes.
    assert processes.find(process.pid) is None


def test_who_is_leashed_dies_with_whoever_started_it(mark: Marked) -> None:
    owner = start(
        mark,
        "from deploy.processes import leashed\n"
        "subprocess.Popen(leashed(['sleep', '60'], signal.SIGTERM), stdout=subprocess.DEVNULL)",
    )
    leashed = {process for process in processes.marked(mark[0]) if process.pid != owner.pid}
    assert len(leashed) == 1
    owner.kill()
    assert processes.wait_gone(leashed, 5.0) == set()
