"""Hosts whose rings disagree about nearly every session, for as long as they live, and an agent slower than every wait.

    python -m loadtest.rings_apart [--turns 4] [--sessions 24] [--seed 1]

Three hosts without Ray that read one membership table and make three rings of it, because each has another number of
points per slot (``ring.vnodes``). Two clients talk in each session, every request straight to any host, while a turn
takes longer than a batch waits for a lease, a claim for its answer, and a request for its turn once two others wait
before it. Halfway a fourth host joins, with a ring of its own. Demanded: every turn is acknowledged in the end; each
session is claimed at most once, and once more for the change of the ring; the rules of ``bare.judging`` and the
checker find nothing. Exit code 1 if not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from loadtest.bare.deployment import Bare, Groups, Host, until
from loadtest.bare.judging import judge
from loadtest.bare.patched import without
from loadtest.bare.store import Store, Watch
from loadtest.bare.traffic import Traffic
from loadtest.checker import check
from loadtest.client import Client, Kind
from loadtest.history import History
from loadtest.stack import ROOT

AGENT = "loadtest.agents:witness"
AGENT_S = 2.5
CLIENTS = 2
VNODES = (1, 7, 160)
JOINS = 31
"""Points per slot of the host that joins."""
LIMITS: Groups = {
    "agent": {"deadline_s": 4.0},
    "session": {"request_wait_s": 4.0, "handoff_wait_s": 1.0, "claim_patience_s": 1.0, "commit_patience_s": 1.0},
    "http": {"hand_off_s": 1.0},
}
JOIN_S = 10.0
GIVE_UP_S = 120.0
COME_BACK_S = 0.05


class Talks:
    """Two clients in each session, at any host."""

    def __init__(self, traffic: Traffic, hosts: list[Host], seed: int) -> None:
        self._traffic = traffic
        self._hosts = hosts
        self._random = random.Random(seed)
        self.asked: Counter[Kind] = Counter()

    async def talk(self, session: str, turns: int) -> None:
        """So many messages, each again and again until it is acknowledged."""
        for _ in range(turns):
            key = self._traffic.key(session)
            deadline = time.monotonic() + GIVE_UP_S
            while True:
                straight = Client(self._random.choice(self._hosts).address, 3 * LIMITS["session"]["request_wait_s"])
                metadata, streams = {"words": 5, "over_s": AGENT_S}, self._random.random() < 0.5
                answer = await self._traffic.once(session, key, metadata, streams=streams, straight_to=straight)
                self.asked[answer.kind] += 1
                if answer.kind is Kind.OK:
                    break
                if time.monotonic() > deadline:
                    self._traffic.trouble.append(f"{key} was never acknowledged: {answer}")
                    return
                await asyncio.sleep(COME_BACK_S)


async def experiment(port: int, sessions: int, turns: int, seed: int, out: Path, code: Path = ROOT) -> dict[str, Any]:
    """The whole of it. ``turns``: of each client before and after the change."""
    names = [f"apart-{number}" for number in range(sessions)]
    begun = time.monotonic()
    each: list[Groups] = [{"ring": {"vnodes": vnodes}} for vnodes in VNODES]
    async with Bare(port, AGENT, len(VNODES), code=code, groups=LIMITS, each=each) as bare:
        history, store = History(out / "history.jsonl"), Store(bare.redis_url)
        with contextlib.closing(history), contextlib.closing(store):
            history.start(AGENT, seed=seed)
            traffic, watch = Traffic(bare.client, history, seed), Watch(store, names)
            watching = asyncio.create_task(watch.run())
            talks, claims = Talks(traffic, bare.hosts, seed), list[int]()
            for change in range(2):
                if change:
                    await _joined(bare)
                async with asyncio.TaskGroup() as group:
                    for name in names * CLIENTS:
                        group.create_task(talks.talk(name, turns))
                await watch.look()
                claims.append(max(watch.seen[name][-1].claims for name in names))
            watching.cancel()
            await asyncio.wait([watching])
            logs = await traffic.logs(names)
    judged, checked = judge(logs, watch, traffic.finals, traffic.heard), check([out / "history.jsonl"])
    acknowledged = sum(traffic.acknowledged.values())
    kept = {
        "every lease was seen": watching.cancelled(),
        "turns go on": not traffic.trouble and {len(log) for log in logs.values()} == {2 * CLIENTS * turns},
        "one claim of a session": claims[0] == 1,
        "at most one more for the change": claims[1] <= 2,
        "nothing of thawed hosts' kind": judged.legal,
        "the checker finds nothing": checked.legal,
    }
    return {
        "passed": all(kept.values()),
        "kept": kept,
        "claims of a session, most": claims,
        "sessions": sessions,
        "acknowledged": acknowledged,
        "asked": {kind.value: count for kind, count in talks.asked.items()},
        "judged": judged.as_json(),
        "checker": checked.as_json(),
        "trouble": traffic.trouble,
        "seconds": round(time.monotonic() - begun, 1),
        "command": " ".join(["python -m loadtest.rings_apart", *sys.argv[1:]]),
    }


async def _joined(bare: Bare) -> None:
    """A fourth host, whose ring is like nobody's."""
    joined = await bare.start_host({"ring": {"vnodes": JOINS}})

    async def known() -> bool:
        return all([joined.incarnation in str(await host.ring()) for host in bare.hosts])

    await until(known, "the fourth host on all rings", JOIN_S)


def main() -> int:
    parser = argparse.ArgumentParser(description="Rings set apart, and an agent slower than every wait.")
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--turns", type=int, default=4, help="of each client, before and after the change")
    parser.add_argument("--port", type=int, default=8800, help="the first of its own ports")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="a copy whose hosts hand on at once; must be convicted")
    parser.add_argument("--out", type=Path, default=Path(".data/loadtest/rings_apart"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rehydra-patched-") as folder:
        code = without("calm", Path(folder)) if arguments.control else ROOT
        run = experiment(arguments.port, arguments.sessions, arguments.turns, arguments.seed, arguments.out, code)
        verdict = asyncio.run(run)
    text = json.dumps(verdict, indent=2)
    (arguments.out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    if arguments.control:
        return int(verdict["kept"]["one claim of a session"])
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
