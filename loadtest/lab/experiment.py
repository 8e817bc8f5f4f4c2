"""``loadtest/run``: one scenario from nothing to ``verdict.json`` and ``report.html``, and back to nothing.

Three things run at the same time: Locust in a process of its own, the nemesis, and a look at the edge's map. When the
load has ended every session is read back, and only then is anything judged. Exit code 1 when an invariant is violated
or a fault had no effect; 2 when the experiment couldn't be carried out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.checker import check
from loadtest.client import Client, Unreadable, lines_of
from loadtest.conversations import load as conversations
from loadtest.history import History
from loadtest.lab import analysis, report
from loadtest.lab.deployment import Deployment, NotSo
from loadtest.lab.load import talking
from loadtest.lab.nemesis import CARRIED_OUT, Nemesis
from loadtest.lab.scenario import Scenario, names, read
from loadtest.stack import ROOT, NotUp, Stack, started
from loadtest.verdict import RULES, Verdict

AGENT = "actors.agents.chained:chained"
READERS = 16


async def experiment(stack: Stack, scenario: Scenario, out: Path, messages: list[str]) -> dict[str, Any]:
    """Load, faults, reading back, verdict; on a stack that runs. Writes history, verdict and report into ``out``."""
    deployment = Deployment(stack, scenario.hosts)
    await deployment.ready()
    await deployment.look_at_map()
    watching = asyncio.create_task(deployment.watch_map())
    try:
        begun, nemesis, trouble = await _under_load(deployment, scenario, out, messages)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    print("reading every session back ...", flush=True)
    unread = await read_back(stack.url, out)
    checked = check([out / "users.jsonl", out / "reads.jsonl"])
    ops = analysis.operations(out / "users.jsonl")
    analysis.count_traffic(nemesis.done, ops, deployment.snapshots)
    verdict = judge(scenario, nemesis, deployment, ops, checked, [*trouble, *unread])
    plots = [
        (
            "Latency, from the scheduled time (red at the bottom: unknown)",
            report.latency_plot(ops, nemesis.done, begun),
        ),
        ("Sessions per host", report.hosts_plot(ops, deployment.snapshots, begun)),
        ("Time to the next acknowledged turn", report.failover_plot(ops, nemesis.done, deployment.snapshots)),
    ]
    (out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    (out / "report.html").write_text(report.page(verdict, plots), encoding="utf-8")
    return verdict


async def _under_load(
    deployment: Deployment, scenario: Scenario, out: Path, messages: list[str]
) -> tuple[float, Nemesis, list[str]]:
    """When the load began, what was done to the deployment, and what went wrong with the experiment itself."""
    trouble = list[str]()
    async with talking(deployment.stack.url, scenario, out, messages) as talk:
        nemesis = Nemesis(deployment, scenario, talk.begun)
        try:
            await nemesis.run()
        except NotSo as error:
            trouble.append(str(error))
        trouble += await talk.end()
    return talk.begun, nemesis, trouble


async def read_back(url: str, out: Path) -> list[str]:
    """Every session's whole log into ``reads.jsonl``. What couldn't be read."""
    sessions = sorted({op.session for op in analysis.operations(out / "users.jsonl")})
    client, unread, turn = Client(url), list[str](), iter(sessions)
    with History(out / "reads.jsonl", first_op=1 << 40) as history:

        async def reader() -> None:
            for session in turn:
                op = history.invoke_read(session)
                try:
                    history.ok_read(op, lines_of(await client.turns(session)))
                except Unreadable as error:
                    history.info(op, 0, str(error)[:300])
                    unread.append(f"{session}: {error}")

        await asyncio.gather(*(reader() for _ in range(READERS)))
    return unread


def judge(
    scenario: Scenario,
    nemesis: Nemesis,
    deployment: Deployment,
    ops: list[analysis.Op],
    checked: Verdict,
    trouble: list[str],
) -> dict[str, Any]:
    """The verdict, with everything that it rests on."""
    faults, moved = nemesis.done, analysis.per_fault(nemesis.done, ops, deployment.snapshots)
    plain = [op for op in ops if not op.key]
    errors = [op for op in plain if op.kind != "ok"]
    sent = Counter(op.key for op in ops if op.key)
    by_host = [told for fault, told in zip(faults, moved, strict=True) if fault.slot not in ("*", "")]
    turns = sum(op.kind == "ok" for op in ops)
    invariants = {rule: {"counted": turns, "violated": checked.violated[rule]} for rule in RULES}
    invariants["moved though the ring kept them"] = {
        "counted": sum(told["observed"] for told in by_host),
        "violated": sum(told["unexpected"] for told in by_host),
    }
    invariants["faults without effect or traffic"] = {
        "counted": len(faults),
        "violated": sum(not fault.effective for fault in faults),
    }
    invariants["client errors, not streamed"] = {"counted": len(plain), "violated": len(errors)}
    return {
        "passed": not any(found["violated"] for found in invariants.values()) and checked.legal and not trouble,
        "scenario": scenario.model_dump(mode="json"),
        "invariants": invariants,
        "client_errors": dict(Counter(f"{op.kind} {op.status}" for op in errors)),
        "client_error_examples": [op.why for op in errors[:10]],
        "retries": sum(count - 1 for count in sent.values()),
        "turns": turns,
        "sessions": len({op.session for op in ops}),
        "latency_s": analysis.latencies(faults, ops),
        "faults": [
            asdict(fault) | {"effective": fault.effective, "moved": told}
            for fault, told in zip(faults, moved, strict=True)
        ],
        "maps_seen": len(deployment.snapshots),
        "trouble": trouble,
        "checker": checked.as_json(),
        **about_this(scenario, "loadtest/run"),
    }


def about_this(scenario: Scenario, program: str) -> dict[str, Any]:
    """What a verdict must say so that the experiment can be repeated."""
    return {
        "seed": scenario.seed,
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join([program, *sys.argv[1:]]),
    }


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip()


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The scenario on a stack of its own. ValueError if it wants what nobody can do yet."""
    scenario = read(arguments.scenario, smoke=arguments.smoke, seed=arguments.seed)
    wanted = {fault.do for fault in scenario.faults} | set(scenario.chance.among if scenario.chance else ())
    if missing := wanted - CARRIED_OUT:
        raise ValueError(f"{scenario.name}: the nemesis can't do {', '.join(sorted(missing))} yet.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    messages = [said for talk in conversations(arguments.conversations) for said in talk.messages]
    async with started(arguments.port, scenario.hosts, AGENT, scenario.fsync, arguments.port + 1) as stack:
        return await experiment(stack, scenario, arguments.out, messages if arguments.conversations else [])


def main() -> int:
    parser = argparse.ArgumentParser(prog="loadtest/run", description="Run one experiment and judge it.")
    parser.add_argument("scenario", choices=names())
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, help="folder for verdict, report and histories (.data/loadtest/SCENARIO)")
    parser.add_argument("--smoke", action="store_true", help="the short one: under 90 s")
    parser.add_argument("--conversations", type=Path, help="JSONL file whose messages are said")
    parser.add_argument(
        "--port", type=int, default=25_000, help="of its own deployment; the next one is Ray's dashboard"
    )
    arguments = parser.parse_args()
    arguments.out = (arguments.out or Path(".data/loadtest") / arguments.scenario).resolve()
    try:
        verdict = asyncio.run(run(arguments))
    except (ValueError, NotUp, NotSo, OSError, TimeoutError) as error:
        print(f"loadtest/run: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: verdict[key] for key in ("passed", "invariants", "latency_s", "turns", "faults")}, indent=1))
    print(f"{'passed' if verdict['passed'] else 'VIOLATED'}: {arguments.out}/report.html")
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
