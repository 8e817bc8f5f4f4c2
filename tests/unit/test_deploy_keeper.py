"""The keeper: nothing that its command has started outlives it, however far it ran."""

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
from deploy.keeper import kept
from deploy.processes import MARK

ROOT = Path(__file__).resolve().parents[2]
FLED = "subprocess.Popen(['sleep', '60'], env={}, stdout=subprocess.DEVNULL, start_new_session=True)"
"""Like HAProxy and Ray's agents at once: no mark, a session of its own, and soon an orphan."""


class Kept:
    """A command under a keeper: it starts a child whose own child has fled and been orphaned, and tells that pid."""

    def __init__(self, then: str) -> None:
        middle = f"import subprocess; print({FLED}.pid, flush=True)"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {middle!r}]); {then}"
        self.keeper = subprocess.Popen(
            kept([sys.executable, "-c", code]),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: uuid.uuid4().hex},
            start_new_session=True,
        )
        assert self.keeper.stdout is not None
        found = processes.find(int(self.keeper.stdout.readline()))
        assert found is not None
        self.fled = found

    def gone(self) -> bool:
        return processes.wait_gone({self.fled}, 10.0) == set()


@pytest.fixture
def waiting() -> Iterator[Kept]:
    run = Kept("sys.stdin.read()")
    yield run
    run.keeper.kill()
    run.keeper.wait()
    processes.end({run.fled}, 0.0)


def test_who_has_fled_still_descends_from_the_keeper(waiting: Kept) -> None:
    assert waiting.fled in processes.below(waiting.keeper.pid)


def test_a_command_that_ends_takes_along_who_has_fled_and_its_exit_code_is_passed_on() -> None:
    run = Kept("sys.exit(7)")
    assert run.keeper.wait(10.0) == 7
    assert run.gone()


def test_sigterm_is_the_commands_to_answer() -> None:
    run = Kept(
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print(flush=True); signal.pause()"
    )
    assert run.keeper.stdout is not None
    run.keeper.stdout.readline()
    run.keeper.terminate()
    assert run.keeper.wait(10.0) == 5
    assert run.gone()


def test_at_once_means_without_asking_the_command(waiting: Kept) -> None:
    waiting.keeper.send_signal(signal.SIGUSR1)
    assert waiting.keeper.wait(10.0) > 128  # Ended by a signal.
    assert waiting.gone()


def test_a_keeper_whose_parent_was_killed_ends_everything() -> None:
    code = f"""
import subprocess, sys
from deploy.keeper import kept
command = [sys.executable, '-c', "import subprocess, sys; print({FLED}.pid, flush=True); sys.stdin.read()"]
print(subprocess.Popen(kept(command), stdin=subprocess.PIPE).pid, flush=True)
sys.stdin.read()"""
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    found = {processes.find(int(owner.stdout.readline())) for _ in range(2)} - {None}
    assert len(found) == 2
    owner.kill()
    owner.wait()
    assert processes.wait_gone({process for process in found if process is not None}, 10.0) == set()


def test_a_session_is_found_by_its_number_as_long_as_its_leader_is_no_other() -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '60'], env={}).pid, flush=True)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdout is not None
    member = processes.find(int(leader.stdout.readline()))
    assert member is not None
    leader.wait()
    try:
        known = processes.Process(leader.pid, member.started - 1)
        assert processes.in_session(known, ROOT) == {member}
        assert processes.in_session(known, Path("/")) == set()
        assert processes.in_session(processes.Process(leader.pid, member.started + 1), ROOT) == set()
    finally:
        processes.end({member}, 0.0)
