"""What no invariant names, and nobody may see: faults inside, and a stream that isn't its reply."""

from __future__ import annotations

from actors.errors import RehydraError
from actors.ports import Done
from tests.simulation.facts import Facts


def check_nothing_broke_unseen(facts: Facts) -> None:
    for problem in facts.problems:
        facts.report(
            "I5" if problem.process == "clients" else "intact", problem.seq, f"{problem.process}: {problem.what}"
        )
    for said in facts.said:
        if isinstance(said.final, RehydraError) and said.final.code == "internal":
            facts.report("intact", said.seq, f"{said.process} answered {said.turn_id} with an internal error")
    _streams(facts)


def _streams(facts: Facts) -> None:
    """What was streamed since the last ``turn`` is the reply that ``done`` then confirms."""
    texts: dict[int, tuple[int, str]] = {}
    for said in facts.said:
        if said.what == "turn":
            texts[said.exchange] = (said.epoch, "")
        elif said.what == "delta":
            epoch, text = texts.get(said.exchange, (0, ""))
            if not epoch:
                facts.report("intact", said.seq, f"{said.process} sends text before any turn event")
            texts[said.exchange] = (epoch, text + said.text)
        elif isinstance(said.final, Done) and said.exchange in texts:
            epoch, text = texts[said.exchange]
            if text != said.final.turn.reply or epoch != said.final.turn.epoch:
                facts.report(
                    "intact", said.seq, f"{said.process} has streamed another text than {said.turn_id}'s reply"
                )
