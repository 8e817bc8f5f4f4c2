"""For all tests: the same settings on every machine, the quick ones first, and nothing left running at the end."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import pytest

from deploy import processes

ORDER = ("test_tidy.py", "unit", "runtime", "contract", "simulation", "integration", "deployed")

RUN = "TESTS_OF_REHYDRA_RUN"
"""Inherited by whatever the tests start, and by whatever that starts."""
GRACE_S = 5.0

# A person's own settings must not decide whether a test passes. REDIS_URL stays: it asks for that server to be tested.
for name in [name for name in os.environ if name.startswith("REHYDRA_")]:
    del os.environ[name]
os.environ[RUN] = uuid.uuid4().hex
# A shell that puts the tests into the background has them ignore Ctrl-C, and all that they start inherits that: what is
# tested by its end would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A failure that takes a second to find needn't wait for those that take minutes."""
    root = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        room = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        return ORDER.index(room) if room in ORDER else len(ORDER)

    items.sort(key=place)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever a test has started and not ended is ended here, and is a failure."""
    left = processes.wait_gone(processes.marked(os.environ[RUN], RUN), GRACE_S)
    if not left:
        return
    names = [f"{process.pid} {processes.command(process.pid)}" for process in left]
    processes.end(left, 1.0)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    print("\nleft running by a test, and ended now:", *names, sep="\n  ")
