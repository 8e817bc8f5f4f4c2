"""One round trip to the store per turn on a resident session: counted by the server itself."""

from __future__ import annotations

from loadtest.generator import Generator
from tests.integration.deployment import Deployment

SECONDS = 1.5


async def test_a_turn_of_a_resident_session_costs_exactly_one_command() -> None:
    async with Deployment("actors.agents.echo:echo", hosts=2) as deployment:
        generator = Generator(deployment.url, connections=8, sessions=40, redis_url=deployment.server.url)
        await generator.connect()
        warm = await generator.warm_up()
        measured = await generator.measure(SECONDS)
        wrong = await generator.verify()
    cost = measured.per_turn
    assert cost is not None and not warm.errors and not measured.errors and not wrong
    assert cost.turns > 100 and set(measured.states) == {"resident"}
    assert cost.session_calls == cost.commits == cost.turns
    assert cost.unexplained == 0 and not cost.direct
