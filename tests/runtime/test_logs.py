"""What hosts write down: structured, one line a turn at DEBUG, and nobody's words."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.agent import Conversation
from actors.errors import Misconfigured
from actors.logs import LIBRARIES, OURS, JsonLines, write_logs
from actors.replica import HostLife
from actors.settings import LogSettings
from router.routing import HostView
from tests.runtime.api_world import wire
from tests.runtime.test_replica import chat, settings

WORDS = "a secret of mine"


async def fails(conversation: Conversation) -> str:
    raise ValueError(f"can't answer {conversation.message!r}")


@pytest.fixture
def restored() -> Iterator[None]:
    """This process' loggers are as before afterwards."""
    loggers = [logging.getLogger(name) for name in OURS + LIBRARIES]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


async def lines_of(
    level: str, agent: str, messages: int, capsys: pytest.CaptureFixture[str]
) -> tuple[list[dict[str, Any]], str]:
    """What a host writes that answers so many messages."""
    for _ in range(2):
        write_logs(LogSettings(level=level), "host")  # type: ignore[call-arg]
    life = HostLife(settings(agent={"path": agent}), HostView)
    await life.start()
    try:
        for _ in range(messages):
            await chat(life.host.ref.address, "s", WORDS)
    finally:
        await life.end()
    written = capsys.readouterr().err
    return [json.loads(line) for line in written.splitlines()], written


@pytest.mark.usefixtures("restored")
async def test_at_debug_each_turn_is_one_line_without_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines, written = await lines_of("DEBUG", "actors.agents.echo:echo", 3, capsys)
    turns = [line for line in lines if line["event"] == "turn"]
    assert [(turn["turn_seq"], turn["end"]) for turn in turns] == [(1, "done"), (2, "done"), (3, "done")]
    assert all(turn["ms"] >= 0 and turn["turn_id"] and turn["level"] == "DEBUG" for turn in turns)
    assert WORDS not in written


@pytest.mark.usefixtures("restored")
async def test_by_default_turns_are_not_told_and_a_failing_agents_words_neither(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, written = await lines_of("INFO", f"{__name__}:fails", 2, capsys)
    failed = [line for line in lines if line["event"] == "agent failed"]
    assert len(failed) == 2
    assert failed[0]["exception"] == "ValueError"
    assert failed[0]["through"][-1].endswith(" fails")
    assert WORDS not in written
    assert not [line for line in lines if line["event"] == "turn"]


@pytest.mark.usefixtures("restored")
async def test_at_debug_an_exceptions_own_text_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = await lines_of("DEBUG", f"{__name__}:fails", 1, capsys)
    (failed,) = [line for line in lines if line["event"] == "agent failed"]
    assert failed["text"] == f"can't answer {WORDS!r}"
    (turn,) = [line for line in lines if line["event"] == "turn"]
    assert (turn["end"], turn["outcome"]) == ("agent-failed", "not_done")


@pytest.mark.usefixtures("restored")
async def test_what_the_http_server_and_the_event_loop_complain_of_is_json_too_and_quotes_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def raises() -> None:
        raise ValueError(WORDS)

    write_logs(LogSettings(), "host")  # type: ignore[call-arg]
    life = HostLife(settings(agent={"path": "actors.agents.echo:echo"}), HostView)
    await life.start()
    try:
        async with wire(int(life.host.ref.address.rpartition(":")[2])) as connection:
            await connection.send(f"{WORDS}\r\n\r\n".encode())
            assert (await connection.answer()).status == 400
        task = asyncio.create_task(raises())
        await asyncio.wait((task,))
        del task
        gc.collect()
    finally:
        await life.end()
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["event"] for line in lines if line["logger"] == "uvicorn.error"] == ["Invalid HTTP request received."]
    (raised,) = [line for line in lines if line["logger"] == "asyncio"]
    assert (raised["event"], raised["exception"]) == ("Task exception was never retrieved", "ValueError")
    assert WORDS not in written


@pytest.mark.usefixtures("restored")
def test_an_exception_that_quotes_no_text_is_a_line_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    write_logs(LogSettings(level="DEBUG"), "host")  # type: ignore[call-arg]
    logging.getLogger("rehydra.x").error("failed", exc_info=ValueError("\ud800 and \u00e9"))
    assert json.loads(capsys.readouterr().err)["text"] == "\ud800 and \u00e9"


@pytest.mark.usefixtures("restored")
def test_with_a_folder_each_process_writes_a_file_of_bounded_size(tmp_path: Path) -> None:
    write_logs(LogSettings(folder=str(tmp_path / "logs"), file_bytes_max=1000), "host")  # type: ignore[call-arg]
    for number in range(100):
        logging.getLogger("rehydra.x").info("line", extra={"number": number})
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == [f"host-{os.getpid()}.log", f"host-{os.getpid()}.log.1"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["number"] == 99


@pytest.mark.usefixtures("restored")
def test_a_folder_that_can_not_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"log\.folder .* can't be written: Not a directory"):
        write_logs(LogSettings(folder=str(tmp_path / "file" / "logs")), "host")  # type: ignore[call-arg]


def test_whatever_is_added_to_a_line_it_stays_one_line_of_json() -> None:
    record = logging.makeLogRecord({"msg": "two\nlines %s", "args": ("x",), "odd": object(), "name": "rehydra.x"})
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["event"] == "two\nlines x"
    assert json.loads(line)["odd"].startswith("<object object")
