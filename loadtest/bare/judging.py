"""What thawed hosts did that they mustn't have: counted from the logs, the leases that were seen, and the answers.

Each rule compares what a client or the log shows with what is known to have stood in the store *earlier*, so that no
delay of the looking can accuse anybody. Nothing here knows which host was frozen: everybody is judged alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from loadtest.bare.store import Watch
from loadtest.bare.traffic import Final, Heard, words_of
from loadtest.client import Kind
from loadtest.verdict import Verdict

Logs = dict[str, list[dict[str, Any]]]

RULES = {
    "late write": "a turn was appended under an epoch after a newer one had been seen in the store",
    "stranger": "a turn was computed by another process than the holder of its epoch, or by two",
    "chain": "a reply was not computed from exactly its predecessor",
    "false final": "an answer was final, and the log doesn't have it so",
    "late delta": "a delta was computed, and sent, under an epoch after a newer one had been seen in the store",
    "two in a slot": "the table named two hosts for one slot at one time",
}


def judge(logs: Logs, watch: Watch, finals: list[Final], heard: list[Heard]) -> Verdict:
    """All rules over one deployment's life."""
    verdict = Verdict(tuple(RULES))
    for session, turns in logs.items():
        _judge_writes(verdict, session, turns, watch)
    _judge_finals(verdict, logs, finals)
    for delta in heard:
        verdict.counted["deltas"] += 1
        newest = watch.epoch_at(delta.session, delta.computed_at)
        if newest > delta.epoch:
            verdict.accuse(
                "late delta", f"{delta.session}: by {delta.pid} under {delta.epoch}, {newest} had begun: {delta}"
            )
    for at, table in watch.tables:
        verdict.counted["tables"] += 1
        if twice := [slot for slot, hosts in Counter(table.values()).items() if hosts > 1]:
            verdict.accuse("two in a slot", f"{twice} at {at}: {table}")
    return verdict


def _judge_writes(verdict: Verdict, session: str, turns: list[dict[str, Any]], watch: Watch) -> None:
    sights = watch.seen.get(session, [])
    holders = {sight.epoch: sight.incarnation.partition("-")[0] for sight in sights if sight.incarnation}
    authors: dict[int, int] = {}
    before = "-"
    for turn in turns:
        verdict.counted["turns"] += 1
        epoch, what = turn["epoch"], f"{session}: turn {turn['turn_seq']} under epoch {turn['epoch']}"
        for sight in sights:
            if sight.epoch > epoch and sight.turn_seq < turn["turn_seq"]:
                verdict.accuse("late write", f"{what}, when {sight} had been seen")
        pids = {pid for pid, _ in words_of(turn["reply"])}
        author = authors.setdefault(epoch, next(iter(pids)))
        if epoch in holders:
            verdict.counted["turns of a known holder"] += 1
        if pids != {author} or holders.get(epoch, str(author)) != str(author):
            verdict.accuse(
                "stranger", f"{what} is by {pids}; the epoch is {author}'s, and {holders.get(epoch)} held it"
            )
        if not turn["reply"].startswith(f"{turn['turn_seq'] - 1}:{before} "):
            verdict.accuse("chain", f"{what} begins with {turn['reply'][:24]}, its predecessor is {before}")
        before = hashlib.blake2b(turn["reply"].encode(), digest_size=8).hexdigest()


def _judge_finals(verdict: Verdict, logs: Logs, finals: list[Final]) -> None:
    recorded = {
        session: {turn["turn_id"]: (turn["turn_seq"], turn["reply"], turn["epoch"]) for turn in turns}
        for session, turns in logs.items()
    }
    keys = {(session, turn["message"].removeprefix("message ")) for session, turns in logs.items() for turn in turns}
    for final in finals:
        answer = final.answer
        verdict.counted["finals straight from a host" if final.straight else "finals"] += 1
        if answer.kind is Kind.OK:
            stands = recorded.get(final.session, {}).get(answer.turn_id)
            told = (answer.turn_seq, answer.reply, answer.epoch or (stands[2] if stands else 0))
            # An answer in JSON doesn't tell the epoch; the reply names the process.
            if stands != told:
                verdict.accuse("false final", f"{final.key} was answered {told}, the log has {stands}")
        elif final.shared and (final.session, final.key) in keys:
            verdict.accuse("false final", f"{final.key} was called not done ({answer.why}), the log has it")
