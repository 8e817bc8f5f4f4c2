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
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
RUN_S = 150.0

ELSEWHERE = {
    "tests/run": "what runs this very test (.ci/run)",
    "tests/run unit": "a part of it",
    "serve deploy deploy/serve.yaml": "tests/integration/test_serve_deploy.py",
    "serve status": "tests/integration/test_serve_deploy.py",
    "REHYDRA_EDGE__KIND=serve deploy/up": "tests/integration/test_both_ways_in.py",
    "deploy/up --detach": "Person, for each deploy/up",
    "deploy/down": "the fixture, and before the second deploy/up",
}
"""Commands that another test runs, and which."""

pytestmark = pytest.mark.timeout(3 * RUN_S)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def typed() -> list[str]:
    """The lines of all ``sh`` blocks, without their comments."""
    lines = [re.sub(r"\s{2,}#.*", "", line).strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def inline() -> list[str]:
    """Commands in running text and tables."""
    programs = r"python -m (deploy|loadtest)|deploy/(up|down)\b|tests/run\b|serve (deploy|status)|openssl|\w+=\w+ "
    return [command for command in re.findall(r"`([^`\n]+)`", README) if re.match(programs, command)]


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
        return command

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
    short = {
        "python -m loadtest.bench": " --start --replicas 2 --port {port} --seconds 1 --rounds 1",
        "python -m loadtest.kill_hosts": " --port {port} --kills 1",
        "python -m loadtest.fuzz_http": " --port {port} --cases 60",
    }
    person.type("deploy/down")  # Two cores are enough for one stack.
    ran = set()
    for command in inline():
        module = " ".join(command.split()[:3])
        if module in short:
            if module not in ran:
                person.type(module + short[module].format(port=free_port()))
            ran.add(module)
        elif command.startswith(("python -m deploy.settings", "openssl")):
            assert person.type(command).strip()
        else:
            assert command in ELSEWHERE or command in typed(), f"the README says `{command}`, and no test runs it"
    assert ran == short.keys()


def test_what_another_test_runs_is_run_by_that_test() -> None:
    for command, where in ELSEWHERE.items():
        assert command in README
        if where.endswith(".py"):
            assert all(word in (ROOT / where).read_text() for word in re.findall(r"deploy|status|KIND", command))
