"""SIGKILLs hosts under running conversations, then counts what is left of every one of them.

    python -m loadtest.kill_hosts [--conversations FILE] [--kills 12] [--out .data/loadtest/kill_hosts]

Starts a deployment of its own with three hosts, plays the conversations again and again in new sessions, and kills
one host after the other. A kill counts only if a turn was running on the victim (its stream had begun there) and if the
victim's process is gone afterwards; the next one waits until three hosts serve again. Then every conversation is read
back. The verdict (``verdict.json``, and exit code 1) holds that

- every conversation has its turns, in order, exactly once;
- no request that wasn't streamed had an error, without any retry by the client;
- every torn stream was completed by sending the same Idempotency-Key again;
- the checker finds nothing in the history; and there were as many kills as were wanted.

Deliberately not here: other faults than SIGKILL, and latencies beyond the few that show how long a kill was felt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.checker import check
from loadtest.client import Client, Unreadable
from loadtest.conversations import Player, Talk, load, play_all
from loadtest.history import History
from loadtest.processes import alive, listener_pid
from loadtest.stack import started

GONE_S = 5.0
"""How long a killed process may take to disappear."""

AGAIN_S = 90.0
"""How long the deployment may take until all hosts serve again."""

LOOK_S = 0.05


class Stuck(Exception):
    """The deployment didn't come back, so the experiment can't go on."""


@dataclass(slots=True)
class Kill:
    """One SIGKILL. ``streams``: how many had begun on the victim; ``effective``: it counts."""

    slot: str
    pid: int
    address: str
    streams: int
    gone: bool = False
    again_s: float = 0.0
    """Until all hosts served again."""

    @property
    def effective(self) -> bool:
        return self.gone and self.streams > 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted. ``at_once``: conversations at one time; ``minutes``: the longest it may take."""

    kills: int
    hosts: int
    at_once: int
    agent: str
    minutes: float
    seed: int


class Killer:
    """Kills hosts of one deployment, one at a time. Only processes that its ring names as listeners."""

    def __init__(self, client: Client, history: History, plan: Plan) -> None:
        self.kills: list[Kill] = []
        self._client = client
        self._history = history
        self._hosts = plan.hosts
        self._wanted = plan.kills
        self._random = random.Random(plan.seed)

    @property
    def effective(self) -> int:
        return sum(kill.effective for kill in self.kills)

    @property
    def ended(self) -> bool:
        return self.effective >= self._wanted

    async def run(self) -> None:
        """Kill until enough kills have hit a running turn. Stuck if the hosts don't come back."""
        addresses = await self._all_serve()
        while not self.ended:
            await asyncio.sleep(self._random.uniform(0.2, 1.5))
            if (kill := await self._kill(addresses)) is None:
                continue
            started = time.monotonic()
            addresses = await self._all_serve()
            kill.again_s = round(time.monotonic() - started, 2)
            print(
                f"kill {self.effective}/{self._wanted}: {kill.slot} (pid {kill.pid}), {kill.streams} streams ran there;"
                f" {self._hosts} hosts serve again after {kill.again_s} s",
                flush=True,
            )

    async def _kill(self, addresses: dict[str, str]) -> Kill | None:
        """Kill a host on which a turn runs; None if none does just now."""
        busy = sorted(self._busy().keys() & addresses.keys())
        if not busy:
            return None
        slot = self._random.choice(busy)
        if (pid := listener_pid(addresses[slot])) is None:
            return None
        # Nothing is awaited between this look and the signal: the streams that are counted are running.
        kill = Kill(slot, pid, addresses[slot], self._busy().get(slot, 0))
        if not kill.streams:
            return None
        os.kill(pid, signal.SIGKILL)
        self._history.fault("SIGKILL", slot=slot, pid=pid, streams=kill.streams)
        self.kills.append(kill)
        kill.gone = await _gone(pid)
        return kill

    def _busy(self) -> dict[str, int]:
        """Slot -> streams that have begun there and have not ended."""
        busy: dict[str, int] = {}
        for running in self._client.running.values():
            if running.streams and running.slot:
                busy[running.slot] = busy.get(running.slot, 0) + 1
        return busy

    async def _all_serve(self) -> dict[str, str]:
        """Slot -> address, once as many hosts as there should be are on the ring, ready, and answer chats."""
        deadline = time.monotonic() + AGAIN_S
        self._client.served.clear()
        while time.monotonic() < deadline:
            addresses = await self._ready()
            if len(addresses) == self._hosts and addresses.keys() <= self._client.served.keys():
                return addresses
            await asyncio.sleep(LOOK_S)
        raise Stuck(
            f"After {AGAIN_S:g} s only {await self._ready()} are ready, {dict(self._client.served)} answer chats."
        )

    async def _ready(self) -> dict[str, str]:
        try:
            _, ring = await self._client.get("/ring")
            addresses = {slot: host["address"] for slot, host in ring["slots"].items()}
            answers = [await Client(address, 2.0).get("/readyz") for address in addresses.values()]
        except (Unreadable, KeyError):
            return {}
        return addresses if all(status == 200 for status, _ in answers) else {}


