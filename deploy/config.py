"""Settings for whoever starts something: wrong ones become one line that a person can act on."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from actors.api_headers import edge_secret
from actors.errors import Misconfigured
from actors.sealed_keys import keys_in
from actors.settings import HOST_WEIGHT, Settings, of_this_host
from deploy.processes import MARK

PREFIX: Final = "REHYDRA_"


def load(args: Mapping[str, Any] | None = None) -> Settings:
    """Settings from ``args``, the environment and the defaults. Misconfigured names what is wrong, in one line."""
    _require_known(os.environ)
    try:
        settings = Settings.load(args)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"])
        said = "There is no such setting." if wrong["type"] == "extra_forbidden" else wrong["msg"]
        said = said.removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        # Without its cause, which would show what was put in, passwords too, wherever somebody prints a traceback.
        raise Misconfigured(f"{where}: {said}{more}" if where else f"{said}{more}") from None
    # Said here in one line, not by every host in a traceback. A file of keys is where the hosts are, and read there.
    edge_secret(settings)
    keys_in(settings.sealed.keys.get_secret_value())
    of_this_host(settings, os.environ)
    return settings


def _require_known(names: Iterable[str]) -> None:
    """Misconfigured if a variable with our prefix names nothing: a typing error must not become a default."""
    groups = {name.upper(): field.annotation for name, field in Settings.model_fields.items()}
    known = {HOST_WEIGHT} | {f"{PREFIX}{group}" for group in groups}
    for group, kind in groups.items():
        known |= {f"{PREFIX}{group}__{name.upper()}" for name in getattr(kind, "model_fields", {})}
    for name in sorted(names):
        # Those that begin with the mark are how a stack's own processes know each other.
        if name.upper().startswith(PREFIX) and name.upper() not in known and not name.startswith(MARK):
            near = difflib.get_close_matches(name.upper(), known, 1)
            raise Misconfigured(f"{name} in the environment names no setting{f'; {near[0]} does' if near else ''}.")
