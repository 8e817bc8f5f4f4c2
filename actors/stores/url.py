"""Stores' URLs: how one may be shown, and the two in that of a hybrid store."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from actors.errors import Misconfigured

HYBRID: Final = "hybrid+"
_HALVES: Final = re.compile(r"hybrid\+((?:redis|rediss|unix)://.+)\+(postgres(?:ql)?://.+)")


def is_hybrid(url: str) -> bool:
    """Whether it names two stores, or tries to."""
    return url.startswith(HYBRID)


def halves(url: str) -> tuple[str, str]:
    """The two URLs in ``hybrid+redis://...+postgresql://...``. Misconfigured if it isn't that."""
    found = _HALVES.fullmatch(url)
    if found is None:
        raise Misconfigured(
            "store.url begins with 'hybrid+' and must name Redis and then PostgreSQL:"
            " hybrid+redis://host:6379/0+postgresql://user:password@host/database."
        )
    return found[1], found[2]


def shown(url: str) -> str:
    """``url`` as it may appear in messages: without user, password and options."""
    if is_hybrid(url):
        return HYBRID + "+".join(map(shown, halves(url)))
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