async def _gone(pid: int) -> bool:
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        await asyncio.sleep(LOOK_S)
    return False


async def experiment(url: str, talks: list[Talk], out: Path, plan: Plan) -> dict[str, Any]:
    """Play, kill, read back and judge, against a deployment that runs. The verdict; ``passed`` is the word of it."""
    path, begun = out / "history.jsonl", time.monotonic()
    with History(path) as history:
        history.start(plan.agent.rpartition(":")[2], seed=plan.seed, kills=plan.kills)
        client = Client(url)
        player, killer = Player(client, history, plan.seed), Killer(client, history, plan)
        stuck = await _play_and_kill(player, killer, talks, plan)
        wrong = await player.read_back()
    verdict = check([path])
    kept = {
        "every conversation has its turns, in order, once": not wrong,
        "no errors without retries, torn streams completed": not player.tally.errors,
        "nothing lost, doubled, reordered or altered": verdict.legal,
        "enough kills": killer.ended and not stuck,
    }
    return {
        "passed": all(kept.values()),
        "kept": kept,
        "kills": {"effective": killer.effective, "all": [asdict(kill) for kill in killer.kills]},
        "conversations": len(player.played),
        "counts": dict(player.tally.counts),
        "felt_s": player.tally.felt(),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "stuck": stuck,
        "errors": player.tally.errors,
        "not whole": wrong,
        "checker": verdict.as_json(),
        "plan": asdict(plan),
        "command": " ".join(["python -m loadtest.kill_hosts", *sys.argv[1:]]),
    }


async def _play_and_kill(player: Player, killer: Killer, talks: list[Talk], plan: Plan) -> str:
    """All talks at least once, and until the killer has done its work. Why it couldn't, or ``""``."""
    begun, killing = time.monotonic(), asyncio.create_task(killer.run())

    def go_on() -> bool:
        in_time = time.monotonic() - begun < plan.minutes * 60
        return len(player.played) < len(talks) or (in_time and not killing.done())

    await play_all(player, talks, plan.at_once, go_on)
    killing.cancel()
    try:
        await killing
    except asyncio.CancelledError:
        return f"{plan.minutes:g} minutes have passed"
    except Stuck as error:
        return str(error)
    return ""


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The experiment on ``--url``, or on a deployment of its own."""
    talks = load(arguments.conversations)
    plan = Plan(arguments.kills, arguments.hosts, arguments.at_once, arguments.agent, arguments.minutes, arguments.seed)
    if arguments.url:
        return await experiment(arguments.url, talks, arguments.out, plan)
    async with started(arguments.port, arguments.hosts, arguments.agent) as stack:
        return await experiment(stack.url, talks, arguments.out, plan)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill hosts under running conversations; lose nothing.")
    parser.add_argument("--conversations", type=Path, help="JSONL file; default: built-in ones")
    parser.add_argument("--kills", type=int, default=12, help="SIGKILLs that must have hit a running turn")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=24, help="conversations at one time")
    parser.add_argument("--agent", default="actors.agents.echo:paced")
    parser.add_argument("--minutes", type=float, default=15.0, help="the longest it may take; fewer kills then fail")
    parser.add_argument("--port", type=int, default=8710, help="of its own deployment")
    parser.add_argument("--url", help="a deployment that runs already on this machine, in the place of one of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/kill_hosts"))
    arguments = parser.parse_args()
    verdict = asyncio.run(run(arguments))
    text = json.dumps(verdict, indent=2, ensure_ascii=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
