"""``deploy/up`` and ``deploy/down`` as a person uses them: everything is real, and started by one command.

A start takes a quarter of a minute, so the tests share stacks: one folder, and one stack on it whenever a test needs
one. Each test leaves the folder in a state from which the next can go on, whichever that is.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from actors.settings import Settings
from deploy import processes
from deploy.app import build
from deploy.folder import Folder
from deploy.remains import remains
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 100.0
"""How long a start may take on a machine that is busy with other things; alone it takes 13 s on two cores."""
SECOND_START_S = 30.0
"""What is promised for a start on a folder with talks, on a machine that does nothing else."""
GONE_S = 2.0
"""How long a stack outlives its killed supervisor, at most: 0.13-0.17 s alone, 0.84 s beside a load of 8."""

pytestmark = pytest.mark.timeout(4 * START_S)


def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **more}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=START_S, check=False)


class StackUnderTest:
    """A stack of two hosts on a port and a folder of its own."""

    def __init__(self, path: Path, *options: str, **variables: str) -> None:
        self.port = free_port()
        self.options = options
        self.variables = variables
        self.where = ("--port", str(self.port), "--data-dir", str(path))
        self.folder = Folder(self.port, str(path))

    def up(self) -> str:
        """Have it run; returns what the start said, if there was one."""
        if self.folder.state().get("phase") == "ready":
            return ""
        started = run("deploy/up", "--detach", "--replicas", "2", *self.options, *self.where, **self.variables)
        assert started.returncode == 0, started.stdout + started.stderr
        return started.stdout

    def down(self) -> subprocess.CompletedProcess[str]:
        return run("deploy/down", *self.where)

    def left(self) -> list[str]:
        """What still runs of it."""
        return [processes.command(process.pid) for process in processes.marked(self.folder.mark)]

    def ask(self, method: str, path: str, body: object = None, wait_s: float = 10.0) -> tuple[int, Any]:
        """One request, no second try."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=wait_s)
        try:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, {**json.loads(answer.read()), "slot": answer.headers.get("x-served-by")}
        finally:
            connection.close()

    def say(self, session_id: str, message: str) -> dict[str, Any]:
        status, answer = self.ask("POST", "/chat", {"session_id": session_id, "message": message})
        assert status == 200, answer
        return dict(answer)

    def hosts(self) -> dict[str, int]:
        """slot -> pid"""
        _, ring = self.ask("GET", "/ring")
        return {slot: member["pid"] for slot, member in ring["slots"].items()}

    def until(self, done: Callable[[], bool], wait_s: float = 30.0) -> None:
        deadline = time.monotonic() + wait_s
        while not done():
            assert time.monotonic() < deadline
            # As for any client, there is nothing to wait for but the next answer.
            threading.Event().wait(0.1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackUnderTest]:
    under_test = StackUnderTest(tmp_path_factory.mktemp("stack"))
    try:
        yield under_test
    finally:
        under_test.down()
        assert under_test.left() == []


def test_of_two_starts_at_one_time_one_goes_on_and_the_other_says_so(stack: StackUnderTest) -> None:
    command = ["deploy/up", "--detach", "--replicas", "2", *stack.where]
    starts = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [start.communicate(timeout=START_S) for start in starts]
    by_code = {start.returncode: each for start, each in zip(starts, said, strict=True)}
    assert sorted(by_code) == [0, 2], said
    shown, refused = by_code[0][0], by_code[2][1]
    assert f"http://127.0.0.1:{stack.port}/chat" in shown
    assert refused.startswith(f"deploy/up: Port {stack.port} is being started by pid ")
    assert refused.count("\n") == 1
    assert stack.say("zoe", "Hello.")["session_id"] == "zoe"


def test_a_talk_outlives_the_host_that_it_was_on(stack: StackUnderTest) -> None:
    stack.up()
    assert stack.say("ann", "My name is Ann.")["turn_seq"] == 1
    holder = stack.say("ann", "What is my name?")["slot"]
    killed = stack.hosts()[holder]
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    answer = stack.say("ann", "What is my name?")
    assert (answer["turn_seq"], "Ann" in answer["reply"]) == (3, True)
    assert answer["slot"] != holder
    assert time.monotonic() - began < 5.0
    # Ray Serve puts another in its place.
    stack.until(lambda: len(stack.hosts()) == 2 and killed not in stack.hosts().values())


def test_a_second_start_is_refused_in_one_line(stack: StackUnderTest) -> None:
    stack.up()
    again = run("deploy/up", *stack.where)
    elsewhere = run("deploy/up", "--port", str(stack.port), "--data-dir", str(stack.folder.path / "other"))
    assert (again.returncode, elsewhere.returncode) == (2, 2)
    for refused in (again, elsewhere):
        assert refused.stderr.startswith(f"deploy/up: Already running on port {stack.port} (pid ")
    assert not (stack.folder.path / "other").exists()
    assert (again.stderr + elsewhere.stderr).count("\n") == 2
    assert stack.say("bob", "Hello.")["turn_seq"] == 1


