"""The SQL functions of the PostgreSQL store: their sources, the names they have in a database, and a call of one.

Nothing here talks to a server. As Redis knows a script by the digest of its source, the database knows a function by
its name and the digest of all sources together: programs of two versions have each their own functions, side by side,
and none is replaced under a host that is calling it.

The sources stand in ``sql/``; each one's header names its arguments and answers. ``layout_<n>.sql`` are not functions
but the tables, see :mod:`actors.stores.postgres_schema`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

A = TypeVar("A")
Answer = Mapping[str, Any]
"""One row: the function's OUT arguments by name."""
Argument = bytes | str | int | bool | Sequence[bytes] | Sequence[str] | None

SQL_FOLDER: Final = Path(__file__).with_name("sql")
_INCLUDE: Final = re.compile(r"^ *-- include: (\w+\.sql)$", re.MULTILINE)
_NAME: Final = re.compile(r"\brehydra\.(\w+)")
_ARGUMENT: Final = re.compile(r"[(,]\s*_\w+ \w+")

SHARED: Final = ("time_ms", "sweep_hour", "changed", "hand_on")
"""Called by the others, never by a host; in the order in which they can be made."""
OF_SESSIONS: Final = ("claim", "commit", "release", "check", "delete", "read", "sweep")
OF_HYBRID: Final = (*OF_SESSIONS, "append", "surpass")
OF_MEMBERSHIP: Final = ("join", "beat", "leave", "evict", "table")


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One call, ready to be sent. ``loads``: its answer may be as long as a session's log."""

    function: str
    arguments: Sequence[Argument]
    decode: Callable[[Answer], A]
    loads: bool = False


@dataclass(frozen=True, slots=True)
class Functions:
    """All sources by name, in the order in which they can be made, and the digest that ends their names."""

    sources: Mapping[str, str]
    digest: str

    def named(self, schema: str, name: str) -> str:
        """What the function is called in that schema, quoted."""
        return f'"{schema}"."{name}_{self.digest}"'

    def statement(self, schema: str, name: str) -> str:
        """The statement that a call of it is."""
        declared = self.sources[name].partition("FUNCTION")[2].partition("$$")[0]
        places = ", ".join(f"${number + 1}" for number in range(len(_ARGUMENT.findall(declared))))
        return f"SELECT * FROM {self.named(schema, name)}({places})"

    def placed(self, schema: str, source: str) -> str:
        """``source`` with ``rehydra.`` replaced by the schema, and functions by their names there."""

        def place(found: re.Match[str]) -> str:
            name = found[1]
            return self.named(schema, name) if name in self.sources else f'"{schema}".{name}'

        return _NAME.sub(place, source)


def compose(name: str, folder: Path = SQL_FOLDER) -> str:
    """The source ``name`` with each line ``-- include: FILE`` replaced by the text of that file."""
    text = (folder / f"{name}.sql").read_text("utf-8")
    while _INCLUDE.search(text):
        text = _INCLUDE.sub(lambda found: (folder / found[1]).read_text("utf-8"), text)
    return text


def load(folder: Path = SQL_FOLDER) -> Functions:
    """All functions, read from ``folder``."""
    sources = {name: compose(name, folder) for name in (*SHARED, *OF_HYBRID, *OF_MEMBERSHIP)}
    digest = hashlib.sha256("\n".join(sources.values()).encode("utf-8")).hexdigest()[:12]
    return Functions(sources, digest)


FUNCTIONS: Final = load()
