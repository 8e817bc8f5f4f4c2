"""Plays conversations, message by message, and writes down what came back.

    python -m loadtest.conversations --url http://127.0.0.1:8000 [--conversations FILE] --history history.jsonl

``FILE`` has one JSON object a line: ``id`` and ``user``, a list of messages. Without it the ones below are played, in
several languages and scripts. Half of the messages are streamed, over 1 to 3 seconds; with ``echo:paced`` as the
agent the others take up to a second. Streams carry an Idempotency-Key, and are sent again with it when they are torn;
the others carry none and are sent once, whatever happens.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.checker import check
from loadtest.client import Answer, Client, Kind, Unreadable, lines_of
from loadtest.history import History

REPEATS_MAX = 60
"""How often a torn stream is asked for again before it counts as an error."""

REPEAT_PAUSE_S = 0.5

BUILT_IN = (
    ("Plan two days in Lisbon for somebody who can't climb stairs.", "Now for rain. Keep what can be kept."),
    ("Erkläre mir in drei Sätzen, warum der Himmel blau ist.", "Und warum ist er abends rot? 🌇"),
    ("¿Cuál es la diferencia entre «ser» y «estar»?", "Dame cinco ejemplos con «estar»."),
    ("用三句话介绍一下长城。", "把它翻译成英文,并保留专有名词。"),
    ("「いろはにほへと」の続きを教えてください。", "現代語に訳すとどうなりますか。"),
    ("اشرح نظرية فيثاغورس باختصار.", "أعط مثالا بالأرقام ٣ و ٤ و ٥."),
    ("Напиши короткое стихотворение о зиме.", "Перепиши его без буквы «о»."),
    ("यह वाक्य किस भाषा में है?", "इसे दो शब्दों में लिखिए।"),
    (
        "def f(n):\n\treturn n if n < 2 else f(n - 1) + f(n - 2)\n\nHow slow is it?",
        "Make it linear; keep the name `f`.",
    ),
    ("∫₀^∞ e^(−x²) dx = ?", 'And \\(\\sum_{n \\ge 1} 1/n^2\\), with "quotes" and \\ back\\slashes?'),
    ("שלום! איך כותבים שיר?", "תכתוב אותו בשתי שורות.\r\nתודה"),
    ("👩‍👩‍👧‍👦 + 🏳️‍🌈 = ? \u0000 is NUL, \u2028 a line separator.", "a\u0301 and \u00e1: the same letter?"),
)


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation: a name for its sessions, and what the user says."""

    name: str
    messages: tuple[str, ...]


