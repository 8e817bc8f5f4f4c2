"""What a reviewer would otherwise have to look for: who imports whom, how long things are, and what nobody may call.

Limits are a ratchet. Whatever is over one stands here by name with the size that it has; a size may shrink, and then
the entry must follow; nothing new is let in without being named.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("actors", "router", "deploy", "loadtest")

LINES_MAX = 300
LINES_OF = {
    "actors/host.py": 340,
    "actors/session.py": 400,
    "tests/simulation/mutants.py": 560,
}
"""Files over the limit. Tests may be half as long again: they are lists of cases, read one at a time."""
TEST_LINES_MAX = 550

FUNCTION_LINES_MAX = 50
FUNCTION_LINES_OF: dict[str, int] = {}

TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "actors", "router", "deploy", "tests", "loadtest"}

TIMED = {"loadtest/bench/ring_subject.py", "loadtest/bench/claim_subject.py"}
"""Processes that are measured, not such as measure: neither the ring nor a claim alone can be timed from outside."""

PURE = (
    "actors/model.py",
    "actors/errors.py",
    "actors/lifecycle.py",
    "actors/mailbox.py",
    "actors/stores/base.py",
    "router/ring.py",
    "router/shards.py",
    "router/membership.py",
)
"""A simulation drives them: they know no event loop, no clock and no chance."""

SLEEPERS = {
    "router/edge/process.py": "runs in a thread, and waits for a process that isn't its child",
    "loadtest/agents.py": "blocks the event loop on purpose",
    "loadtest/locustfile.py": "Locust makes it a yield of its own event loop",
    "tests/simulation/postgres_backend.py": "waits in real time for a real server, outside of the virtual clock",
    "tests/simulation/redis_backend.py": "waits in real time for a real server, outside of the virtual clock",
    "tests/postgres_server.py": "waits for a server, which tells nobody when it is ready",
    "tests/servers.py": "waits for a server between its first two milliseconds",
    "tests/runtime/test_beats.py": "blocks the event loop on purpose",
}


@cache
def files() -> tuple[str, ...]:
    """Everything that is, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()))


