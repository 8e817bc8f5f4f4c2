"""A hybrid store from its settings: both servers looked at, and what is wrong with either said in one sentence.

Without PostgreSQL nothing works, so it must be there. A Redis that can't be reached is a warning: hosts are replaced
while it is away, too. One that is there and can't be used (a wrong password, eviction, a newer program's) is refused.
"""

from __future__ import annotations

import logging

from actors.errors import Misconfigured
from actors.settings import Settings, StoreSettings
from actors.stores import postgres_fit, redis_fit
from actors.stores.hybrid import HybridStore
from actors.stores.postgres_functions import OF_HYBRID
from actors.stores.postgres_lanes import Lanes
from actors.stores.postgres_schema import prepare
from actors.stores.redis import RedisStore
from actors.stores.redis_fit import NotReached
from actors.stores.redis_pipeline import Pipelines
from actors.stores.url import halves

log = logging.getLogger(__name__)


async def open_hybrid(settings: Settings, whole: bool = False) -> HybridStore:
    """The store that ``store.url`` names. Misconfigured says in one sentence what is wrong with it. That Redis can't be
    reached is wrong only if it has to be ``whole``."""
    own = settings.store
    redis, postgres = (own.model_copy(update={"url": url}) for url in halves(own.url))
    async with postgres_fit.fit_connection(postgres.url, own.timeout_s) as connection:
        await prepare(connection, postgres)
    gone = ""
    try:
        await (await RedisStore.open(settings.model_copy(update={"store": redis}))).aclose()
    except NotReached as error:
        if whole:
            raise
        gone = error.detail
    return HybridStore(Pipelines(redis), Lanes(postgres, OF_HYBRID), settings.session, own, own.sweep_s, gone)


async def unfit(own: StoreSettings) -> str:
    """What has become wrong with either since, in one sentence; "" if nothing has, or if Redis is away."""
    redis_url, postgres_url = halves(own.url)
    try:
        await postgres_fit.require_fit(postgres_url, own.timeout_s, warn=False)
        await redis_fit.require_fit(redis_url, own.timeout_s, warn=False)
    except NotReached:
        return ""
    except Misconfigured as error:
        return error.detail
    return ""
