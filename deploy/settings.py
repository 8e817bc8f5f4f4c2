"""``python -m deploy.settings``: every setting with its value, where that comes from, and its default.

``--markdown`` prints the table of the README, which is made from nothing else.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from actors.errors import Misconfigured
from actors.settings import Settings
from deploy.config import load

_PASSWORD = re.compile(r"://([^:/@]*):[^@/]*@")
"""User and password in a URL."""

Row = tuple[str, str, Any, Any, str]
"""name, environment variable, value, default, description"""


def rows(settings: Settings) -> Iterator[Row]:
    """One row a setting, in the order of their definition."""
    for group_name in type(settings).model_fields:
        group: BaseModel = getattr(settings, group_name)
        for name, field in type(group).model_fields.items():
            default = None if field.default is PydanticUndefined else field.default
            variable = f"REHYDRA_{group_name.upper()}__{name.upper()}"
            yield f"{group_name}.{name}", variable, getattr(group, name), default, field.description or ""


def markdown(settings: Settings) -> str:
    """The README's table: name, default, what it does. The environment variable follows from the name."""
    lines = ["| setting | default | what it does |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | `{_shown(default)}` | {text} |" for name, _, _, default, text in rows(settings)]
    return "\n".join(lines) + "\n"


def listing(settings: Settings) -> str:
    """For the terminal: what holds here and now, and why."""
    lines = []
    for name, variable, value, default, text in rows(settings):
        source = variable if variable in os.environ else ("default" if value == default else "environment")
        shown = _PASSWORD.sub(r"://\1:********@", _shown(value))
        lines.append(f"{name} = {shown}  ({source})\n    {text}")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if value != "" else '""'


def main(arguments: list[str]) -> int:
    """Print to standard output. Exit code 2 and one line if the environment's settings don't fit together."""
    try:
        settings = load()
    except Misconfigured as error:
        print(f"deploy.settings: {error.detail}", file=sys.stderr)
        return 2
    print(markdown(settings) if "--markdown" in arguments else listing(settings), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
