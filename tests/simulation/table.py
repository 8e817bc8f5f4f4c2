"""Tries every planted bug and says after how many seeds it was noticed.

python -m tests.simulation.table          # prints the table that stands in MUTANTS.md

Whoever has the table needs not look for the seeds again: the one that noticed a bug is tried first, and others only if
it doesn't notice it any more, because the code has changed since.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
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
_ROW: Final = re.compile(r"^\| (.+?) \| (\d+) \| ", re.MULTILINE)
HEAD: Final = "| planted bug | seeds until noticed | invariant | what was noticed |\n| --- | --- | --- | --- |\n"


@contextmanager
def _url(mutant: Mutant) -> Iterator[str]:
    """A server of its own for a bug in the scripts; none for the others."""
    if not mutant.server:
        yield ""
        return
    with Server("valkey") as server:
        yield server.url


def seeds_of(table: str) -> dict[str, int]:
    """Planted bug -> seeds until it was noticed, as that table says."""
    return {name: int(seeds) for name, seeds in _ROW.findall(table)}


def _try(mutant: Mutant, known: int | None) -> Outcome:
    with _url(mutant) as url:
        if known is not None and (found := attempt(mutant, 1, url, first=known - 1)).seed is not None:
            return found
        return attempt(mutant, SEEDS_MAX, url)


def try_all(known: Mapping[str, int] | None = None, tell: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """One outcome for each planted bug, in their order; ``tell`` gets each as it comes. ``known``: see
    :func:`seeds_of`."""
    seeds, outcomes = known or {}, []
    with ThreadPoolExecutor(WORKERS) as workers:
        for outcome in workers.map(lambda mutant: _try(mutant, seeds.get(mutant.name)), MUTANTS):
            tell(outcome)
            outcomes.append(outcome)
    return outcomes


def main() -> int:
    print(HEAD, end="")
    outcomes = try_all(tell=lambda outcome: print(outcome.row(), flush=True))
    return any(outcome.seed is None for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
