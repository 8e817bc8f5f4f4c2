"""Runs seeds and says what was wrong: the way in for tests, for mutants and for a person with a failing seed.

python -m tests.simulation.runner --seeds 2000        # from 0
python -m tests.simulation.runner --seed 373 --trace  # replay one, with all of its events
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import actors
from actors.settings import Settings
from tests.simulation.checker import check
from tests.simulation.cluster import Cluster
from tests.simulation.facts import Limits, Violation
from tests.simulation.history import History
from tests.simulation.loop import NeverEnds, SimLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.store_faults import Backend

SEED_S = 20.0
"""A seed takes about 0.05 s; one that takes this long never ends."""


def limits_of(settings: Settings, window: int | None) -> Limits:
    """What the checker has to know of them, and the agent's window."""
    session = settings.session
    return Limits(
        session.mailbox_max, session.attachments_max, session.resident_max, session.takeovers_max,
        settings.ring.beat_ttl_s, settings.store.timeout_s, session.hops_max, settings.ring.slots_max, window,
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """One seed's outcome. No violations: it passed."""

    seed: int
    violations: tuple[Violation, ...]
    history: History

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} violations, trace {self.history.trace_hash()}"]
        lines += [f"  {violation}" for violation in self.violations[:10]]
        return "\n".join([*lines, f"  replay: {replay_command(self.seed)}"])


def replay_command(seed: int) -> str:
    return f"python -m tests.simulation.runner --seed {seed} --trace"


@contextmanager
def _alarm(loop: SimLoop, seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        loop.overdue = True
        raise NeverEnds

    # Of this process's own time: on a busy machine a step that ends may take long.
    previous = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def run_seed(seed: int, backend: Callable[[Cluster], Backend] | None = None) -> Verdict:
    """Run and check one seed. Never raises for what the code under test does."""
    cluster = Cluster(seed, backend)
    with _alarm(cluster.loop, SEED_S):
        cluster.run()
    return Verdict(
        seed, tuple(check(cluster.history.events, limits_of(cluster.settings, cluster.plan.window))), cluster.history
    )


def run_seeds(
    seeds: Iterable[int], until_failures: int = 3, backend: Callable[[Cluster], Backend] | None = None
) -> tuple[int, list[Verdict]]:
    """How many seeds ran, and those that failed; stops after ``until_failures`` of them."""
    failed: list[Verdict] = []
    count = 0
    gc.collect()
    gc.freeze()
    for seed in seeds:
        verdict = run_seed(seed, backend)
        count += 1
        if count % 50 == 0:
            gc.collect()
        if verdict.violations:
            failed.append(verdict)
            if len(failed) >= until_failures:
                break
    return count, failed


def _on(server: str) -> Callable[[Cluster], Backend]:
    if server.startswith("postgresql:"):
        from tests.simulation.postgres_backend import PostgresBackend

        return PostgresBackend.on(server)
    if server.startswith("hybrid+"):
        from tests.simulation.hybrid_backend import HybridBackend

        return HybridBackend.on(server)
    from tests.simulation.redis_backend import RedisBackend

    return RedisBackend.on(server)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="run so many")
    parser.add_argument("--first", type=int, default=0, help="from this seed on")
    parser.add_argument("--step", type=int, default=1, help="every so many: to share seeds among processes")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="print all events of --seed")
    parser.add_argument("--failures", type=int, default=3, help="stop after so many failing seeds")
    parser.add_argument("--server", default="", help="URL of a server to run the real scripts on, which is emptied")
    args = parser.parse_args()
    backend = None
    if args.server:
        backend = _on(args.server)
    if args.seed is not None:
        verdict = run_seed(args.seed, backend)
        if args.trace:
            sys.stdout.writelines(verdict.history.trace())
        print(verdict)
        return bool(verdict.violations)
    started = time.monotonic()
    count, failed = run_seeds(range(args.first, args.first + args.seeds, args.step), args.failures, backend)
    for verdict in failed:
        print(verdict)
    code = Path(actors.__file__).parent.parent
    print(f"{count} seeds of {code}, {len(failed)} failed, {time.monotonic() - started:.1f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
