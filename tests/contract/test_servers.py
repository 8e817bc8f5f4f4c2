"""The servers that tests run on: their data stay when they are killed, and none outlives its test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import redis

from tests.servers import Durability, Server

PARENT = """
from tests.servers import Server
print(Server("valkey").start().pid, flush=True)
input()
"""


def test_a_server_dies_with_the_process_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([server], [], [], 10)
        assert ended
        os.close(server)
    finally:
        parent.kill()
        parent.communicate()


def test_a_server_keeps_its_data_and_port_when_it_is_killed_and_started_again() -> None:
    with Server("valkey", durability=Durability()) as server, redis.Redis(port=server.port) as client:
        client.set("a", "1")
        before = (server.port, server.pid)
        server.restart()
        assert client.get("a") == b"1"
        assert server.port == before[0]
        assert server.pid != before[1]


def test_a_server_leaves_nothing_behind() -> None:
    with Server("valkey") as server:
        folder, pid = server.folder, server.pid
        assert folder.exists()
    assert not folder.exists()
    assert not os.path.exists(f"/proc/{pid}")
