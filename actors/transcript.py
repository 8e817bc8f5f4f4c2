"""What a host has of one session in memory: its committed turns, their ids, and the agent's state.

Everything in it is durable: it is loaded by a claim and grows by commits, nothing else. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.model import Checkpoint, Turn
from actors.packed import PackedTurns

SESSION_OVERHEAD_BYTES = 1_500
"""What a session in memory costs beside its turns and its state, roughly: the unit of ``resident_bytes_max`` is an
estimate."""


class Transcript(PackedTurns):
    """The turns of one session, in order. ``resized`` is told of every change of ``size_bytes``."""

    __slots__ = ("_resized", "log_bytes", "size_bytes", "state")

    def __init__(self, resized: Callable[[int], None]) -> None:
        super().__init__()
        self._resized = resized
        self.state = b""
        self.log_bytes = 0
        """Of its turns, and the state."""
        self.size_bytes = 0
        """Of the whole session in memory, an estimate; 0 until it is loaded."""

    @property
    def last_turn_id(self) -> str:
        """Empty if there is none."""
        return self.turn_id(-1) if len(self) else ""

    def load(self, checkpoint: Checkpoint) -> None:
        """Begin with what the store had at the claim."""
        assert not len(self)
        self.state = checkpoint.state
        self._grow(len(self.state) + self.add(checkpoint.turns))

    def append(self, turn: Turn, state: bytes | None) -> None:
        """A turn was committed; ``state`` as in the commit."""
        delta_bytes = self.add((turn,))
        if state is not None:
            delta_bytes += len(state) - len(self.state)
            self.state = state
        self._grow(delta_bytes)

    def _grow(self, delta_bytes: int) -> None:
        self.log_bytes += delta_bytes
        before, self.size_bytes = self.size_bytes, SESSION_OVERHEAD_BYTES + self.log_bytes
        self._resized(self.size_bytes - before)
