"""The servers that tests run on: their data stay when they are killed, and none outlives its test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest
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
        client.set("a", "1", ex=60)
        before = (server.port, server.pid)
        server.restart()
        assert client.get("a") == b"1"
        assert server.port == before[0]
        assert server.pid != before[1]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_server_on_which_a_key_would_stay_for_ever_fails_its_test_and_is_gone(frozen: bool) -> None:
    server = Server("valkey", password="a secret").start()
    with redis.Redis(port=server.port, password="a secret") as client:
        client.set("x:schema", "1")
        client.hset("x:{members}:table", "a", "1")
        client.set("x:brief", "1", ex=60)
        client.set("x:for ever", "1")
    pid = server.pid
    if frozen:
        server.freeze()
    with pytest.raises(AssertionError, match=r"\['x:for ever'\]"):
        server.stop()
    assert not os.path.exists(f"/proc/{pid}")
    assert not server.folder.exists()
    server.stop()


def test_a_test_that_failed_is_not_told_of_keys_instead() -> None:
    own = pytest.raises(ValueError, match="the test's own")
    with own, Server("valkey") as server, redis.Redis(port=server.port) as client:
        client.set("for ever", "1")
        raise ValueError("the test's own")


def test_a_server_leaves_nothing_behind() -> None:
    with Server("valkey") as server:
        folder, pid = server.folder, server.pid
        assert folder.exists()
    assert not folder.exists()
    assert not os.path.exists(f"/proc/{pid}")
