"""What a host has of one session in memory: its committed turns, their ids, and the agent's state.

Everything in it is durable: it is loaded by a claim and grows by commits, nothing else. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic_core import to_json

from actors.model import Checkpoint, Turn

TURN_OVERHEAD_BYTES = 400
"""What a turn in memory costs beside its text, roughly: the unit of ``resident_bytes_max`` is an estimate."""


class Transcript:
    """The turns of one session, in order. ``resized`` is told of every change of ``size_bytes``, an estimate."""

    __slots__ = ("_index", "_resized", "size_bytes", "state", "turns")

    def __init__(self, resized: Callable[[int], None]) -> None:
        self._resized = resized
        self.turns: list[Turn] = []
        self.state = b""
        self.size_bytes = 0
        self._index: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.turns)

    @property
    def last_turn_id(self) -> str:
        """Empty if there is none."""
        return self.turns[-1].turn_id if self.turns else ""

    def find(self, turn_id: str) -> Turn | None:
        """The committed turn under that id."""
        turn_seq = self._index.get(turn_id)
        return None if turn_seq is None else self.turns[turn_seq - 1]

    def load(self, checkpoint: Checkpoint) -> None:
        """Begin with what the store had at the claim."""
        assert not self.turns
        self.turns = list(checkpoint.turns)
        self.state = checkpoint.state
        self._index = {turn.turn_id: turn.turn_seq for turn in self.turns}
        self._grow(len(self.state) + sum(_size_bytes(turn) for turn in self.turns))

    def append(self, turn: Turn, state: bytes | None) -> None:
        """A turn was committed; ``state`` as in the commit."""
        assert turn.turn_seq == len(self.turns) + 1
        self.turns.append(turn)
        self._index[turn.turn_id] = turn.turn_seq
        delta_bytes = _size_bytes(turn)
        if state is not None:
            delta_bytes += len(state) - len(self.state)
            self.state = state
        self._grow(delta_bytes)

    def _grow(self, delta_bytes: int) -> None:
        self.size_bytes += delta_bytes
        self._resized(delta_bytes)


def _size_bytes(turn: Turn) -> int:
    metadata_bytes = len(to_json(turn.metadata)) if turn.metadata else 0
    return TURN_OVERHEAD_BYTES + len(turn.message) + len(turn.reply) + metadata_bytes
