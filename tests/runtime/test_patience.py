"""Asking the store again while its answer is unknown. In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import Outcome, StoreFull, StoreUnavailable
from actors.patience import until_known
from tests.runtime.world import in_virtual_time


class Call:
    """Fails after ``each_s`` as often as it is told to, then answers."""

    def __init__(self, *failures: Exception, each_s: float = 0.0) -> None:
        self.failures = list(failures)
        self.each_s = each_s
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        await asyncio.sleep(self.each_s)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def test_a_try_that_is_noticed_late_is_not_the_last_one_if_it_began_in_time() -> None:
    """A stalled loop finds the answer in its socket and the time-out expired: it must ask again, not give up."""

    async def scenario() -> None:
        call = Call(StoreUnavailable(), each_s=60.0)
        assert await until_known(call, patience_s=5.0) == "answer"
        assert call.tries == 2

    in_virtual_time(scenario)


def test_patience_ends() -> None:
    async def scenario() -> None:
        call = Call(*[StoreUnavailable() for _ in range(100)], each_s=1.0)
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await until_known(call, patience_s=5.0)
        assert 5.0 <= asyncio.get_running_loop().time() - began <= 7.0

    in_virtual_time(scenario)


def test_a_full_store_is_not_done_only_if_no_earlier_try_may_have_been_applied() -> None:
    async def scenario() -> None:
        with pytest.raises(StoreFull) as certain:
            await until_known(Call(StoreFull()), patience_s=5.0)
        assert certain.value.outcome is Outcome.NOT_DONE
        doubtful = Call(StoreUnavailable(), *[StoreFull() for _ in range(100)])
        with pytest.raises(StoreUnavailable) as unknown:
            await until_known(doubtful, patience_s=5.0)
        assert unknown.value.outcome is Outcome.UNKNOWN
        assert await until_known(Call(StoreUnavailable(), StoreFull()), patience_s=5.0) == "answer"

    in_virtual_time(scenario)