@dataclass(slots=True)
class Tally:
    """Counts of a run. ``errors``: non-streaming requests that weren't answered with 200, and streams given up."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    waits_s: dict[str, list[float]] = field(default_factory=lambda: {"asked": [], "streamed": [], "torn": []})
    """How much longer than the agent each message took, from the first sending to its final reply."""

    def felt(self) -> dict[str, dict[str, float]]:
        """Median, 99th percentile and longest of those waits, seconds, by kind of message."""
        told = {}
        for kind, waits in self.waits_s.items():
            ordered = sorted(waits)
            if ordered:
                at = {"p50": len(ordered) // 2, "p99": int(len(ordered) * 0.99), "max": len(ordered) - 1}
                told[kind] = {name: round(ordered[index], 3) for name, index in at.items()}
        return told


def load(path: Path | None = None) -> list[Talk]:
    """The conversations of a file, or the built-in ones. ValueError names the line that can't be read."""
    if path is None:
        return [Talk(f"talk-{number}", messages) for number, messages in enumerate(BUILT_IN)]
    talks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            talks.append(Talk(f"talk-{record['id']}", tuple(record["user"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {type(error).__name__}: {error}") from error
    return talks


class Player:
    """Plays talks against one deployment. Several may be played at one time; the messages of one come one by one."""

    def __init__(self, client: Client, history: History, seed: int = 1) -> None:
        self.client = client
        self.history = history
        self.tally = Tally()
        self.played: dict[str, tuple[str, ...]] = {}
        """Session -> messages of every talk that was begun."""
        self._random = random.Random(seed)
        self._prefix = secrets.token_hex(4)
        self._number = 0

    async def play(self, talk: Talk) -> None:
        """One talk in a new session, up to the first message that could not be brought home."""
        self._number += 1
        number, session = self._number, f"{talk.name}.{self._prefix}.{self._number}"
        self.played[session] = talk.messages
        for turn_seq, message in enumerate(talk.messages, start=1):
            streams = (number + turn_seq) % 2 == 0
            over_s = round(self._random.uniform(1, 3) if streams else self._random.uniform(0, 1), 2)
            started = time.monotonic()
            kind, answer = await (self._stream if streams else self._ask)(session, message, over_s, turn_seq)
            self.tally.waits_s[kind].append(time.monotonic() - started - over_s)
            if not self._good(session, answer, message, turn_seq):
                return
        self.tally.counts["talks"] += 1

    async def _ask(self, session: str, message: str, over_s: float, turn_seq: int) -> tuple[str, Answer]:
        """Not streamed, no key, sent once."""
        self.tally.counts["asked"] += 1
        return "asked", await self._send(session, message, over_s, None, turn_seq)

    async def _stream(self, session: str, message: str, over_s: float, turn_seq: int) -> tuple[str, Answer]:
        """Streamed; torn streams are completed by sending the same key again."""
        self.tally.counts["streamed"] += 1
        kind, key = "streamed", f"{session}/{turn_seq}"
        answer = await self._send(session, message, over_s, key, turn_seq)
        for _ in range(REPEATS_MAX):
            if answer.kind is not Kind.INFO:
                break
            # A stream that had begun ends with status 200 or none at all; anything else was refused before it began.
            self.tally.counts[f"streams torn (status {answer.status})"] += 1
            kind = "torn"
            await asyncio.sleep(REPEAT_PAUSE_S)
            answer = await self._send(session, message, over_s, key, turn_seq)
        return kind, answer

    async def _send(self, session: str, message: str, over_s: float, key: str | None, turn_seq: int) -> Answer:
        op = self.history.invoke_turn(session, message, key)
        answer = await self.client.chat(
            session,
            message,
            key=key,
            streams=key is not None,
            metadata={"over_s": over_s},
            named_in="body" if turn_seq % 2 else "header",
        )
        self.tally.counts["sent"] += 1
        if answer.kind is Kind.OK:
            seen = {name: getattr(answer, name) for name in ("replayed", "slot", "host", "epoch", "state")}
            self.history.ok_turn(op, answer.turn_id, answer.turn_seq, answer.reply, answer.streamed, **seen)
            self.tally.counts[f"state {answer.state or 'unknown'}"] += 1
        elif answer.kind is Kind.FAIL:
            self.history.fail(op, answer.status, answer.why)
        else:
            self.history.info(op, answer.status, answer.why)
        return answer

    def _good(self, session: str, answer: Answer, message: str, turn_seq: int) -> bool:
        right = answer.kind is Kind.OK and answer.turn_seq == turn_seq and answer.session == session
        if right:
            self.tally.counts["answered"] += 1
        else:
            self.tally.errors.append(f"{session}, message {turn_seq} ({message[:30]!r}): {answer}")
        return right

    async def read_back(self, at_once: int = 8) -> list[str]:
        """Read every session that was begun; says which of them aren't whole: all messages, in order, once each."""
        gate, wrong = asyncio.Semaphore(at_once), list[str]()

        async def read(session: str, messages: Sequence[str]) -> None:
            async with gate:
                op = self.history.invoke_read(session)
                try:
                    turns = await self.client.turns(session)
                except Unreadable as error:
                    self.history.info(op, 0, str(error))
                    wrong.append(f"{session} can't be read: {error}")
                    return
                self.history.ok_read(op, lines_of(turns))
                if [turn["message"] for turn in turns] != list(messages):
                    wrong.append(
                        f"{session} has {[turn['message'][:20] for turn in turns]}, not its {len(messages)} turns"
                    )

        await asyncio.gather(*(read(session, messages) for session, messages in self.played.items()))
        return wrong


async def play_all(player: Player, talks: Sequence[Talk], at_once: int, go_on: Callable[[], bool]) -> None:
    """Play the talks in turn, again and again, ``at_once`` of them at one time; before each ``go_on`` is asked."""
    endless = itertools.cycle(talks)

    async def work() -> None:
        while go_on():
            await player.play(next(endless))

    async with asyncio.TaskGroup() as workers:
        for _ in range(at_once):
            workers.create_task(work())


async def run(arguments: argparse.Namespace) -> bool:
    """Play, read back, judge; prints what it found. True if nothing is wrong."""
    talks = load(arguments.conversations)
    with History(arguments.history) as history:
        history.start(arguments.agent, seed=arguments.seed)
        player = Player(Client(arguments.url), history, arguments.seed)
        wanted = arguments.repeat * len(talks)
        await play_all(player, talks, arguments.at_once, lambda: len(player.played) < wanted)
        wrong = await player.read_back()
    verdict = check([arguments.history])
    report = {
        "counts": dict(player.tally.counts),
        "errors": player.tally.errors,
        "not whole": wrong,
        "checker": verdict.as_json(),
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    return verdict.legal and not wrong and not player.tally.errors


def main() -> int:
    parser = argparse.ArgumentParser(description="Play conversations against a Rehydra deployment.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--conversations", type=Path, help="JSONL file; default: built-in ones")
    parser.add_argument("--repeat", type=int, default=1, help="how often all of them are played, in new sessions")
    parser.add_argument("--at-once", type=int, default=16, help="conversations at one time")
    parser.add_argument("--history", type=Path, default=Path(".data/loadtest/conversations.jsonl"))
    parser.add_argument("--agent", default="", help="`chained` if the deployment runs that agent")
    parser.add_argument("--seed", type=int, default=1)
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
