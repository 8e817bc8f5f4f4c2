"""``serve deploy deploy/serve.yaml`` on a Ray cluster that runs, as the README says: deploy, talk, scale down.

The cluster is this test's own and has other ports than the file; nothing else about the file is changed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import processes
from deploy.keeper import kept
from loadtest.client import Client, Kind, Unreadable
from tests.servers import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
CLUSTER = """
import os, sys, ray
ray.init(address="local", num_cpus=4, object_store_memory=80_000_000, include_dashboard=True, log_to_driver=False,
         dashboard_port=int(sys.argv[1]), _temp_dir=sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
"""
SESSIONS = 12

pytestmark = pytest.mark.timeout(3 * START_S)


class OnACluster:
    """A Ray cluster without anything on it, and the command line of Serve."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.dashboard_port, self.edge_port, self.proxy_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.edge_port}"
        # Sockets of Ray stand below it, whose names must be short.
        self._ray = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._env |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}",
            "PYTHONPATH": str(ROOT),
            "REHYDRA_STORE__URL": redis_url,
        }
        command = kept([sys.executable, "-c", CLUSTER, str(self.dashboard_port), self._ray])
        with open(folder / "cluster.log", "wb") as log:
            self._child = subprocess.Popen(
                command, cwd=ROOT, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def until_it_runs(self) -> None:
        assert self._child.stdout is not None
        # Whatever Ray itself has to say comes before.
        assert any(line == "ready\n" for line in self._child.stdout), (self.folder / "cluster.log").read_text()

    def serve(self, *arguments: str) -> str:
        """``serve ...`` of this environment."""
        program = str(Path(sys.executable).parent / "serve")
        done = subprocess.run(
            [program, *arguments], cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=START_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def config(self, file: str = "serve.yaml", args: dict[str, Any] | None = None, **hosts: Any) -> str:
        """The project's file with this test's ports, ``args``, and Serve's options of the ``hosts``."""
        config: Any = yaml.safe_load((ROOT / "deploy" / file).read_text())
        config["http_options"]["port"] = self.proxy_port
        (application,) = config["applications"]
        application["args"] |= args or {}
        application["args"]["edge"] |= {"port": self.edge_port, "run_dir": str(self.folder / "edge")}
        application["deployments"][0] |= hosts
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def end(self) -> None:
        below = processes.below(self._child.pid)
        self._child.send_signal(signal.SIGUSR1)
        try:
            self._child.wait(30)
        finally:
            self._child.kill()
            shutil.rmtree(self._ray, ignore_errors=True)
        assert processes.wait_gone(set(below), 5.0) == set()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnACluster]:
    with Server("valkey") as server:
        cluster = OnACluster(tmp_path_factory.mktemp("cluster"), server.url)
        try:
            cluster.until_it_runs()
            yield cluster
        finally:
            cluster.end()


async def hosts_are(client: Client, hosts: int) -> None:
    """Return once the edge's ring has so many slots."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, ring = await client.get("/ring")
                if len(ring.get("slots", {})) == hosts:
                    return
            except Unreadable:
                pass
            await asyncio.sleep(0.1)


async def test_the_file_is_deployed_and_deployed_again_with_fewer_hosts_without_an_error(cluster: OnACluster) -> None:
    client = Client(cluster.url)
    await asyncio.to_thread(cluster.serve, "deploy", cluster.config(num_replicas=3))
    await hosts_are(client, 3)
    names = [f"talk-{number}" for number in range(SESSIONS)]
    for name in names:
        assert (await client.chat(name, "My name is Ann.")).turn_seq == 1
    assert "RUNNING" in await asyncio.to_thread(cluster.serve, "status")
    leaving = asyncio.Event()

    async def talk(name: str) -> int:
        turns = 1
        while not leaving.is_set():
            answer = await client.chat(name, "What is my name?")
            assert answer.kind is Kind.OK and "Ann" in answer.reply, answer
            turns += 1
            assert answer.turn_seq == turns
            await asyncio.sleep(0.05)
        return turns

    talks = [asyncio.create_task(talk(name)) for name in names]
    await asyncio.to_thread(cluster.serve, "deploy", cluster.config(num_replicas=1))
    await hosts_are(client, 1)
    leaving.set()
    for name, turns in zip(names, await asyncio.gather(*talks), strict=True):
        assert len(await client.turns(name)) == turns
