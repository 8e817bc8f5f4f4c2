"""Every command of the README is run, in the README's order, as a person would type it.

``sh`` blocks are taken from the README as they stand. What a test must not do as written is changed in one place,
``as_typed_here``: the port, a folder of its own, and the figures of experiments that take minutes. A command that
nothing here knows how to judge is a failure, so that none can be added unseen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port, free_ports

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
RUN_S = 150.0

ELSEWHERE: dict[str, tuple[str, tuple[str, ...]]] = {
    "tests/run": (".ci/run", ("tests/run",)),
    "tests/run unit": ("tests/run", ('"${1:-}" = unit', "tests/unit tests/runtime")),
    "serve deploy deploy/serve.yaml": (
        "tests/deployed/test_serve_deploy.py",
        ('file: str = "serve.yaml"', 'cluster.serve, "deploy", cluster.config('),
    ),
    "serve status": ("tests/deployed/test_serve_deploy.py", ('cluster.serve, "status"',)),
    "tests/run unit -k checker": ("tests/run", ('tests/unit tests/runtime tests/test_tidy.py "${@:2}"',)),
    "python -m deploy.host": ("tests/integration/deployment.py", ('"-m", "deploy.host"',)),
    "python -m deploy.edge": ("tests/integration/test_deploy_edge.py", ('"-m", "deploy.edge"',)),
    "python -m deploy.sweep": ("tests/contract/test_dynamodb.py", ("sweep_program.run(settings)",)),
    "python -m loadtest.controls --smoke": ("tests/deployed/test_controls.py", ("controls",)),
    "loadtest/run kill_host": ("tests/deployed/test_lab_smoke.py", ("kill_host", "loadtest/run")),
    "REHYDRA_EDGE__KIND=serve deploy/up": (
        "tests/deployed/test_both_ways_in.py",
        ('params=["haproxy", "serve"]', '"REHYDRA_EDGE__KIND": self.kind', 'way.run("deploy/up"'),
    ),
}
"""Commands that aren't typed here: the file that runs them, and the words by which it does."""
LONG_ONES = ("stampede", "leave_host", "long_stream", "controls", "bench.suite")
LONG = ("loadtest/run ", *(f"python -m loadtest.{name}" for name in LONG_ONES))
"""Experiments of many minutes, whose parts other tests run: here they are only asked whether they know their words."""
PROGRAMS = r"(\.venv/bin/\S+|pip|python -m|serve|openssl|curl|kill|[A-Z_]+=\S+|deploy/\w+|tests/run|loadtest/run) \S"
ALONE = r"(deploy/(up|down)|tests/run)$"

pytestmark = pytest.mark.timeout(3 * RUN_S)


