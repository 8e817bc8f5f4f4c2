"""Tries every planted bug and says after how many seeds it was noticed.

python -m tests.simulation.table          # prints the table that stands in MUTANTS.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from tests.servers import Server
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.trial import Outcome, attempt

SEEDS_MAX: Final = 600
"""A bug that isn't noticed within so many seeds counts as survived."""
WORKERS: Final = 2


@contextmanager
def _url(mutant: Mutant) -> Iterator[str]:
    """A server of its own for a bug in the scripts; none for the others."""
    if not mutant.server:
        yield ""
        return
    with Server("valkey") as server:
        yield server.url


def _try(mutant: Mutant) -> Outcome:
    with _url(mutant) as url:
        return attempt(mutant, SEEDS_MAX, url)


def try_all() -> list[Outcome]:
    """One outcome for each planted bug, in their order."""
    with ThreadPoolExecutor(WORKERS) as workers:
        return list(workers.map(_try, MUTANTS))


def table(outcomes: list[Outcome]) -> str:
    """As Markdown."""
    lines = ["| planted bug | seeds until noticed | invariant | what was noticed |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(outcome.row() for outcome in outcomes)]) + "\n"


def main() -> int:
    outcomes = try_all()
    sys.stdout.write(table(outcomes))
    return any(outcome.seed is None for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
