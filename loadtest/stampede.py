"""A host dies that holds a third of 20,000 sessions, and they are wanted at once: who else feels it?

    python -m loadtest.stampede [--sessions 20000] [--rounds 5] [--per-s 200] [--out .data/loadtest/stampede]

On a deployment without Ray: every session gets three turns. A round, on whichever host is next: its sessions all get a
turn there; then, for the *usual*, nine in ten of them are asked at a steady rate, while sessions of the other hosts are
asked at a rate of their own; then the host is killed, and the same load goes on: now each request for a moved session
finds it on no host. Then another host takes the slot. Demanded:

- loads are on demand: as many sessions are loaded (``LRANGE`` of the store, which claims and reads alone use) as moved
  sessions were asked, within 1 % (a few move once more, or had moved before), and the others of them, a tenth, stay
  where they are, in the store;
- no host ever loads more than ``session.activations_max`` at one time (by its own count);
- the p99 of the sessions that were not moved, median over the rounds, is at most twice their usual; no errors.

Rounds are kept, and those of one size and rate added up, so it can go on where it was stopped. Latencies count from
the scheduled time.

The rate must leave room: generator, edge, store and all hosts share this machine, and where it has no core left, p99
tells of that alone. So how many cores were busy, with the load as usual and then, stands beside each round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.bare.arrivals import Arrivals, Felt, Session
from loadtest.bare.deployment import Bare, Host
from loadtest.processes import busy_s
from loadtest.redis_counts import commandstats

AGENT = "actors.agents.echo:echo"
HOSTS = 3
TURNS = 3
CLAIMS_MAX = 16
LIMITS = {"session": {"activations_max": CLAIMS_MAX}}
MOVED_PER_S = 200.0
PER_S_MAX = 10_000
OTHERS_SHARE = 0.5
"""Requests for sessions of the other hosts, over those for the victim's."""
OTHERS = 300
"""Sessions of the other hosts that are asked."""
TIMES_MAX = 2.0
ROUNDS_MIN = 5


@dataclass(frozen=True, slots=True)
class Round:
    """One kill. Times in milliseconds."""

    sessions: int
    per_s: float
    """Of this size and at this rate."""
    slot: str
    held: int
    """Sessions that the victim held."""
    asked: int
    """Of them, those that were asked after its death."""
    loaded: int
    """Sessions that hosts loaded from the store meanwhile."""
    claims_most: int
    """The most that a host loaded at one time."""
    usual_p50: float
    usual_p99: float
    then_p50: float
    then_p99: float
    moved_p50: float
    moved_p99: float
    moved_max: float
    usual_cores: float
    """Of the whole machine, busy under the usual load, and under the same after the kill."""
    then_cores: float
    errors: tuple[str, ...]

    @property
    def times(self) -> float:
        return self.then_p99 / self.usual_p99


