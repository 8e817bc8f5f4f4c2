"""Calls in any order, by any host, with losses in between: every answer must be the model's.

The model is a list of turn ids and who holds the lease; what the store works out from an index and two numbers, it
reads off the list. Hypothesis makes the histories and shortens one that fails.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.model import HostRef, Lease
from actors.stores.base import (
    Ahead,
    Buried,
    Deleted,
    Fenced,
    Granted,
    Held,
    Mismatch,
    Missing,
    Ok,
    Regressed,
    Replayed,
    Turns,
)
from tests.contract.conftest import HYBRIDS, lab_of
from tests.contract.lab import ANNA, BERT, CARL, Lab, fresh_key, turn

A = TypeVar("A")
WINDOWS = st.sampled_from([None, None, 1, 2, 5])
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "60"))
SLOWER = {"postgres": 4, **dict.fromkeys(HYBRIDS, 8), "moto": 30, "ministack": 12, "mongomock": 2}
"""How many times as long a history takes there as on the others."""


@dataclass
class Life:
    """One life of a session as the model sees it."""

    born: int
    epoch: int
    holder: HostRef | None = None
    token: str = ""
    takeovers: int = 0
    running: str = ""
    suspects: tuple[str, ...] = ()
    deleted: bool = False
    log: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    state: bytes = b""


@dataclass
class View:
    """What one activation believes: its lease, the log it knows, and its last attempt."""

    host: HostRef
    lease: Lease
    log: list[str]
    attempt: str = ""


class AnyOrder(RuleBasedStateMachine):
    """One session; three hosts with any number of activations, each of which may be long out of date."""

    make_lab: Callable[[], Lab]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.lab = self.make_lab()
        self.store = self.lab.store()
        self.key = fresh_key()
        self.life: Life | None = None
        self.views: list[View] = []
        self.saved: tuple[object, Life | None] | None = None
        self.count = 0

    def teardown(self) -> None:
        self.run(self.lab.aclose())
        self.runner.close()

    def run(self, call: Coroutine[Any, Any, A]) -> A:
        return self.runner.run(call)

    def fresh(self, what: str) -> str:
        self.count += 1
        return f"{what}-{self.count}"

    # --- the model's judgement ----------------------------------------------------------------------------------

    def fence(self, view: View) -> Fenced | Regressed | Deleted | None:
        life = self.life
        if life is None:
            return Fenced(None, 0, 0)
        if life.deleted:
            return Deleted()
        fenced = Fenced(life.holder, life.epoch, len(life.log))
        if life.born != view.lease.born:
            return fenced
        if view.lease.epoch > life.epoch:
            return Regressed(len(life.log))
        if life.holder and (view.lease.epoch, view.lease.token) == (life.epoch, life.token):
            return None
        return fenced if self.begins_with(view.log) else Regressed(len(life.log))

    def begins_with(self, log: list[str]) -> bool:
        assert self.life is not None
        return self.life.log[: len(log)] == log

    def committed(self, view: View, turn_id: str, fingerprint: str) -> object:
        refusal = self.fence(view)
        if refusal or self.life is None:
            return refusal
        if turn_id in self.life.log:
            known = turn(self.life.log.index(turn_id) + 1, turn_id, self.life.fingerprints[turn_id])
            return Replayed(known) if fingerprint == known.fingerprint else Mismatch()
        if not self.begins_with(view.log):
            return Regressed(len(self.life.log))
        return Ahead(len(self.life.log)) if len(self.life.log) > len(view.log) else Ok()

    def checked(self, view: View, turn_id: str) -> object:
        refusal = self.fence(view)
        if refusal or self.life is None:
            return refusal
        if not self.begins_with(view.log):
            return Regressed(len(self.life.log))
        if turn_id in self.life.log:
            turn_seq = self.life.log.index(turn_id) + 1
            return Replayed(turn(turn_seq, turn_id, self.life.fingerprints[turn_id]))
        return Ok()

    # --- what hosts do ------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.claim(ANNA)

    @rule(host=st.sampled_from([ANNA, BERT, CARL]), window=WINDOWS)
    def claim(self, host: HostRef, window: int | None = None) -> None:
        self._claim(host, self.fresh("token"), None, window)

    @rule(host=st.sampled_from([ANNA, BERT, CARL]), stale=st.integers(-1, 1), window=WINDOWS)
    def take_over(self, host: HostRef, stale: int, window: int | None) -> None:
        life = self.life
        if life and life.holder:
            self._claim(host, self.fresh("token"), (life.holder.incarnation, life.epoch + stale), window)

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def repeat_a_claim(self, data: st.DataObject) -> None:
        view = data.draw(st.sampled_from(self.views))
        self._claim(view.host, view.lease.token, None, data.draw(WINDOWS))

    def _claim(self, host: HostRef, token: str, over: tuple[str, int] | None, window: int | None) -> None:
        answer = self.run(self.store.claim(self.key, token, host, over, window))
        life = self.life
        if life is None:
            assert isinstance(answer, Granted)
            assert answer.lease.epoch == answer.lease.born
            life = self.life = Life(answer.lease.born, answer.lease.born)
        elif life.deleted:
            assert answer == Deleted()
            return
        elif life.holder and token == life.token:
            pass
        elif life.holder and life.holder != host and over != (life.holder.incarnation, life.epoch):
            assert answer == Held(life.holder, life.epoch)
            return
        else:
            if life.holder and life.holder != host:
                life.suspects = life.suspects if life.takeovers else ()
                if life.takeovers and life.running:
                    life.suspects = (*life.suspects, life.running)
                life.running = ""
                life.takeovers += 1
            life.epoch += 1
        life.holder, life.token = host, token
        assert isinstance(answer, Granted)
        assert answer.lease == Lease(life.epoch, token, life.born)
        assert [turn.turn_id for turn in answer.checkpoint.turns] == (life.log[-window:] if window else life.log)
        assert answer.checkpoint.turn_seq == len(life.log)
        assert answer.checkpoint.state == life.state
        assert answer.takeovers == life.takeovers
        assert answer.suspects == (life.suspects if life.takeovers else ())
        self.views = [*self.views[-7:], View(host, answer.lease, list(life.log))]

    @precondition(lambda self: self.views)
    @rule(data=st.data(), state=st.sampled_from([None, b"{}", b'{"n":1}']), fresh=st.booleans())
    def commit(self, data: st.DataObject, state: bytes | None, fresh: bool) -> None:
        view = data.draw(st.sampled_from(self.views))
        if fresh or not view.attempt:
            view.attempt = self.fresh("turn")
        self._commit(view, view.attempt, state, "f" * 32)

    @precondition(lambda self: self.views and self.life and self.life.log)
    @rule(data=st.data(), fingerprint=st.sampled_from(["f" * 32, "e" * 32]))
    def commit_what_is_known(self, data: st.DataObject, fingerprint: str) -> None:
        assert self.life is not None
        view = data.draw(st.sampled_from(self.views))
        self._commit(view, data.draw(st.sampled_from(self.life.log)), None, fingerprint)

    def _commit(self, view: View, turn_id: str, state: bytes | None, fingerprint: str) -> None:
        expected = self.committed(view, turn_id, fingerprint)
        previous = view.log[-1] if view.log else ""
        attempt = turn(len(view.log) + 1, turn_id, fingerprint)
        answer = self.run(self.store.commit(self.key, view.lease, previous, attempt, state))
        assert answer == expected
        if answer == Ok():
            assert self.life is not None
            self.life.log.append(turn_id)
            self.life.fingerprints[turn_id] = fingerprint
            self.life.takeovers = 0
            self.life.state = self.life.state if state is None else state
            view.log.append(turn_id)
            view.attempt = ""

    @precondition(lambda self: self.views)
    @rule(data=st.data(), about=st.sampled_from(["", "running", "refused"]), known=st.booleans())
    def check(self, data: st.DataObject, about: str, known: bool) -> None:
        view = data.draw(st.sampled_from(self.views))
        turn_id = ""
        if about:
            known = known and self.life is not None and bool(self.life.log)
            turn_id = data.draw(st.sampled_from(self.life.log)) if known and self.life else self.fresh("turn")
        running, refused = (turn_id if about == each else "" for each in ("running", "refused"))
        last = view.log[-1] if view.log else ""
        answer = self.run(self.store.check(self.key, view.lease, len(view.log), last, running, refused))
        assert answer == self.checked(view, turn_id)
        if running and answer == Ok():
            assert self.life is not None
            self.life.running = running

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        view = data.draw(st.sampled_from(self.views))
        answer = self.run(self.store.release(self.key, view.lease, len(view.log), view.log[-1] if view.log else ""))
        life = self.life
        if life is None:
            assert answer == Ok()
            return
        released = life.holder is None and (life.born, life.epoch) == (view.lease.born, view.lease.epoch)
        refusal = Deleted() if life.deleted else None if released else self.fence(view)
        if refusal is None:
            life.holder, life.token, life.takeovers = None, "", 0
            refusal = None if self.begins_with(view.log) else Regressed(len(life.log))
        assert answer == (refusal or Ok())

    @rule(really=st.integers(0, 9))
    def delete(self, really: int) -> None:
        if really:
            return  # Seldom, or nothing else would ever be seen.
        answer = self.run(self.store.delete(self.key, self.fresh("delete")))
        assert answer == (Buried(self.life.holder) if self.life else Missing())
        if self.life and not self.life.deleted:
            self.life = Life(self.life.born, self.life.epoch + 1, holder=self.life.holder, deleted=True)

    # --- what happens to the store ------------------------------------------------------------------------------

    @rule(really=st.integers(0, 5))
    def expire(self, really: int) -> None:
        if really:
            return
        self.run(self.lab.expire(self.key))
        self.run(self.lab.pass_ms(2))
        self.life = None

    @rule()
    def remember(self) -> None:
        self.saved = (self.run(self.lab.snapshot(self.key)), deepcopy(self.life))

    @precondition(lambda self: self.saved)
    @rule()
    def lose_the_tail(self) -> None:
        assert self.saved is not None
        snapshot, life = self.saved
        self.run(self.lab.restore(self.key, snapshot))
        self.life = deepcopy(life)

    @invariant()
    def every_reader_sees_the_log(self) -> None:
        answer = self.run(self.store.read(self.key, 0, 1000))
        if self.life is None:
            assert answer == Missing()
        elif self.life.deleted:
            assert answer == Deleted()
        else:
            assert isinstance(answer, Turns)
            assert [turn.turn_id for turn in answer.turns] == self.life.log
            assert answer.turn_seq == len(self.life.log)


@pytest.mark.parametrize("kind", ["memory", "valkey", "postgres", *HYBRIDS, "moto", "ministack", "mongomock"])
def test_any_order_of_calls_and_losses_is_answered_as_the_model_says(
    kind: str, server_url: Callable[[str], str]
) -> None:
    """I1, I3: on histories that nobody thought of."""

    class Machine(AnyOrder):
        def make_lab(self) -> Lab:
            return lab_of(kind, server_url)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=max(1, EXAMPLES // SLOWER.get(kind, 1)),
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
