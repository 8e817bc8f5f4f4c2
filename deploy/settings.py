"""``python -m deploy.settings``: every setting with its value, its unit, where it comes from, and its default.

``--config FILE`` takes the ``args`` of a Serve config (deploy/serve.yaml) into account, which win over the environment,
save over ``REHYDRA_HOST_WEIGHT``: what is shown is what a host would have here.
``--markdown`` prints the table of the README, which is made from nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from actors.errors import Misconfigured
from actors.settings import HOST_WEIGHT, Settings, of_this_host
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


def listing(settings: Settings, args: Mapping[str, Any] | None = None) -> str:
    """For the terminal: what holds here and now, and why. ``args``: what the settings were loaded from."""
    lines = []
    for name, variable, value, default, text in rows(settings):
        group, _, setting = name.partition(".")
        if name == "ring.host_weight" and HOST_WEIGHT in os.environ:
            source = f"{HOST_WEIGHT}; "
        elif setting in (args or {}).get(group, {}):
            source = "args; "
        elif variable in os.environ:
            source = f"{variable}; "
        elif value != default:
            # In other letters' case, or with its whole group as JSON.
            source = "environment; "
        else:
            source = ""
        shown = _PASSWORD.sub(r"://\1:********@", _with_unit(name, value))
        lines.append(
            f"{name} = {shown}  ({source}default{'' if not source else ' ' + _with_unit(name, default)})\n    {text}"
        )
    return "\n".join(lines) + "\n"


_UNITS: Final = {"_ms": "ms", "_s": "s", "_bytes": "bytes", "_bytes_max": "bytes"}


def _with_unit(name: str, value: Any) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    return f"{_shown(value)} {unit}".rstrip()


def args_in(config: Path) -> dict[str, Any]:
    """The settings in the ``args`` of the Serve config's application. Misconfigured if there is no such thing."""
    try:
        applications = yaml.safe_load(config.read_text())["applications"]
        args = dict(applications[0].get("args") or {})
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise Misconfigured(f"{config} isn't a Serve config with an application: {error}".replace("\n", " ")) from None
    args.pop("hosts", None)
    return args


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else '""'
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if value != "" else '""'


def main(arguments: list[str]) -> int:
    """Print to standard output. Exit code 2 and one line if the settings don't fit together."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.settings", description="Every setting: value, source, default."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a Serve config whose args count too")
    parser.add_argument("--markdown", action="store_true", help="print README's table of the defaults")
    options = parser.parse_args(arguments)
    try:
        args = args_in(options.config) if options.config else {}
        settings = load(args)
    except Misconfigured as error:
        print(f"deploy.settings: {error.detail}", file=sys.stderr)
        return 2
    print(markdown(settings) if options.markdown else listing(of_this_host(settings, os.environ), args), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
