"""What hosts and edge write down: one JSON object a line, on standard error or in a file for each process.

``at``, ``level``, ``logger`` and ``event``, and whatever the place that logs has to add: ``session``, ``turn_id``, and
the like. At DEBUG there is one line for each turn that ends on a host. No line has a word of a message or a reply,
unless the level is DEBUG and an exception quotes it: above DEBUG only the type of an exception and the places it came
through are told, because an agent's exceptions may say anything.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from actors.errors import Misconfigured
from actors.settings import LogSettings

OURS: Final = ("rehydra", "actors", "router", "deploy")
"""The loggers of this project."""
LIBRARIES: Final = ("uvicorn", "asyncio")
"""Loggers of what serves and runs a host, written down as our own are. Everybody else's are left alone."""

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({})))
"""What every record has; the rest is what the place that logs has added."""


class JsonLines(logging.Formatter):
    """One record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        told_all = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        event = record.getMessage()
        if not told_all and record.name.partition(".")[0] in LIBRARIES:
            # The further lines of asyncio's quote what a task has raised.
            event = event.partition("\n")[0]
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
            **{name: value for name, value in vars(record).items() if name not in _PLAIN and name != "message"},
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line["exception"] = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)
            line["through"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
            if told_all:
                line["text"] = str(error)
        # Escaped, because an exception may quote what is no text: a lone surrogate couldn't be encoded.
        return json.dumps(line, default=str)


def write_logs(settings: LogSettings, kind: str) -> None:
    """Have this process write its lines, in the folder under the name ``<kind>-<pid>.log``. Idempotent: the last call
    counts. Misconfigured if there is no writing in that folder."""
    handler = _handler(settings, kind)
    handler.setFormatter(JsonLines())
    for name in OURS + LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(settings.level)
        for before in [each for each in logger.handlers if isinstance(each.formatter, JsonLines)]:
            logger.removeHandler(before)
            before.close()
        logger.addHandler(handler)
        # Ray and Serve have handlers of their own on the root, in other formats.
        logger.propagate = False


def _handler(settings: LogSettings, kind: str) -> logging.Handler:
    if not settings.folder:
        return logging.StreamHandler(sys.stderr)
    try:
        folder = Path(settings.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{kind}-{os.getpid()}.log"
        return RotatingFileHandler(path, maxBytes=settings.file_bytes_max, backupCount=1, encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"log.folder {settings.folder} can't be written: {error.strerror}.") from error
