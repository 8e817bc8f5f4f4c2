"""What comes after the load: a last word in sessions that may have lost something, and every log read back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from loadtest.client import Client, Kind, Unreadable, lines_of
from loadtest.history import History

AT_ONCE = 16
WORD = "One more thing."


async def last_word(url: str, sessions: Iterable[str], path: Path) -> None:
    """One more turn in every session: a loss is told to whoever comes next, so that somebody has to come."""
    client = Client(url)
    with History(path, first_op=1 << 41) as history:

        async def say(session: str) -> None:
            op = history.invoke_turn(session, WORD)
            answer = await client.chat(session, WORD)
            if answer.kind is Kind.OK:
                history.ok_turn(op, answer.turn_id, answer.turn_seq, answer.reply, slot=answer.slot)
            elif answer.kind is Kind.FAIL:
                history.fail(op, answer.status, answer.why)
            else:
                history.info(op, answer.status, answer.why, answer.regressed)

        await _for_each(sessions, say)


async def read_back(url: str, sessions: Iterable[str], path: Path) -> list[str]:
    """Every session's whole log, as a history. What couldn't be read."""
    client, unread = Client(url), list[str]()
    with History(path, first_op=1 << 40) as history:

        async def read(session: str) -> None:
            op = history.invoke_read(session)
            try:
                history.ok_read(op, lines_of(await client.turns(session)))
            except Unreadable as error:
                history.info(op, 0, str(error)[:300])
                unread.append(f"{session}: {error}")

        await _for_each(sessions, read)
    return unread


async def _for_each(sessions: Iterable[str], do: Callable[[str], Awaitable[None]]) -> None:
    waiting = iter(sorted(sessions))

    async def work(waiting: Iterator[str]) -> None:
        for session in waiting:
            await do(session)

    await asyncio.gather(*(work(waiting) for _ in range(AT_ONCE)))
