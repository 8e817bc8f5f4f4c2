"""The writes and looks of a session as filters, updates and projections. Pure."""

from __future__ import annotations

from typing import Any, Final

from actors.model import Lease, SessionKey, Turn
from actors.stores.mongodb import documents

Part = dict[str, Any]

WITHOUT_TURNS: Final = {"state": 0, "log.record": 0}
WITHOUT_LOG: Final = {"state": 0, "log": 0}


def append_turn(
    key: SessionKey,
    lease: Lease,
    previous_turn_id: str,
    turn: Turn,
    record: bytes,
    state: bytes | None,
    now_ms: int,
    expires_ms: int,
) -> tuple[Part, Part]:
    """The filter: lease and log are the caller's, and the turn's id isn't known. The update: the turn is in the log."""
    current = {
        "_id": documents.id_of(key),
        "born": lease.born,
        "epoch": lease.epoch,
        "token": lease.token,
        "incarnation": {"$ne": None},
        "deleted": "",
        "turn_seq": turn.turn_seq - 1,
        "last_turn_id": previous_turn_id,
        "log.id": {"$ne": turn.turn_id},
        "$or": [{"expires_ms": 0}, {"expires_ms": {"$gt": now_ms}}],
    }
    fields = {
        "turn_seq": turn.turn_seq,
        "last_turn_id": turn.turn_id,
        "takeovers": 0,
        **documents.expiry(expires_ms),
    }
    if state is not None:
        fields["state"] = state
    new = {"id": turn.turn_id, "fingerprint": turn.fingerprint, "record": record}
    return current, {"$set": fields, "$push": {"log": new}, "$inc": {"rev": 1}}


def last_turns(turn_seq: int, window: int | None) -> Part | None:
    """The projection with the last ``window`` of ``turn_seq`` turns only, and everything else.

    Counted from the front: of a log that has lost turns too few come, and that is noticed.
    """
    if window is None:
        return None
    # A field that is left out makes it a projection of all others.
    return {"expires_at": 0, "log": {"$slice": [max(0, turn_seq - window), window]}}


def place(document: documents.Document | None, turn_id: str) -> int:
    """Where that turn stands in the log; 0: nowhere."""
    if document is None or not turn_id:
        return 0
    return next((at for at, turn in enumerate(document["log"], 1) if turn["id"] == turn_id), 0)
