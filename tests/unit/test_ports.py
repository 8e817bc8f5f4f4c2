"""Two runs of the tests at one time are never given the same ports."""

from __future__ import annotations

import subprocess
import sys

from tests.servers import RESERVED_MAX, ROW, free_port, free_ports

OTHER = """
import itertools, sys
from tests import servers
servers._rows = itertools.count((int(sys.argv[1]) - servers.PORTS.start) // servers.ROW)
print(servers.free_ports(1))
"""


def another_run(first: int) -> int:
    """What it is given when it begins to look there."""
    return int(subprocess.check_output([sys.executable, "-c", OTHER, str(first)], text=True))


def test_a_row_that_was_given_and_is_not_yet_listened_on_is_given_to_nobody_else() -> None:
    mine = free_ports(3)
    assert another_run(mine) not in range(mine, mine + ROW)


def test_rows_come_back_when_many_others_have_been_given() -> None:
    mine = free_port()
    given = [free_port() for _ in range(RESERVED_MAX)]
    assert mine not in given and len(set(given)) == RESERVED_MAX
    assert another_run(mine) == mine
