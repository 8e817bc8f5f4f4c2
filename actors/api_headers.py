"""What request headers mean here: which count, in which form, and what is refused.

Pure. Each function takes the text of one header and raises BadRequest with one sentence for a person.
"""

from __future__ import annotations

import re
from typing import Final

from actors.api_answers import Headers
from actors.errors import BadRequest
from actors.model import SESSION_ID_PATTERN

WANTED: Final = frozenset(
    {
        b"x-session-id",
        b"idempotency-key",
        b"if-match",
        b"accept",
        b"content-length",
        b"content-encoding",
        b"x-rehydra-request",
        b"x-rehydra-session",
        b"x-rehydra-to",
        b"x-rehydra-hops",
        b"x-rehydra-turn",
        b"x-rehydra-tenant",
    }
)
KEY_PATTERN: Final = re.compile(r"[!-~]{1,255}")
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ETAG: Final = re.compile(r'"?(0|[1-9][0-9]{0,14})"?')


def picked(headers: Headers) -> dict[bytes, str]:
    """The headers that matter here. BadRequest if one of them comes twice: which would count is anybody's guess."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in WANTED:
            text = value.decode("latin-1")
            if name not in found:
                found[name] = text
            elif name == b"accept":
                found[name] += "," + text
            else:
                raise BadRequest(f"The header {name.decode()} comes more than once.")
    return found


def session_id_checked(session_id: str) -> str:
    """The id itself. BadRequest if it isn't one."""
    if SESSION_ID_PATTERN.fullmatch(session_id) is None:
        raise BadRequest("A session id is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -.")
    return session_id


def idempotency_key(raw: str) -> str:
    """The key of an ``Idempotency-Key`` header, quoted (a structured string) or bare. BadRequest if it isn't one."""
    key = raw
    if raw.startswith('"'):
        quoted = _QUOTED.fullmatch(raw)
        key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
    if KEY_PATTERN.fullmatch(key) is None:
        raise BadRequest("An Idempotency-Key is 1 to 255 visible ASCII characters, bare or as one quoted string.")
    return key


def if_match(raw: str | None) -> int | None:
    """The turn_seq of an ``If-Match`` header. BadRequest for anything but one strong tag."""
    if raw is None:
        return None
    tag = _ETAG.fullmatch(raw)
    if tag is None:
        raise BadRequest('If-Match takes one entity tag, the turn_seq in quotes, such as "3".')
    return int(tag[1])
