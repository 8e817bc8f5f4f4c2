"""How everything is laid out: three collections whose names begin with ``prefix``. Pure.

- ``PREFIX_sessions``: one document per session: its :class:`~actors.stores.lease_rules.Record`, the agent's state, and
  the whole log, one subdocument per turn with its id, its fingerprint and its record.
- ``PREFIX_members``: the membership table (``roster``) and a document per host's beats (``beat:INCARNATION``).
- ``PREFIX_schema``: the schema_version in use.

One document, because MongoDB changes one document in one step, on any deployment, and nothing else in one step without
transactions. Its price: a document has 16 MB at most, and the server writes the whole of it anew in its cache with each
turn (its log of operations has the turn alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from actors.model import HostRef, SessionKey
from actors.stores.lease_rules import Record

Document = Mapping[str, Any]

LOG_BYTES_MAX: Final = 8 << 20
"""Of a session's turns. A record is longer than its texts, there is the state too, and one turn may come on
top: half of the 16 MB that a document may have is left for all that."""
CLEARED_AFTER_S: Final = 86_400
"""The server clears expired sessions away so long after hosts have ceased to see them, whatever its clock says."""
ROSTER: Final = "roster"
BEAT: Final = "beat:"
SCHEMA: Final = "schema"


def sessions(prefix: str) -> str:
    return f"{prefix}_sessions"


def members(prefix: str) -> str:
    return f"{prefix}_members"


def schemas(prefix: str) -> str:
    return f"{prefix}_schema"


def id_of(key: SessionKey) -> str:
    # No colon in a tenant.
    return f"{key.tenant}:{key.session_id}"


def expiry(expires_ms: int) -> dict[str, Any]:
    """``expires_ms`` is for hosts, ``expires_at`` for the server's own clearing away. 0: neither ever comes."""
    when = datetime.fromtimestamp(expires_ms / 1000, UTC) if expires_ms else None
    return {"expires_ms": expires_ms, "expires_at": when}


def fields_of(record: Record) -> dict[str, Any]:
    """All of a document but its id, the state and the log."""
    holder = record.holder
    return {
        "schema_version": record.schema_version,
        "born": record.born,
        "epoch": record.epoch,
        "rev": record.rev,
        "token": record.token,
        "incarnation": holder.incarnation if holder else None,
        "slot": holder.slot if holder else None,
        "address": holder.address if holder else None,
        "takeovers": record.takeovers,
        "running": record.running,
        "suspects": list(record.suspects),
        "deleted": record.deleted,
        "turn_seq": record.turn_seq,
        "last_turn_id": record.last_turn_id,
        **expiry(record.expires_ms),
    }


def begun(key: SessionKey, record: Record) -> dict[str, Any]:
    """The whole document of a life that begins, or of a tombstone: neither has turns."""
    return {"_id": id_of(key), **fields_of(record), "state": b"", "log": []}


def record_in(document: Document) -> Record:
    """The record that :func:`fields_of` put there."""
    holder = None
    if document["incarnation"] is not None:
        holder = HostRef(document["incarnation"], document["slot"], document["address"])
    return Record(
        document["born"],
        document["epoch"],
        document["rev"],
        document["token"],
        holder,
        document["takeovers"],
        document["running"],
        tuple(document["suspects"]),
        document["deleted"],
        document["turn_seq"],
        document["last_turn_id"],
        document["expires_ms"],
        document["schema_version"],
    )
