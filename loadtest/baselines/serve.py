"""One server of a rival: ``python -m loadtest.baselines.serve WAY --port P [--store URL ...]``, until it is ended."""

from __future__ import annotations

import argparse

import uvicorn

from loadtest.baselines.chat import Server
from loadtest.baselines.ways import MODULES, way_named

DRAIN_S = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=sorted(MODULES))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", action="append", default=[], help="URL; Redis before PostgreSQL")
    options = parser.parse_args()
    uvicorn.run(
        Server(way_named(options.way), options.store).app(),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
    )


if __name__ == "__main__":
    main()