def python_files(*rooms: str) -> Iterator[str]:
    return (name for name in files() if name.endswith(".py") and name.split("/")[0] in rooms)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def imports(name: str) -> set[str]:
    """Full names of what a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str, *rooms: str) -> set[str]:
    return {name for name in python_files(*rooms) if any(_within(found, package) for found in imports(name))}


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


# --- who imports whom -------------------------------------------------------------------------------------------------


def test_actors_knows_neither_router_nor_deploy() -> None:
    assert importers("router", "actors") | importers("deploy", "actors") == set()


def test_router_knows_of_actors_only_the_words_and_the_contracts() -> None:
    allowed = (
        "actors.model", "actors.errors", "actors.logs", "actors.settings", "actors.ports", "actors.stores.base",
    )  # fmt: skip
    for name in python_files("router"):
        for found in imports(name):
            if _within(found, "actors"):
                assert any(_within(found, module) for module in allowed), f"{name} imports {found}"
    assert importers("deploy", "router") == set()


def test_only_deploy_joins_the_two() -> None:
    both = importers("actors", *PRODUCT) & importers("router", *PRODUCT) - TIMED
    assert {name.split("/")[0] for name in both} <= {"router", "deploy"}


def test_loadtest_shares_no_code_with_what_it_measures() -> None:
    # An agent is written against the agent contract, by users and by load tests alike.
    agents = {
        name for name in python_files("loadtest") if imports(name) <= {"actors.agent.Conversation"} | _foreign(name)
    }
    for package in ("actors", "router", "deploy"):
        assert importers(package, "loadtest") <= agents | TIMED
    for each in TIMED:
        module = each.removesuffix(".py").replace("/", ".")
        assert importers(module, *PRODUCT) == set(), "it is started, never imported"


def _foreign(name: str) -> set[str]:
    return {found for found in imports(name) if found.split(".")[0] not in PRODUCT}


def test_ray_is_imported_in_four_files_at_most() -> None:
    assert len(importers("ray", *PRODUCT)) <= 4


@pytest.mark.parametrize(
    ("package", "place"),
    [
        ("redis", r"actors/stores/redis\w*\.py|loadtest/baselines/(app|rewriting|ways/\w+)\.py"),
        ("asyncpg", r"actors/stores/postgres\w*\.py|loadtest/(baselines/ways/\w+|postgres_leases)\.py"),
        ("botocore", r"actors/stores/dynamodb/\w+\.py"),
        ("aiobotocore", r"actors/stores/dynamodb/\w+\.py"),
        ("pymongo", r"actors/stores/mongodb/\w+\.py"),
        ("uhashring", r"router/ring\.py"),
        ("locust", r"loadtest/.*"),
    ],
)
def test_a_library_is_imported_in_its_own_place_only(package: str, place: str) -> None:
    assert {name for name in importers(package, *PRODUCT) if not re.fullmatch(place, name)} == set()


@pytest.mark.parametrize("name", PURE)
def test_the_pure_files_know_no_loop_no_clock_and_no_chance(name: str) -> None:
    unclean = ("asyncio", "threading", "time", "datetime", "random", "secrets", "uuid", "socket", "os")
    assert [found for found in imports(name) if any(_within(found, module) for module in unclean)] == []


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in python_files(*PRODUCT, "tests")}
    allowed = {name: TEST_LINES_MAX if name.startswith("tests/") else LINES_MAX for name in lengths} | LINES_OF
    assert {name: lines for name, lines in lengths.items() if lines > allowed[name]} == {}
    assert [name for name in LINES_OF if lengths.get(name, 0) <= LINES_MAX] == [], "no longer need an exception"


def test_functions_are_short() -> None:
    lengths = {
        f"{name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name in python_files(*PRODUCT, "tests")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {
        name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_OF.get(name, FUNCTION_LINES_MAX)
    } == {}
    assert [name for name in FUNCTION_LINES_OF if lengths.get(name, 0) <= FUNCTION_LINES_MAX] == []


def test_every_module_says_what_it_is() -> None:
    empty_or_told = {name for name in python_files(*PRODUCT, "tests") if not tree(name).body or _told(tree(name))}
    assert set(python_files(*PRODUCT, "tests")) - empty_or_told == set()


def _told(module: ast.Module) -> bool:
    return bool(ast.get_docstring(module))


# --- what nobody may call or write ------------------------------------------------------------------------------------


def test_nobody_sleeps_where_an_event_can_be_awaited() -> None:
    sleepers = {
        name
        for name in python_files(*PRODUCT, "tests")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    }
    assert sleepers == SLEEPERS.keys()


BROAD = ("p" + "kill", "kill" + "all", "ray" + " stop", "kill -9 " + "-1")
REGISTRIES = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "docker" + ".io",
    "conda" + ".anaconda",
)
ELSEWHERE = ("/wo" + "rk/", "../" + "shared", "/tmp/" + "rh/")


@pytest.mark.parametrize("words", [BROAD, REGISTRIES, ELSEWHERE], ids=["ends too much", "a registry", "a workplace"])
def test_no_file_says(words: tuple[str, ...]) -> None:
    found = []
    for name in files():
        text = (ROOT / name).read_bytes().decode(errors="replace")
        found += [f"{name}: {word}" for word in words if word in text]
    assert found == []


def test_locks_are_pinned_and_name_no_source() -> None:
    for lock in ("deploy/requirements.lock", "tests/requirements.lock", "loadtest/baselines/requirements.lock"):
        lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9._-]+(\[[a-z,]+\])?==[0-9a-z.]+( ; .+)?", line) for line in lines), lock
    runtime, test = (
        {line.partition(" ;")[0] for line in (ROOT / room / "requirements.lock").read_text().splitlines()[1:]}
        for room in ("deploy", "tests")
    )
    assert runtime <= test, "tests/run must not install what deploy/up would then replace"


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_top_level_has_only_its_fixed_entries() -> None:
    entries = {name.split("/")[0] for name in files()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("invariant", [f"I{number}" for number in range(1, 11)])
def test_every_invariant_is_named_by_a_test(invariant: str) -> None:
    named = re.compile(rf"\b{invariant}\b")
    for name in python_files("tests"):
        if not Path(name).name.startswith("test_") or name == "tests/test_tidy.py":
            continue
        source = (ROOT / name).read_text()
        tests = [node for node in ast.walk(tree(name)) if _is_test(node)]
        whole = tests and named.search(ast.get_docstring(tree(name)) or "")
        if whole or any(named.search(ast.get_source_segment(source, node) or "") for node in tests):
            return
    pytest.fail(f"no test names {invariant}")


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
