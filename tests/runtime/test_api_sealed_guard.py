"""POST /chat/sealed with a replay guard: the newest state only, and one answer for one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.errors import StoreUnavailable
from actors.model import Sealed
from actors.stores.guard import GuardAnswer, Mark, MemoryGuard
from tests.runtime.api_world import SmallHost, World, events, serving
from tests.runtime.test_api_sealed import DAY_MS, SEALED, Counting, key, post, refused, talk


@pytest.fixture
async def guarded() -> AsyncIterator[World]:
    async with serving(SmallHost(agent=Counting()), sealed=SEALED) as served:
        served.guard = MemoryGuard(served.host.now_ms, 7 * DAY_MS / 1000, 600)
        yield served


async def test_the_guard_takes_the_newest_state_only_and_runs_no_agent_for_others(guarded: World) -> None:
    first = await talk(guarded, "a")
    await talk(guarded, "b", state=first["state"])
    problem = refused(await post(guarded, {"message": "c", "state": first["state"]}), 409, "state-superseded")
    assert problem["turn_seq"] == 2
    assert guarded.host.agent.runs == ["a", "b"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_very_same_request_gets_the_recorded_answer(guarded: World, stream: bool) -> None:
    first = await talk(guarded, "a")
    document = {"message": "b", "state": first["state"], "stream": stream}
    one, two = [await post(guarded, document, key("k-2")) for _ in range(2)]
    done = [events(raw.body)[-1][2] if stream else raw.json for raw in (one, two)]
    assert done[1] == done[0] | {"replayed": True}
    assert guarded.host.agent.runs == ["a", "b"]  # type: ignore[attr-defined]
    refused(await post(guarded, {**document, "message": "other"}, key("k-2")), 422, "key-mismatch")


async def test_a_repeated_begin_gets_the_recorded_answer(guarded: World) -> None:
    one, two = [await post(guarded, {"message": "a"}, key("k-1")) for _ in range(2)]
    assert two.json == one.json | {"replayed": True}
    assert two.header("x-session-state") == "new"


async def test_of_two_messages_from_one_state_one_is_the_turn(guarded: World) -> None:
    agent = guarded.host.agent
    assert isinstance(agent, Counting)
    state = (await talk(guarded, "a"))["state"]
    agent.open.clear()
    both = [asyncio.create_task(post(guarded, {"message": m, "state": state})) for m in ("left", "right")]
    await agent.has_begun(3)
    agent.open.set()
    answers = sorted(await asyncio.gather(*both), key=lambda raw: raw.status)
    assert answers[0].json["turn_seq"] == 2
    refused(answers[1], 409, "state-superseded")


async def test_two_runs_of_one_request_end_with_one_answer(guarded: World) -> None:
    """As when a host was frozen, and the edge repeated what it ran: the stream of the slower one is voided."""
    agent = guarded.host.agent
    assert isinstance(agent, Counting)
    agent.open.clear()
    both = [
        asyncio.create_task(post(guarded, {"message": "a", "stream": stream}, key("k-1"))) for stream in (False, True)
    ]
    await agent.has_begun(2)
    agent.open.set()
    whole, stream = await asyncio.gather(*both)
    told = events(stream.body)
    done = told[-1][2]
    last_turn = max(at for at, (name, _, _) in enumerate(told) if name == "turn")
    assert "".join(data["text"] for _, _, data in told[last_turn + 1 : -1]) == done["reply"]
    assert {key: value for key, value in done.items() if key != "replayed"} == {
        key: value for key, value in whole.json.items() if key != "replayed"
    }
    assert {done["replayed"], whole.json["replayed"]} == {True, False}


async def test_an_answer_that_is_not_kept_any_more_is_a_conflict(guarded: World) -> None:
    await post(guarded, {"message": "a"}, key("k-1"))
    guarded.host.clock_ms += 601_000
    problem = refused(await post(guarded, {"message": "a"}, key("k-1")), 409, "state-superseded")
    assert "guard_answer_s" in problem["detail"]
    assert problem["outcome"] == "unknown", "for it was done"


class Broken:
    """A guard that can't be reached, or whose answers get lost."""

    def __init__(self, real: MemoryGuard, lost: int = 0) -> None:
        self.real, self.lost = real, lost
        self.silent = False

    async def look(self, mark: Mark) -> GuardAnswer:
        if self.silent:
            raise StoreUnavailable("on purpose")
        return await self.real.look(mark)

    async def accept(self, mark: Mark, made: Sealed) -> GuardAnswer:
        answer = await self.real.accept(mark, made)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("on purpose")
        return answer

    async def aclose(self) -> None: ...


async def test_while_the_guard_is_away_nothing_is_taken() -> None:
    async with serving(SmallHost(agent=Counting()), sealed=SEALED, session={"claim_patience_s": 0.01}) as world:
        world.guard = broken = Broken(MemoryGuard(world.host.now_ms, 60, 60))
        broken.silent = True
        assert refused(await post(world, {"message": "a"}), 503, "store-unavailable")["outcome"] == "unknown"
        assert world.host.agent.runs == []  # type: ignore[attr-defined]


async def test_an_accept_whose_answer_was_lost_is_asked_again(guarded: World) -> None:
    assert isinstance(guarded.guard, MemoryGuard)
    guarded.guard = Broken(guarded.guard, lost=1)
    answer = await talk(guarded, "a")
    assert not answer["replayed"]
    assert (await talk(guarded, "b", state=answer["state"]))["turn_seq"] == 2


async def test_what_is_never_known_is_answered_as_unknown_and_repeated_by_its_key() -> None:
    async with serving(SmallHost(agent=Counting()), sealed=SEALED, session={"commit_patience_s": 0.01}) as world:
        world.guard = Broken(MemoryGuard(world.host.now_ms, 60, 60), lost=2)
        problem = refused(await post(world, {"message": "a"}, key("k-1")), 503, "store-unavailable")
        assert problem["outcome"] == "unknown"
        again = await post(world, {"message": "a"}, key("k-1"))
        assert again.json["replayed"]
        assert world.host.agent.runs == ["a"]  # type: ignore[attr-defined]


async def test_without_a_guard_no_problem_is_of_unknown_outcome(guarded: World) -> None:
    bad = {"message": "m", "state": "rs1.AAAA"}
    assert refused(await post(guarded, bad, key("k")), 400, "state-invalid")["outcome"] == "unknown"
    guarded.guard = None
    assert refused(await post(guarded, bad, key("k")), 400, "state-invalid")["outcome"] == "not_done"
