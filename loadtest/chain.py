"""What the agent ``chained`` must have replied, computed again from its documentation alone."""

from __future__ import annotations

import hashlib


class Chain:
    """What the agent ``chained`` must reply, computed turn by turn as its documentation says:

    ``n:`` and the SHA-256 of all messages and replies before and of the message, each as ``length:UTF-8``.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._turn_seq = 0

    def reply_to(self, message: str) -> str:
        """The one right reply to the next message."""
        self._turn_seq += 1
        self._add(message)
        return f"{self._turn_seq}:{self._digest.hexdigest()}"

    def follow(self, message: str, reply: str) -> None:
        """A turn of the past: what was said then, and what was replied. Computes nothing."""
        self._turn_seq += 1
        self._add(message)
        self._add(reply)

    def replied(self, reply: str) -> None:
        """What the log has as the reply: the rest is computed from that, right or not."""
        self._add(reply)

    def _add(self, text: str) -> None:
        raw = text.encode()
        self._digest.update(b"%d:%b" % (len(raw), raw))
