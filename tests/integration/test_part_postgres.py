"""A whole deployment on PostgreSQL, edge and all: hosts are killed and leave, the server is killed and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment, Talkers
from tests.postgres_server import start_postgres


@pytest.mark.timeout(120)
async def test_clients_notice_nothing_of_what_happens_to_hosts_and_to_the_server(tmp_path: Path) -> None:
    """I2, I3, I4, I9: the edge follows the table in PostgreSQL; no turn is lost, doubled or out of its order."""
    async with (
        Deployment("actors.agents.echo:paced", hosts=3, server=start_postgres()) as deployment,
        Talkers(deployment.client, tmp_path, 9) as talkers,
    ):
        await talkers.go_on()
        await deployment.host_in("slot-0").end()
        await talkers.go_on()
        deployment.host_in("slot-1").process.terminate()
        await talkers.go_on()
        await asyncio.to_thread(deployment.server.restart)
        await talkers.go_on()
        assert await talkers.found_wrong() == []
        # What was streaming on the killed host breaks, after its head; nothing else is seen by anybody.
        assert [answer for answer in talkers.refusals if answer.status or not answer.slot] == []
