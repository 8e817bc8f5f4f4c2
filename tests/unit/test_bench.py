"""The bench's verdict: a figure that isn't reached is a failure."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest

from loadtest.bench import one as bench


@pytest.mark.parametrize(
    ("median", "errors", "asked", "code"),
    [
        (1500.0, 0, ("--at-least", "1500"), 0),
        (1499.9, 0, ("--at-least", "1500"), 1),
        (1.0, 0, (), 0),
        (9000.0, 1, ("--at-least", "1500"), 1),
    ],
)
def test_the_exit_code_tells_of_errors_and_of_too_few_turns(
    median: float, errors: int, asked: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_: argparse.Namespace) -> dict[str, Any]:
        return {"turns_per_s": {"median": median}, "errors": errors}

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench", *asked])
    assert bench.main() == code


def test_too_few_turns_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.too_slow({"turns_per_s": {"median": 1234.5}}, 1500.0)
    assert "1234 turns/s; at least 1500 were asked for" in capsys.readouterr().err
