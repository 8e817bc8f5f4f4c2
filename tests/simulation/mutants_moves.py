"""Planted bugs of the moments in which a session changes hands: what its old host may not do, say, or conclude."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import SESSION, one

MOVES: Final = (
    one(
        "who has a batch is forgotten when its receipt is lost",
        "actors/leaving.py",
        "    for ticket in tickets:\n        ticket.shared = True\n",
        "",
    ),
    one(
        "a batch goes without who came meanwhile",
        SESSION,
        "            if len(self.mailbox) == len(batch):\n                break\n",
        "            break\n",
    ),
    one(
        "arrivals go before a batch while its lease is on its way back",
        SESSION,
        "        self._home.handing_off(self.key, owner)\n",
        "",
    ),
    one(
        "an unanswered claim is called not done",
        SESSION,
        "(error.detail, outcome=Outcome.UNKNOWN, retry_after_s=1))",
        "(error.detail, outcome=Outcome.NOT_DONE, retry_after_s=1))",
    ),
)