def test_down_on_a_wrong_port_names_the_stacks_that_run(stack: StackUnderTest) -> None:
    stack.up()
    wrong = run("deploy/down", "--port", str(free_port()))
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert f"deploy/down --port {stack.port} --data-dir {stack.folder.path}" in wrong.stderr
    assert stack.say("yan", "Hello.")["session_id"] == "yan"


def test_a_redis_that_dies_is_started_again_and_has_every_turn(stack: StackUnderTest) -> None:
    stack.up()
    said = stack.say("cleo", "Remember this.")["turn_seq"]
    (redis,) = [
        found for found in processes.marked(stack.folder.mark) if "valkey-server" in processes.command(found.pid)
    ]
    os.kill(redis.pid, signal.SIGKILL)
    assert stack.say("cleo", "And this.")["turn_seq"] == said + 1


def test_a_stack_that_was_killed_takes_everything_along_but_the_talks(stack: StackUnderTest) -> None:
    stack.up()
    said = stack.say("dora", "My name is Dora.")["turn_seq"]
    everything = remains(stack.folder)
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= {processes.command(found.pid) for found in everything}
    os.kill(stack.folder.state()["pid"], signal.SIGKILL)
    # Nobody need be called for that: the kernel tells Redis and the keeper of the cluster.
    assert processes.wait_gone(everything, GONE_S) == set()
    assert stack.down().returncode == 0
    assert stack.left() == []
    assert not stack.folder.short.exists()
    seconds = float(stack.up().partition(" s  Rehydra is up")[0].splitlines()[-1])
    answer = stack.say("dora", "What is my name?")
    assert (answer["turn_seq"], "Dora" in answer["reply"]) == (said + 1, True)
    told = f"the second start took {seconds:.1f} s, with a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    assert seconds < SECOND_START_S, told


def test_what_even_a_killed_keeper_leaves_behind_is_ended_by_down(stack: StackUnderTest) -> None:
    stack.up()
    everything = remains(stack.folder)
    state = stack.folder.state()
    for pid in (state["session"]["pid"], state["pid"]):
        os.kill(pid, signal.SIGKILL)
    assert stack.down().returncode == 0
    assert processes.wait_gone(everything, 0.0) == set()


