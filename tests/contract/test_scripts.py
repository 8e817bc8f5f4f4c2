"""The Lua scripts keep to their headers and to commands that every supported server has."""

from __future__ import annotations

import re
from typing import Any

import pytest

from actors.stores.base import Missing
from actors.stores.scripts import LUA_FOLDER, SCRIPTS, Script, compose
from tests.contract.lab import ANNA, RedisLab, fresh_key

NAMES = sorted(SCRIPTS)
PRELUDES = {"fence", "members", "record"}


def parts(name: str) -> tuple[str, str]:
    """A script's header (its first block of comments) and the rest of it, both without what it includes."""
    lines = (LUA_FOLDER / f"{name}.lua").read_text("utf-8").splitlines()
    header = [line for at, line in enumerate(lines) if all(line.startswith("--") for line in lines[: at + 1])]
    return "\n".join(header), "\n".join(lines[len(header) :])


def test_every_file_is_a_script_or_a_prelude() -> None:
    assert {path.stem for path in LUA_FOLDER.glob("*.lua")} == set(NAMES) | PRELUDES


@pytest.mark.parametrize("name", NAMES)
def test_a_header_names_every_key_with_its_type_and_every_argument(name: str) -> None:
    header, body = parts(name)
    assert header.startswith(f"-- {name}: ")
    for key in set(re.findall(r"KEYS\[\d+\]", SCRIPTS[name].source.decode())):
        assert re.search(rf"^-- {re.escape(key)}  +(hash|list|string) ", header, re.M), key
    used = set(re.findall(r"ARGV\[\d+\]", body))
    named = set(re.findall(r"^-- (ARGV\[\d+\]) ", header, re.M))
    assert used == named


@pytest.mark.parametrize("name", NAMES)
def test_a_header_names_every_answer(name: str) -> None:
    header, _ = parts(name)
    code = "\n".join(line for line in SCRIPTS[name].source.decode().splitlines() if not line.startswith("--"))
    answers = set(re.findall(r"return \{'([a-z]+)'", code))
    if "fence(" not in parts(name)[1]:
        answers -= {"fenced", "regressed"}  # They come with the prelude but aren't reached.
    assert answers == set(re.findall(r"^-- \{'([a-z]+)'", header, re.M))


@pytest.mark.parametrize("name", NAMES)
def test_the_server_knows_a_script_by_the_digest_that_it_is_called_by(redis_lab: RedisLab, name: str) -> None:
    assert redis_lab.client.script_load(SCRIPTS[name].source) == SCRIPTS[name].sha


def test_scripts_use_only_commands_that_this_server_has(redis_lab: RedisLab) -> None:
    used = {
        command
        for script in SCRIPTS.values()
        for command in re.findall(r"redis\.call\('(\w+)'", script.source.decode())
    }
    assert len(used) > 10
    known: Any = redis_lab.client.command()
    assert used <= {name.upper() for name in known}


def test_an_include_stands_in_place_of_its_marker() -> None:
    source = compose("commit").source.decode()
    assert not re.search("^-- include:", source, re.M)
    assert source.index("local function fence") < source.index("local function look_into") < source.index("RPUSH")


async def test_a_script_that_was_exchanged_is_the_one_that_runs(
    redis_lab: RedisLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How planted bugs reach the server."""
    store, key = redis_lab.store(), fresh_key()
    await store.claim(key, "token", ANNA)
    monkeypatch.setitem(SCRIPTS, "read", Script.of("read", "return {'missing'}"))
    assert await store.read(key, 0, 1) == Missing()
