"""The end that is taken off an append-only file: whole commands, whole scripts, on a real server's file too."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.lab.tail import NotCut, Position, cut_tail, size, steps
from loadtest.redis_wire import ask
from tests.servers import Durability, Server


def command(*words: str) -> bytes:
    packed = [word.encode() for word in words]
    return b"*%d\r\n" % len(packed) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in packed)


SELECT, TURN, SET = command("SELECT", "0"), command("RPUSH", "log", "a\r\n*1"), command("SET", "k", "v")
SCRIPT = command("MULTI") + TURN + SET + command("EXEC")


def folder_with(data: bytes, folder: Path) -> Path:
    (folder / "appendonly.aof.manifest").write_text(
        "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"
    )
    (folder / "appendonly.aof.1.incr.aof").write_bytes(data)
    return folder


def test_what_a_script_wrote_is_one_step() -> None:
    data = SELECT + SCRIPT + b"#TS:1\r\n" + TURN
    found = list(steps(data))
    assert [step.turns for step in found] == [0, 1, 0, 1]
    assert [step.end for step in found][-1] == len(data)


@pytest.mark.parametrize("torn", range(1, len(SCRIPT)))
def test_what_is_torn_ends_before_it(torn: int) -> None:
    assert [step.end for step in steps(SELECT + SCRIPT[:torn])] == [len(SELECT)]


def test_what_is_no_command_is_refused() -> None:
    with pytest.raises(NotCut):
        list(steps(SELECT + b"REDIS0011"))


@pytest.mark.parametrize("more", [0, 1, len(SCRIPT) - 1])
def test_a_cut_falls_behind_the_last_whole_step(tmp_path: Path, more: int) -> None:
    folder = folder_with(SELECT + SCRIPT, tmp_path)
    written = size(folder)
    kept = Position(written.path, written.size_bytes + more)
    written.path.write_bytes(SELECT + SCRIPT * 3)
    cut = cut_tail(folder, kept)
    assert (cut.turns, cut.lost_bytes) == (2, 2 * len(SCRIPT))
    assert written.path.read_bytes() == SELECT + SCRIPT


def test_a_file_that_was_replaced_meanwhile_is_not_cut(tmp_path: Path) -> None:
    folder = folder_with(SELECT, tmp_path)
    with pytest.raises(NotCut):
        cut_tail(folder, Position(folder / "appendonly.aof.0.incr.aof", 0))
    with pytest.raises(NotCut):
        size(tmp_path / "nothing")


async def test_a_server_starts_on_what_is_left_and_has_what_came_before() -> None:
    with Server(durability=Durability(appendfsync="everysec")) as server:
        push = (
            "redis.call('RPUSH', 'log', ARGV[1]); redis.call('SET', 'last', ARGV[1], 'EX', 60);"
            "redis.call('EXPIRE', 'log', 60); return redis.status_reply('OK')"
        )
        for number in range(5):
            await ask(server.url, "EVAL", push, "0", str(number))
        kept = size(server.folder / "appendonlydir")
        for number in range(5, 12):
            await ask(server.url, "EVAL", push, "0", str(number))
        server.kill()
        assert cut_tail(server.folder / "appendonlydir", kept).turns == 7
        server.restart()
        assert await ask(server.url, "GET", "last") == "4"
