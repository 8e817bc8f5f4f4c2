"""A whole deployment on DynamoDB's stand-in, edge and all: hosts are killed and leave, and the service hangs.

Killed it would forget everything, as the real service never does: it keeps its tables in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.dynamodb_lab import ENVIRONMENT
from tests.emulators import Emulator
from tests.integration.deployment import Deployment, Talkers

HANGS_S = 3.0
"""Longer than a request to the store may take before it counts as unknown (``store.timeout_s``)."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    ministack = Emulator("ministack").start()
    yield ministack
    ministack.stop()


@pytest.mark.timeout(150)
async def test_clients_notice_nothing_of_what_happens_to_hosts_and_of_a_service_that_hangs(
    tmp_path: Path, service: Emulator
) -> None:
    """I2, I3, I4, I9: the edge follows the table in DynamoDB; no turn is lost, doubled or out of its order."""
    url = f"dynamodb://sessions?region=eu-west-1&endpoint={service.url}&create=true"
    async with (
        Deployment("actors.agents.echo:paced", hosts=3, store_url=url) as deployment,
        Talkers(deployment.client, tmp_path, 6) as talkers,
    ):
        await talkers.go_on()
        await deployment.host_in("slot-0").end()
        await talkers.go_on()
        deployment.host_in("slot-1").process.terminate()
        await talkers.go_on()
        service.freeze()
        await asyncio.sleep(HANGS_S)
        service.thaw()
        await talkers.go_on()
        assert await talkers.found_wrong() == []
        # What was streaming on the killed host breaks, after its head; nothing else is seen by anybody.
        assert [answer for answer in talkers.refusals if answer.status or not answer.slot] == []
