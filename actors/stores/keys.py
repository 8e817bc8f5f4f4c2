"""The names of everything that is kept in Redis, and which of it may stay for ever.

The keys of one session share the hash tag ``{tenant:session_id}``, so that one script may touch all of them, also
in a cluster. The keys of the membership table share the tag ``{members}``. Every key has an expiry or is on the
list that :meth:`Keys.permanent` returns, by these rules:

- ``schema`` (one string) and ``table`` (one hash, a field or two per slot) stay: the deployment needs them to start.
- ``beats`` and the keys of sessions expire. With ``session.ttl_s`` 0 the keys of sessions stay too, which is what
  was asked for; tombstones expire even then.
- ``newest`` and ``answer`` of a sealed conversation always expire.
"""

from __future__ import annotations

from typing import Final

from actors.model import SessionKey

SESSION_PARTS: Final = ("lease", "log", "ids")
"""lease: hash, who may write and the agent's state · log: list of turn records · ids: hash, turn_id to turn_seq."""


class Keys:
    """Every key under one ``prefix``."""

    __slots__ = ("_prefix", "beats", "schema", "table")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.schema = f"{prefix}:schema"
        self.table = f"{prefix}:{{members}}:table"
        self.beats = f"{prefix}:{{members}}:beats"

    def of_session(self, key: SessionKey) -> tuple[str, str, str]:
        """``(lease, log, ids)``, in the order in which every script of a session takes them."""
        stem = f"{self._prefix}:{{{key.tenant}:{key.session_id}}}:"
        return (stem + "lease", stem + "log", stem + "ids")

    def of_sealed(self, key: SessionKey) -> tuple[str, str]:
        """``(newest, answer)`` of a sealed conversation, as its replay guard knows it."""
        stem = f"{self._prefix}:{{{key.tenant}:{key.session_id}}}:"
        return (stem + "newest", stem + "answer")

    def permanent(self) -> frozenset[str]:
        """Keys that may stand without an expiry, whatever the settings."""
        return frozenset((self.schema, self.table))
