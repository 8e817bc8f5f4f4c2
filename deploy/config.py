"""Settings for whoever starts something: wrong ones become one line that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from actors.api_headers import edge_secret
from actors.errors import Misconfigured
from actors.settings import Settings


def load(args: Mapping[str, Any] | None = None) -> Settings:
    """Settings from ``args``, the environment and the defaults. Misconfigured names what is wrong, in one line."""
    try:
        settings = Settings.load(args)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"])
        said = wrong["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        # Without its cause, which would show what was put in, passwords too, wherever somebody prints a traceback.
        raise Misconfigured(f"{where}: {said}{more}" if where else f"{said}{more}") from None
    edge_secret(settings)  # Said here in one line, not by every host in a traceback.
    return settings
