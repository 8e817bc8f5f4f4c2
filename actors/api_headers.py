"""What request headers mean here: which count, in which form, whose word they are, and what is refused.

Pure. Each function takes the text of one header and raises BadRequest with one sentence for a person.

Headers named ``x-rehydra-*`` are the word of the edge or of another host, and say things that a client may not: whose
turn this is, of which tenant. They count only together with the pass, which nobody can show who doesn't know
``edge.secret``; a host can be reached directly, so the edge's deleting them is not enough.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final

from actors.api_answers import Headers
from actors.errors import BadRequest, Misconfigured
from actors.model import SESSION_ID_PATTERN
from actors.settings import Settings

PASS: Final = b"x-rehydra-pass"
INTERNAL: Final = frozenset(
    {
        PASS,
        b"x-rehydra-request",
        b"x-rehydra-session",
        b"x-rehydra-to",
        b"x-rehydra-hops",
        b"x-rehydra-ring",
        b"x-rehydra-turn",
        b"x-rehydra-tenant",
    }
)
"""Believed of the edge and of other hosts only."""

WANTED: Final = INTERNAL | {
    b"x-session-id",
    b"idempotency-key",
    b"if-match",
    b"accept",
    b"content-length",
    b"content-encoding",
}
KEY_PATTERN: Final = re.compile(r"[!-~]{1,255}")
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_REFUSED: Final = re.compile(r"q=0(\.0{0,3})?")
_ETAG: Final = re.compile(r'(")?(0|[1-9][0-9]{0,14})(?(1)")')


ANY_TURN: Final = "*"
"""As ``If-Match``: the session has a turn, whichever."""


def edge_secret(settings: Settings) -> bytes:
    """``edge.secret`` as bytes. Misconfigured if it isn't base64, or says nothing."""
    try:
        secret = base64.b64decode(settings.edge.secret.get_secret_value(), validate=True)
    except ValueError as error:
        raise Misconfigured("edge.secret must be written in base64.") from error
    if not secret:
        raise Misconfigured("edge.secret is empty.")
    return secret


def internal_pass(secret: bytes) -> str:
    """What edge and hosts show each other in ``x-rehydra-pass``: 32 hex digits. The edge writes the same.

    No session id can ever be this one: what those are derived from begins with ``k:`` or ``r:``.
    """
    return hmac.digest(secret, b"rehydra internal", "sha256").hex()[:32]


def picked(headers: Headers, right_pass: str) -> dict[bytes, str]:
    """The headers that matter here; those of ``INTERNAL``, the pass among them, only if the pass is there.

    BadRequest if one of them comes twice: which would count is anybody's guess. BadRequest for a wrong pass, too: it
    may be a host's that has another secret, and its request would be run as a client's, under a new turn id.
    """
    found: dict[bytes, str] = {}
    twice = b""
    for name, value in headers:
        if name in WANTED:
            text = value.decode("latin-1")
            if name not in found:
                found[name] = text
            elif name == b"accept":
                found[name] += "," + text
            elif name in INTERNAL:
                twice = name
            else:
                raise _comes_twice(name)
    shown = found.get(PASS)
    if shown is None:
        for name in INTERNAL:
            found.pop(name, None)
    elif not hmac.compare_digest(shown.encode("latin-1"), right_pass.encode()):
        raise BadRequest("x-rehydra-pass is wrong. edge.secret must be the same on all hosts and the edge.")
    elif twice:
        raise _comes_twice(twice)
    return found


def _comes_twice(name: bytes) -> BadRequest:
    return BadRequest(f"The header {name.decode()} comes more than once.")


SESSION_ID_SAYS: Final = (
    "A session id is 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -, and neither . nor .. alone."
)


def session_id_checked(session_id: str) -> str:
    """The id itself. BadRequest if it isn't one."""
    if SESSION_ID_PATTERN.fullmatch(session_id) is None:
        raise BadRequest(SESSION_ID_SAYS)
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


def wants_stream(accept: str) -> bool:
    """Whether an ``Accept`` header names server-sent events, and not in order to refuse them (``q=0``)."""
    lowered = accept.lower()
    if "text/event-stream" not in lowered:
        return False
    for part in lowered.split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        if kind == "text/event-stream" and not any(_REFUSED.fullmatch(each) for each in parameters):
            return True
    return False


def if_match(raw: str | None) -> int | None:
    """The turn_seq of an ``If-Match`` header; None for ``ANY_TURN``, too. BadRequest for all but one strong tag,
    whose quotes may be missing."""
    if raw is None or raw == ANY_TURN:
        return None
    tag = _ETAG.fullmatch(raw)
    if tag is None:
        raise BadRequest('If-Match takes one entity tag, the turn_seq in quotes, such as "3"; or *.')
    return int(tag[2])
