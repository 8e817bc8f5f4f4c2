"""How many committed turns a second a deployment answers.

    python -m loadtest.bench --url http://127.0.0.1:8000 --connections 16 --sessions 200 --seconds 10 --rounds 5
    python -m loadtest.bench --start --replicas 2

Rounds of ``generator``, then every session's log is asked for its length, so that each counted turn is known to be
committed. The generator runs on the same machine: its own CPU is part of the report, and so is what others took, who
have nothing to do with it; a round in which they took much says little. Exit code 1 on any error, and if the median
of the rounds stays below ``--at-least``.
With ``--redis`` (or ``--start``) Redis' own counters say how many calls one turn cost; see ``redis_counts``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from loadtest.generator import Generator, Round
from loadtest.stack import started

ERRORS_TOLD_MAX = 10


def _told(round_: Round) -> str:
    line = f"{round_.turns_per_s:8.0f} turns/s   p50 {round_.quantile_ms(0.5):6.2f} ms"
    line += f"   p99 {round_.quantile_ms(0.99):6.2f} ms   errors {len(round_.errors)}"
    line += f"   cores: generator {round_.cpu_s / round_.seconds:.2f}, deployment {round_.stack_s / round_.seconds:.2f}"
    line += f", others {round_.others_s / round_.seconds:.2f}"
    if (cost := round_.per_turn) is not None:
        line += (
            f"\n         Redis: {cost.calls_per_turn:.6f} calls a turn, {cost.commits} commits for {cost.turns} turns;"
        )
        line += f" beside them {cost.membership_calls} of the membership, {cost.unexplained} unexplained"
        line += f", direct {dict(cost.direct)}"
    return line


def report(rounds: list[Round], wrong: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole result as JSON: medians over the rounds, with their extremes."""

    def spread(values: list[float]) -> dict[str, float]:
        middle = round(statistics.median(values), 3)
        return {"median": middle, "min": round(min(values), 3), "max": round(max(values), 3)}

    per_turn = [round_.per_turn for round_ in rounds if round_.per_turn is not None]
    return {
        "turns_per_s": spread([round_.turns_per_s for round_ in rounds]),
        "p50_ms": spread([round_.quantile_ms(0.5) for round_ in rounds]),
        "p99_ms": spread([round_.quantile_ms(0.99) for round_ in rounds]),
        "generator_cores": spread([round_.cpu_s / round_.seconds for round_ in rounds]),
        "deployment_cores": spread([round_.stack_s / round_.seconds for round_ in rounds]),
        "others_cores": spread([round_.others_s / round_.seconds for round_ in rounds]),
        "turns": sum(len(round_.latencies_s) for round_ in rounds),
        "errors": sum(len(round_.errors) for round_ in rounds) + len(wrong),
        "examples": [error for round_ in rounds for error in round_.errors][:ERRORS_TOLD_MAX] + wrong[:ERRORS_TOLD_MAX],
        "states": dict(sum((round_.states for round_ in rounds), Counter[str]())),
        "redis": {
            "session_calls": sum(one.session_calls for one in per_turn),
            "commits": sum(one.commits for one in per_turn),
            "calls_per_turn": [round(one.calls_per_turn, 6) for one in per_turn],
            "membership_calls": sum(one.membership_calls for one in per_turn),
            "unexplained": sum(one.unexplained for one in per_turn),
            "direct": dict(sum((Counter(one.direct) for one in per_turn), Counter[str]())),
        }
        if per_turn
        else None,
        "command": " ".join(["python -m loadtest.bench", *sys.argv[1:]]),
        "machine": {"cores": os.cpu_count()},
        "rounds": len(rounds),
        "seconds": arguments.seconds,
        "connections": arguments.connections,
        "sessions": arguments.sessions,
    }


@contextlib.asynccontextmanager
async def _deployment(arguments: argparse.Namespace) -> AsyncIterator[tuple[str, str | None, str]]:
    """URL of the deployment and of its Redis, and its processes' mark: one that runs, or one of our own."""
    if not arguments.start:
        yield arguments.url, arguments.redis, ""
        return
    async with started(arguments.port, arguments.replicas, arguments.agent, arguments.fsync) as stack:
        yield stack.url, arguments.redis or stack.redis_url, str(stack.folder)


def too_slow(result: dict[str, Any], at_least: float) -> bool:
    """Whether the median stays below ``at_least`` turns/s; says so."""
    reached = float(result["turns_per_s"]["median"])
    if reached < at_least:
        print(f"bench: {reached:.0f} turns/s; at least {at_least:.0f} were asked for", file=sys.stderr)
    return reached < at_least


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds; prints a line for each."""
    rounds, wrong = [], list[str]()
    async with _deployment(arguments) as (url, redis_url, mark):
        generator = Generator(url, arguments.connections, arguments.sessions, redis_url, mark)
        await generator.connect()
        warm = await generator.warm_up()
        wrong += warm.errors
        for number in range(arguments.rounds):
            rounds.append(await generator.measure(arguments.seconds))
            print(f"round {number + 1}: {_told(rounds[-1])}", flush=True)
        wrong += await generator.verify()
    return report(rounds, wrong, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure committed turns per second.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redis", help="URL of the deployment's Redis, to count its commands per turn")
    parser.add_argument("--out", type=Path, help="write the result there as JSON too")
    parser.add_argument("--start", action="store_true", help="start a deployment of its own, and end it")
    parser.add_argument("--port", type=int, default=8700, help="with --start: the port of its edge")
    parser.add_argument("--replicas", type=int, default=2, help="with --start")
    parser.add_argument("--agent", default="actors.agents.echo:echo", help="with --start")
    parser.add_argument("--fsync", default="everysec", help="with --start: Redis' appendfsync")
    parser.add_argument("--at-least", type=float, default=0.0, help="turns/s that the median of the rounds must reach")
    arguments = parser.parse_args()
    result = uvloop.run(run(arguments))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 1 if result["errors"] or too_slow(result, arguments.at_least) else 0


if __name__ == "__main__":
    sys.exit(main())
