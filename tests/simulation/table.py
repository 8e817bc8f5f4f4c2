"""Tries every planted bug and says after how many seeds it was noticed.

python -m tests.simulation.table          # prints the table that stands in MUTANTS.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from tests.servers import Server
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.trial import Outcome, attempt

SEEDS_MAX: Final = 1000
"""A bug that isn't noticed within so many seeds counts as survived."""
WORKERS: Final = 2
HEAD: Final = "| planted bug | seeds until noticed | invariant | what was noticed |\n| --- | --- | --- | --- |\n"


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


def try_all(tell: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """One outcome for each planted bug, in their order; ``tell`` gets each as it comes."""
    outcomes = []
    with ThreadPoolExecutor(WORKERS) as workers:
        for outcome in workers.map(_try, MUTANTS):
            tell(outcome)
            outcomes.append(outcome)
    return outcomes


def main() -> int:
    print(HEAD, end="")
    outcomes = try_all(lambda outcome: print(outcome.row(), flush=True))
    return any(outcome.seed is None for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
