"""The simulation is tested itself: bugs that are planted in copies of the shipped code must all be noticed.

The unpatched code passes the same seeds (``test_simulation``). ``MUTANTS.md`` is the table that this made; bugs that
survive, or edits that no longer fit the code, fail here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.mutant import Mutant, Stale
from tests.simulation.mutants import MUTANTS
from tests.simulation.table import HEAD, SEEDS_MAX, seeds_of, try_all
from tests.simulation.trial import Outcome, attempt, copy_to

TABLE = Path(__file__).parent / "MUTANTS.md"
SLIP = re.compile(r"\b(?:Attribute|Import|Name|Syntax|Type|UnboundLocal)Error\b")
"""What an edit does that was made for older code."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Every bug tried once. ``SIMULATION_WRITE_TABLE`` writes the table anew, whatever it says now."""
    anew = bool(os.environ.get("SIMULATION_WRITE_TABLE"))
    tried = try_all({} if anew else seeds_of(TABLE.read_text()))
    if anew:
        TABLE.write_text("# What the simulation noticed\n\n" + HEAD + "".join(f"{each.row()}\n" for each in tried))
    return tried


@pytest.mark.timeout(1800)
def test_every_planted_bug_is_noticed(outcomes: list[Outcome]) -> None:
    survived = [outcome.mutant for outcome in outcomes if outcome.seed is None]
    assert survived == [], f"not noticed within {SEEDS_MAX} seeds"
    slips = [outcome.mutant for outcome in outcomes if SLIP.search(outcome.words)]
    assert slips == [], "what can't run has shown nothing"
    assert len(outcomes) >= 90
    assert len([mutant for mutant in MUTANTS if mutant.server]) >= 25, "the scripts need theirs"


def test_the_copy_without_a_bug_passes() -> None:
    assert attempt(None, 20).seed is None


def test_each_bug_stands_in_the_table() -> None:
    assert Counter(mutant.name for mutant in MUTANTS) == Counter({mutant.name: 1 for mutant in MUTANTS})
    told = TABLE.read_text()
    assert [mutant.name for mutant in MUTANTS if f"| {mutant.name} |" not in told] == []


def test_every_bug_fits_the_code_as_it_is(tmp_path: Path) -> None:
    copy_to(tmp_path)
    for mutant in MUTANTS:
        for file, before, _ in mutant.edits:
            assert (tmp_path / file).read_text().count(before) == 1, f"{mutant.name} is stale in {file}"


def test_a_stale_edit_fails_loudly(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\n")
    with pytest.raises(Stale):
        Mutant("gone", (("code.py", "b = 2", "b = 3"),)).plant(tmp_path)
    assert (tmp_path / "code.py").read_text() == "a = 1\n"
