"""Faults that go through Ray: what dies while it is being killed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from loadtest.lab.deployment import NotOurs
from loadtest.lab.faults_ray import kill

NODE: list[Any] = [SimpleNamespace(pid=pid) for pid in (1001, 1002, 1003)]


class Dying:
    """A deployment whose process 1002 is gone when it is signalled; how that shows depends on the moment."""

    def __init__(self, error: Exception) -> None:
        self.killed: list[int] = []
        self._error = error

    def signal(self, pid: int, number: int) -> float:
        if pid == 1002:
            raise self._error
        self.killed.append(pid)
        return 0.0


@pytest.mark.parametrize("error", [psutil.NoSuchProcess(1002), ProcessLookupError(3, "No such process")])
def test_a_worker_that_goes_with_its_raylet_spares_no_other(error: Exception) -> None:
    dying: Any = Dying(error)
    kill(dying, NODE)
    assert dying.killed == [1001, 1003]


def test_a_process_of_somebody_else_ends_the_experiment() -> None:
    dying: Any = Dying(NotOurs("process 1002 (bash)"))
    with pytest.raises(NotOurs):
        kill(dying, NODE)
    assert dying.killed == [1001]