class Stampede:
    """Rounds on one deployment."""

    def __init__(self, bare: Bare, sessions: int, seed: int, per_s: float = MOVED_PER_S) -> None:
        self._bare = bare
        self._per_s = per_s
        self._arrivals = Arrivals(bare.client.to)
        self._random = random.Random(seed)
        prefix = secrets.token_hex(3)
        self.sessions = [Session.of(f"s{prefix}-{number}", bare.client.to) for number in range(sessions)]

    async def fill(self, turns: int = TURNS) -> list[str]:
        """All sessions, with their turns; what went wrong."""
        errors = []
        for turn in range(turns):
            begun = time.monotonic()
            felt = await self._arrivals.all_at_once(self.sessions)
            errors += felt.errors
            print(
                f"turn {turn + 1} of {len(self.sessions)} sessions: {time.monotonic() - begun:.0f} s,"
                f" {len(felt.errors)} errors",
                flush=True,
            )
        return errors

    async def round(self) -> Round:
        """Usual load, a kill under the same load, and another host in the slot."""
        hosts = await self._bare.settled()
        slot = self._random.choice(sorted(hosts))
        victim = hosts.pop(slot)
        theirs, others = await self._resident(slot)
        asked = self._random.sample(theirs, len(theirs) * 9 // 10)
        usual, _, usual_cores = await self._both(others, asked)
        before = await _loads(self._bare)
        victim.signal(signal.SIGKILL)
        await victim.process.wait()
        then, moved, then_cores = await self._both(others, asked)
        loaded = await _loads(self._bare) - before
        most = await _claims_most(list(hosts.values()))
        await self._bare.start_host()
        return Round(
            len(self.sessions), self._per_s, slot, len(theirs), len(asked), loaded, most,
            usual.quantile_ms(0.5), usual.quantile_ms(0.99), then.quantile_ms(0.5), then.quantile_ms(0.99),
            moved.quantile_ms(0.5), moved.quantile_ms(0.99), moved.quantile_ms(1.0),
            round(usual_cores, 2), round(then_cores, 2), tuple((usual.errors + then.errors + moved.errors)[:5]),
        )  # fmt: skip

    async def _resident(self, slot: str) -> tuple[list[Session], list[Session]]:
        """The sessions of that slot's host, and some of the others': all in memory where the ring has them now.

        A session that nobody has asked for since the last change of the ring may have moved unseen.
        """
        await self._arrivals.all_at_once(self.sessions)
        theirs = [each for each in self.sessions if each.slot == slot]
        return theirs, self._random.sample([each for each in self.sessions if each.slot != slot], OTHERS)

    async def _both(self, others: Sequence[Session], asked: Sequence[Session]) -> tuple[Felt, Felt, float]:
        """The same load every time: each of ``asked`` once, and the others at their own rate meanwhile. What they
        felt, and the cores that were busy."""
        begun, busy = time.monotonic(), busy_s()
        felt = await asyncio.gather(
            self._arrivals.load(others, self._per_s * OTHERS_SHARE, int(len(asked) * OTHERS_SHARE)),
            self._arrivals.load(asked, self._per_s, len(asked)),
        )
        return felt[0], felt[1], (busy_s() - busy) / (time.monotonic() - begun)

    def close(self) -> None:
        self._arrivals.close()


async def _loads(bare: Bare) -> int:
    return (await commandstats(bare.redis_url)).get("lrange", 0)


async def _claims_most(hosts: list[Host]) -> int:
    return max([int((await host.stats())["claims_most"]) for host in hosts])


def judged(rounds: list[dict[str, Any]], errors: list[str]) -> dict[str, Any]:
    """The verdict over all rounds."""
    times = statistics.median(each["then_p99"] / each["usual_p99"] for each in rounds)
    kept = {
        "loads are on demand": all(abs(each["loaded"] - each["asked"]) <= each["asked"] / 100 for each in rounds),
        "loads are bounded per host": all(0 < each["claims_most"] <= CLAIMS_MAX for each in rounds),
        "who wasn't moved feels at most twice the usual p99": times <= TIMES_MAX,
        "no errors": not errors and not any(each["errors"] for each in rounds),
    }
    return {
        "passed": all(kept.values()) and len(rounds) >= ROUNDS_MIN,
        "kept": kept,
        "times the usual p99, median": round(times, 2),
        "medians_ms": {
            name: statistics.median(each[name] for each in rounds)
            for name in ("usual_p50", "usual_p99", "then_p50", "then_p99", "moved_p50", "moved_p99", "moved_max")
        },
        "median cores": {
            name: statistics.median(each[name] for each in rounds) for name in ("usual_cores", "then_cores")
        },
        "rounds": rounds,
        "errors": errors[:20],
        "command": " ".join(["python -m loadtest.stampede", *sys.argv[1:]]),
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """``--rounds`` more rounds, and the verdict over all of their kind that are kept in ``--out``."""
    path = arguments.out / "rounds.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    async with Bare(arguments.port, AGENT, HOSTS, fsync="everysec", groups=LIMITS) as bare:
        with contextlib.closing(Stampede(bare, arguments.sessions, arguments.seed, arguments.per_s)) as stampede:
            errors = await stampede.fill()
            for _ in range(arguments.rounds):
                done = await stampede.round()
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(done)) + "\n")
                print(
                    f"{done.slot} died with {done.held} sessions: {done.asked} were asked, {done.loaded} loaded;"
                    f" others' p99 {done.usual_p99} -> {done.then_p99} ms ({done.times:.2f} times);"
                    f" theirs {done.moved_p99} ms; {done.usual_cores} and {done.then_cores} cores busy",
                    flush=True,
                )
    kept = path.read_text(encoding="utf-8").splitlines()
    return judged(of_one_kind(kept, arguments.sessions, arguments.per_s), errors)


def of_one_kind(lines: Sequence[str], sessions: int, per_s: float) -> list[dict[str, Any]]:
    """The rounds among them that had so many sessions and that rate: others say nothing of these."""
    rounds = [dict[str, Any](json.loads(line)) for line in lines]
    return [each for each in rounds if (each.get("sessions"), each.get("per_s")) == (sessions, per_s)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a host with thousands of sessions; nobody else may feel it.")
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-s", type=float, default=MOVED_PER_S, help="requests a second for the host's sessions")
    parser.add_argument("--port", type=int, default=8800, help="the first of its own ports")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/stampede"))
    arguments = parser.parse_args()
    if not 1 <= arguments.per_s <= PER_S_MAX:
        parser.error(f"--per-s is 1 to {PER_S_MAX}, not {arguments.per_s:g}")
    verdict = asyncio.run(run(arguments))
    text = json.dumps(verdict, indent=2)
    (arguments.out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(verdict["kept"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