def test_on_postgresql_talks_outlive_their_host_and_their_store_and_nothing_outlives_the_stack(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """No Redis runs; the membership table, which the edge follows too, is in PostgreSQL as the talks are."""
    stack = StackUnderTest(tmp_path_factory.mktemp("on-postgres"), "--store", "postgres")
    try:
        assert "PostgreSQL answers" in stack.up()
        commands = [processes.command(found.pid) for found in processes.marked(stack.folder.mark)]
        assert not any("valkey-server" in command or "redis-server" in command for command in commands)
        holder = stack.say("edda", "My name is Edda.")["slot"]
        os.kill(stack.hosts()[holder], signal.SIGKILL)
        assert "Edda" in stack.say("edda", "What is my name?")["reply"]
        (server,) = [
            found.pid for found in processes.marked(stack.folder.mark) if "/postgres -D" in processes.command(found.pid)
        ]
        os.kill(server, signal.SIGKILL)
        assert stack.say("edda", "And now?")["turn_seq"] == 3
        everything = remains(stack.folder)
        os.kill(stack.folder.state()["pid"], signal.SIGKILL)
        # PostgreSQL writes what is unwritten before it goes.
        assert processes.wait_gone(everything, 2 * GONE_S) == set()
    finally:
        stack.down()
        assert stack.left() == []
        assert not stack.folder.short.exists() and not stack.folder.programs.exists()


def test_a_hybrid_store_has_both_servers_and_neither_is_needed_for_long(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Redis confirms, PostgreSQL has it a moment later; each is killed, and started again by the stack."""
    stack = StackUnderTest(tmp_path_factory.mktemp("hybrid"), "--store", "hybrid", REHYDRA_STORE__ACK="hot")
    try:
        told = stack.up()
        assert "Redis answers" in told and "PostgreSQL answers" in told
        holder = stack.say("edda", "My name is Edda.")["slot"]
        for program in ("valkey", "/postgres -D"):
            server = next(
                found.pid for found in processes.marked(stack.folder.mark) if program in processes.command(found.pid)
            )
            os.kill(server, signal.SIGKILL)
            assert "Edda" in stack.say("edda", "What is my name?")["reply"]
        os.kill(stack.hosts()[holder], signal.SIGKILL)
        assert stack.say("edda", "And now?")["turn_seq"] == 4
    finally:
        stack.down()
        assert stack.left() == []


def test_down_ends_all_of_it_and_says_when_there_is_nothing(stack: StackUnderTest) -> None:
    stack.up()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        first, second = stack.down(), stack.down()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert "ended" in first.stdout
    assert second.stdout == f"nothing was running on port {stack.port}\n"
    assert stack.left() == []
    assert not stack.folder.short.exists()


@pytest.mark.parametrize(
    ("option", "variable", "word"),
    [
        (("--agent", "nowhere:agent"), {}, "nowhere"),
        (("--store", "postgres", "--agent", "nowhere:agent"), {}, "nowhere"),
        ((), {"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}, "redis://127.0.0.1:1/0"),
        ((), {"REDIS_URL": "memory://"}, "REDIS_URL"),
        (
            ("--store", "postgres"),
            {"POSTGRES_URL": "postgresql://u:secret@127.0.0.1:1/x"},
            "postgresql://127.0.0.1:1/x",
        ),
        (
            ("--store", "hybrid"),
            {"REDIS_URL": "redis://:secret@127.0.0.1:1/0", "POSTGRES_URL": "postgresql://u:secret@127.0.0.1:1/x"},
            "postgresql://127.0.0.1:1/x",
        ),
        ((), {"REHYDRA_STORE__ACK": "hot"}, "store.ack=hot"),
        ((), {"REHYDRA_RING__VNODES": "many"}, "ring.vnodes"),
        ((), {"REHYDRA_STORE__URL": "redis://:secret@127.0.0.1:1/0"}, "use REDIS_URL instead"),
        ((), {"REHYDRA_EDGE__PORT": "81"}, "use --port instead"),
    ],
)
def test_what_can_not_run_says_why_in_one_line_and_leaves_nothing(
    tmp_path: Path, option: tuple[str, ...], variable: dict[str, str], word: str
) -> None:
    port, folder = free_port(), tmp_path / "made" / "by it"
    failed = run("deploy/up", "--port", str(port), "--data-dir", str(folder), *option, **variable)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert word in failed.stderr
    assert "secret" not in failed.stderr + failed.stdout
    assert processes.marked(str(folder)) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_a_port_that_a_stranger_listens_on_is_named_in_one_line_and_nothing_is_left(
    tmp_path: Path, option: str
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        ports = {"--port": free_port(), "--dashboard-port": free_port()} | {option: taken}
        options = [word for name, port in ports.items() for word in (name, str(port))]
        refused = run("deploy/up", *options, "--data-dir", str(tmp_path / "new"))
    assert refused.returncode == 2
    told = (
        f"deploy/up: Port {taken} of 127.0.0.1 can't be had (Address already in use); choose another with {option}.\n"
    )
    assert (refused.stderr, refused.stdout) == (told, "")
    assert processes.marked(str(tmp_path)) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["here", "detached"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_stopped_says_so_at_once_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, detach: tuple[str, ...]
) -> None:
    folder = Folder(free_port(), str(tmp_path / "new"))
    start = subprocess.Popen(
        ["deploy/up", "--port", str(folder.port), "--data-dir", str(folder.path), *detach],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert start.stdout is not None
    while "starting Ray" not in start.stdout.readline():
        assert start.poll() is None
    start.send_signal(number)
    began = time.monotonic()
    assert "stopping" in start.stdout.readline()
    assert time.monotonic() - began < 2.0
    assert "stopped" in start.stdout.read()
    assert start.wait() == 1
    assert time.monotonic() - began < 10.0
    assert processes.marked(folder.mark) == set()
    assert not folder.path.exists() and not folder.short.exists()


def test_with_everything_installed_no_network_is_needed(tmp_path: Path) -> None:
    port = free_port()
    where = f"--port {port} --data-dir {tmp_path}"
    # A namespace with nothing but a loopback of its own. It has to be switched on: ioctl SIOCSIFFLAGS, IFF_UP.
    loopback = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x41))"
    talk = f"""{sys.executable} -c "{loopback}" || exit 9
        deploy/up --detach --replicas 1 {where} && curl -sS localhost:{port}/chat -d '{{"message": "Hello."}}'
        deploy/down {where}"""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_NO_INDEX": "1"}
    namespace: tuple[str, ...] = ("unshare", "--map-root-user", "--net")
    if run(*namespace, "true").returncode:
        namespace = ("env",)  # Not allowed here; what is left is that no index could be asked.
        talk = talk.partition("\n")[2]
    said = run(*namespace, "bash", "-c", talk, **nowhere)
    assert '"turn_seq":1' in said.stdout, said
    assert processes.marked(str(tmp_path)) == set()


# --- the application, without a cluster -------------------------------------------------------------------------------


def test_the_serve_config_is_one_that_serve_takes() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert {deployment.name for deployment in application.deployments} == set(deployments(application.args))


def deployments(args: dict[str, Any]) -> dict[str, Any]:
    """name -> deployment, of the application that ``build`` makes."""
    ingress = build(args)
    found = {ingress._bound_deployment.name: ingress._bound_deployment}
    for argument in ingress._bound_deployment.init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    return found


def test_the_application_is_hosts_and_an_edge_that_all_know_the_same_settings() -> None:
    found = deployments({"hosts": 5, "session": {"mailbox_max": 7}})
    assert {name: deployment.num_replicas for name, deployment in found.items()} == {"SessionHost": 5, "Edge": 1}
    assert {deployment.init_args[0].session.mailbox_max for deployment in found.values()} == {7}
    for deployment in found.values():
        # Serve must not kill a host that is still leaving.
        assert deployment._deployment_config.graceful_shutdown_timeout_s > Settings.load().session.drain_stream_s


def test_without_haproxy_there_is_no_edge_to_deploy() -> None:
    assert list(deployments({"edge": {"kind": "serve"}})) == ["SessionHost"]
