"""``python -m deploy.sweep``: delete the sessions that have expired from a DynamoDB table (``store.url``).

Once a day or so; why it is needed stands in ``actors/stores/dynamodb/sweep.py``. The other stores clear away by
themselves. Exit code 2 and one line if it can't begin, 1 if it was broken off; it may be started again at any time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.parse import urlsplit

from actors.errors import Misconfigured, StoreUnavailable
from actors.settings import Settings
from actors.stores import unfit_store
from deploy.config import load


async def run(settings: Settings) -> str:
    """What was done, in one line. Misconfigured says why nothing was; StoreUnavailable that it was broken off."""
    if urlsplit(settings.store.url).scheme != "dynamodb":
        raise Misconfigured("store.url names no DynamoDB table; every other store clears away by itself.")
    if unfit := await unfit_store(settings):
        raise Misconfigured(unfit)
    from actors.stores.dynamodb.address import Address  # noqa: PLC0415 - its client is an extra
    from actors.stores.dynamodb.sweep import sweep  # noqa: PLC0415
    from actors.stores.dynamodb.transport import Transport  # noqa: PLC0415

    transport = Transport(Address.of(settings.store.url), settings.store)
    try:
        swept = await sweep(transport, settings.store.prefix, time.time_ns() // 1_000_000)
    finally:
        await transport.aclose()
    return f"{swept.deleted} of {swept.seen} items were of sessions that have ended, and are deleted."


def main() -> int:
    """The exit code."""
    try:
        print(asyncio.run(run(load())))
    except (Misconfigured, StoreUnavailable) as error:
        print(f"deploy.sweep: {error.detail}", file=sys.stderr)
        return 2 if isinstance(error, Misconfigured) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
