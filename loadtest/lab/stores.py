"""The store that a deployment is on, as an experiment sees it: its servers, and who holds which session.

A store more is a name in ``STORES`` and one in ``_HOLDERS``. Servers are known by the scheme of their URL, also where
``state.json`` names several in one, as in ``hybrid+redis://127.0.0.1:7001/0+postgresql://127.0.0.1:7002/postgres``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from loadtest import postgres_leases, redis_leases

STORES: Final = ("redis", "postgres", "hybrid")
"""As ``deploy/up --store`` calls them; the first is its own default."""

POSTGRES_USER: Final = "rehydra"
POSTGRES_PASSWORD: Final = "postgres-password"
"""Which file of the deployment's folder has it."""

_SERVER: Final = re.compile(r"(redis|postgres)\w*://(?:[^@/]*@)?([^/+]+)")

Holders = Callable[[], Awaitable[dict[str, str]]]
"""Session -> incarnation of its holder; sessions that nobody holds are left out. OSError if the server can't tell."""


class Store:
    """``url`` is what ``deploy/up`` says of it, without user and password, or that of a server of the experiment's own;
    ``folder`` the deployment's."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.url = url
        self.servers: Mapping[str, str] = dict(_SERVER.findall(url))
        """By name: its host:port."""
        self._folder = folder

    def holders(self) -> AbstractAsyncContextManager[Holders]:
        """As long as the block lasts, who holds what can be asked as often as need be."""
        return _HOLDERS[self.name](self)

    def private_url(self) -> str:
        """As hosts and edges are told it. OSError as ``postgres_url``."""
        if self.name == "hybrid":
            redis, _, _ = self.url.partition("+postgresql:")
            return f"{redis}+{self.postgres_url()}"
        return self.url if self.name == "redis" else self.postgres_url()

    def postgres_url(self) -> str:
        """With user and password. OSError if the server is neither the deployment's own nor the experiment's."""
        if "@" in self.url:
            return self.url
        password = quote((self._folder / POSTGRES_PASSWORD).read_text(encoding="utf-8").strip(), safe="")
        return f"postgresql://{POSTGRES_USER}:{password}@{self.servers['postgres']}/postgres"


_HOLDERS: Final[dict[str, Callable[[Store], AbstractAsyncContextManager[Holders]]]] = {
    "redis": lambda store: redis_leases.asking(store.url),
    "postgres": lambda store: postgres_leases.asking(store.postgres_url()),
    # It has the leases; Redis has copies of them, some of which are old.
    "hybrid": lambda store: postgres_leases.asking(store.postgres_url()),
}
