"""I4: a hundred messages to one session at once become a hundred turns, one after the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loadtest.checker import check
from loadtest.client import Kind, lines_of
from loadtest.history import History
from tests.integration.deployment import Deployment

MESSAGES = 100


async def test_a_hundred_messages_at_once_become_a_hundred_turns_each_computed_from_exactly_its_predecessors(
    tmp_path: Path,
) -> None:
    async with Deployment("actors.agents.chained:chained", hosts=3) as deployment:
        with History(tmp_path / "history.jsonl") as history:
            history.start("chained")
            seqs: list[int] = []

            async def send(number: int) -> None:
                message = f"message {number}"
                op = history.invoke_turn("crowd", message)
                # Every fourth goes to a host directly, past the ring: most of those don't own the session.
                direct = deployment.hosts[number % 3].url if number % 4 == 0 else deployment.url
                answer = await type(deployment.client)(direct).chat("crowd", message, streams=number % 5 == 0)
                assert answer.kind is Kind.OK, answer
                history.ok_turn(op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, epoch=answer.epoch)
                seqs.append(answer.turn_seq)

            await asyncio.gather(*(send(number) for number in range(MESSAGES)))
            op = history.invoke_read("crowd")
            history.ok_read(op, lines_of(await deployment.client.turns("crowd")))
    verdict = check([tmp_path / "history.jsonl"])
    assert verdict.legal, verdict.examples
    assert sorted(seqs) == list(range(1, MESSAGES + 1))
    assert verdict.counted["turns"] == MESSAGES