FENCED = re.compile(r"^ *(?:```|~~~)(.*?)\n(.*?)^ *(?:```|~~~)$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [block for kind, block in FENCED.findall(README) if kind == language]


def typed() -> list[str]:
    """The lines of all ``sh`` blocks, without their comments."""
    lines = [re.sub(r"\s{2,}#.*", "", line).strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def is_command(text: str) -> bool:
    return re.match(PROGRAMS, text) is not None or re.match(ALONE, text) is not None


def inline() -> list[str]:
    """Commands in running text and tables."""
    return [quoted for quoted in re.findall(r"`([^`]+)`", FENCED.sub("", README)) if is_command(quoted)]


class Person:
    """Stands in a folder of their own and types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.where = f"--port {self.port} --data-dir {folder / 'data'}"

    def type(self, command: str) -> str:
        """What it prints, on success."""
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        env["PYTHONPATH"] = f"{ROOT}:{self.folder}"
        done = subprocess.run(
            ["bash", "-c", self.as_typed_here(command)], cwd=self.folder, env=env, capture_output=True, text=True,
            timeout=RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def as_typed_here(self, command: str) -> str:
        command = command.replace("localhost:8000", f"localhost:{self.port}")
        if command.startswith("deploy/"):
            program, _, options = command.partition(" ")
            detached = " --detach" if program == "deploy/up" and "--detach" not in options else ""
            return f"{ROOT}/{program} {options} {self.where}{detached}"
        return f"{ROOT}/{command}" if command.startswith("loadtest/") else command

    def ask(self, path: str) -> dict[str, object]:
        return dict(json.loads(self.type(f"curl -s localhost:8000{path}")))


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    person = Person(tmp_path_factory.mktemp("person"))
    try:
        yield person
    finally:
        subprocess.run(["bash", "-c", person.as_typed_here("deploy/down")], check=False, timeout=RUN_S)


def test_what_a_person_types_from_the_first_start_to_an_agent_of_their_own(person: Person) -> None:
    lines = [line for line in typed() if line not in ELSEWHERE]
    said: dict[str, str] = {}
    for number, line in enumerate(lines):
        if line.startswith("deploy/up") and number:
            # The stack of before is in the way, and the agent is what the README shows, in a file of that name.
            person.type("deploy/down")
            write_example(person.folder)
        shown = person.type(line.replace("PID_OF_THAT_SLOT", pid_of_that_slot(said)))
        for part in ("Ada", "my name", "London", "x-served-by", "/ring", "first", "shop"):
            if part in line:
                said[part] = shown
    assert {"Ada", "my name", "London", "x-served-by", "/ring", "first", "shop"} == said.keys()
    assert json.loads(said["Ada"])["turn_seq"] == 1
    assert "Ada" in json.loads(said["my name"])["reply"]
    assert re.findall(r"^event: (\w+)", said["London"], re.MULTILINE)[0] == "turn"
    assert re.findall(r"^event: (\w+)", said["London"], re.MULTILINE)[-1] == "done"
    after = json.loads(said["first"])
    assert after["turn_seq"] == 5 and "Ada" in after["reply"]
    # The agent of one's own goes on in the talk of before.
    answer = json.loads(person.type("curl -s localhost:8000/chat -H 'X-Session-Id: demo' -d '{\"message\": \"hm\"}'"))
    assert answer["turn_seq"] == 6 and answer["reply"].startswith("You said 'hm'. Before that: 'What did I say first?'")


def pid_of_that_slot(said: dict[str, str]) -> str:
    """As a person reads it from what the two commands before have shown."""
    if "/ring" not in said:
        return ""
    slot = said["x-served-by"].partition(":")[2].strip()
    return str(json.loads(said["/ring"])["slots"][slot]["pid"])


def write_example(folder: Path) -> None:
    example = next(block for block in blocks("python") if block.startswith("# shop/agent.py"))
    (folder / "shop").mkdir()
    (folder / "shop" / "agent.py").write_text(example)


def test_the_commands_in_the_text_work(person: Person) -> None:
    # As written, and then less of it: the last of an option counts.
    shorter = {
        "python -m loadtest.bench": "--seconds 1 --rounds 1 --at-least 100 --port {port}",
        "python -m loadtest.kill_hosts": "--kills 1 --port {port}",
        "python -m loadtest.fuzz_http": "--cases 60 --port {port}",
        "python -m loadtest.freeze_hosts": "--freezes 1 --slice 1 --port {port} --out {out}",
        "python -m loadtest.rings_apart": "--sessions 2 --turns 1 --port {port} --out {out}",
        "python -m loadtest.checker_speed": "--operations 20000 --sessions 200",
    }
    person.type("deploy/down")  # Two cores are enough for one stack.
    ran: set[str] = set()
    for command in inline():
        module = " ".join(command.split()[:3])
        if module in shorter:
            ran_in = person.folder / f"experiment-{len(ran)}"
            person.type(f"{command} {shorter[module].format(port=free_ports(8), out=ran_in)}")
            ran.add(module)
        elif command.startswith(LONG) and command not in ELSEWHERE:
            assert person.type(f"{command} --help").startswith("usage: ")
        elif command.startswith(("deploy/", "python -m deploy.settings", "openssl")) and command not in typed():
            assert person.type(command).strip()
        else:
            known = command in ELSEWHERE or command in typed() or command.startswith(PIP)
            assert known, f"the README says `{command}`, and no test runs it"
    assert ran == shorter.keys()


PIP = ".venv/bin/pip install "


def test_what_the_readme_installs_are_the_versions_that_are_tested() -> None:
    """The tests' own environment has them: installing them again would say nothing."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    locked = (ROOT / "tests" / "requirements.lock").read_text().splitlines()
    wanted = [word for command in inline() if command.startswith(PIP) for word in command.removeprefix(PIP).split()]
    assert wanted == [pin for pin in extras["openai"] if pin.startswith("openai==")]
    assert set(wanted) <= set(locked)


def test_every_block_of_the_readme_is_one_that_the_tests_look_into() -> None:
    assert {kind for kind, _ in FENCED.findall(README)} == {"sh", "python", ""}
    drawn = [line.strip() for block in blocks("") for line in block.splitlines()]
    assert [line for line in drawn if is_command(line)] == []


def test_what_another_file_runs_is_run_by_that_file() -> None:
    for command, (path, words) in ELSEWHERE.items():
        assert command in typed() or command in inline(), command
        text = (ROOT / path).read_text()
        assert [word for word in words if word not in text] == [], command
