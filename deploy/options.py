"""What ``deploy/up`` can be told."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

DESCRIPTION = """\
Run Rehydra here: its store, Ray, Ray Serve, three session hosts, and the edge that clients talk to.
It stays until Ctrl-C or deploy/down; the talks stay for the next start."""

ENVIRONMENT = """\
environment:
  REDIS_URL              use this Redis (or Valkey) instead of the bundled one
  POSTGRES_URL           with --store postgres or hybrid: use this PostgreSQL instead of one of its own
  REHYDRA_<GROUP>__<NAME>  any setting of README.md's table, such as REHYDRA_SESSION__IDLE_S=60
"""


STORES = {"redis": ("REDIS_URL",), "postgres": ("POSTGRES_URL",), "hybrid": ("REDIS_URL", "POSTGRES_URL")}
"""What ``--store`` takes, and the variables that name servers which run already."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, understood."""

    port: int
    bind: str
    hosts: int
    agent: str
    data_dir: str
    fsync: str
    detach: bool
    dashboard_port: int
    nodes: int
    store: str


def parse(arguments: list[str]) -> Options:
    """Exits with 2 and a usage line when the arguments make no sense, with 0 after ``--help``."""
    parser = argparse.ArgumentParser(
        prog="deploy/up",
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=8000, help="where clients connect (8000)")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="address of that port (127.0.0.1)")
    parser.add_argument("--replicas", "--hosts", type=_count, default=3, dest="hosts", help="session hosts (3)")
    parser.add_argument("--agent", default="", metavar="MODULE:NAME", help="the agent (actors.agents.recall:recall)")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="data, state and logs (.data/<port>)")
    parser.add_argument(
        "--store",
        choices=STORES,
        default="redis",
        help="where the talks are kept: redis (the default), postgres, or hybrid: Redis in front, PostgreSQL behind",
    )
    parser.add_argument(
        "--fsync",
        choices=("always", "everysec"),
        default="always",
        help="when a store of its own writes to disk: before each answer (the default), or once a second",
    )
    parser.add_argument("--detach", action="store_true", help="return as soon as it works; end it with deploy/down")
    parser.add_argument(
        "--dashboard-port", type=_port, default=0, metavar="PORT", help="have Ray's dashboard and REST API, too"
    )
    parser.add_argument(
        "--nodes",
        type=_nodes,
        default=0,
        help="run the hosts on so many Ray nodes (raylets) of their own, beside the head, which keeps the edge (0)",
    )
    found = parser.parse_args(arguments)
    # Kept as typed otherwise: the folder of a stack is found again by deploy/down under the same name.
    data_dir = os.path.abspath(os.path.expanduser(found.data_dir)) if found.data_dir else ""
    return Options(**{**vars(found), "data_dir": data_dir})


def _port(text: str) -> int:
    return _between(text, 1, 65_535, "a port")


def _count(text: str) -> int:
    return _between(text, 1, 64, "a number of hosts")


def _nodes(text: str) -> int:
    return _between(text, 0, 16, "a number of nodes")


def _between(text: str, least: int, most: int, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} isn't {what} ({least} to {most})")
    return number
