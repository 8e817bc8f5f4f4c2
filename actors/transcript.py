"""What a host has of one session in memory: its committed turns, their ids, and the agent's state.

Everything in it is durable: it is loaded by a claim and grows by commits, nothing else. Pure: no clock, no I/O.

With a window (``agent.window_of``) only the last turns are here. A turn id that isn't may then be that of an older one
(``dropped``): the store knows, and whoever acts on such an id asks it, or lets the commit tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.errors import Outcome
from actors.model import Checkpoint, Turn
from actors.packed import PackedTurns

SESSION_OVERHEAD_BYTES = 1_500
"""What a session in memory costs beside its turns and its state, roughly: the unit of ``resident_bytes_max`` is an
estimate."""


class Transcript(PackedTurns):
    """The turns of one session, in order; the last ``window`` of them, unless None. ``resized`` is told of every change
    of ``size_bytes``."""

    __slots__ = ("_resized", "_window", "size_bytes", "state")

    def __init__(self, resized: Callable[[int], None], window: int | None) -> None:
        super().__init__()
        self._resized = resized
        self._window = window
        self.state = b""
        self.size_bytes = 0
        """Of the whole session in memory, an estimate; 0 until it is loaded."""

    @property
    def log_bytes(self) -> int:
        """Of the turns that are here, and the state, once it is loaded."""
        return self.size_bytes - SESSION_OVERHEAD_BYTES

    @property
    def absent(self) -> Outcome:
        """What this host knows, without asking the store, of a turn whose id it neither has nor runs."""
        return Outcome.UNKNOWN if self.dropped else Outcome.NOT_DONE

    def load(self, checkpoint: Checkpoint) -> None:
        """Begin with what the store had at the claim."""
        assert not len(self)
        self.state = checkpoint.state
        self._grow(SESSION_OVERHEAD_BYTES + len(self.state) + self.add(checkpoint.turns))

    def past(self) -> Sequence[Turn]:
        """The turns for an agent, which may read them in another thread, and may go on when it was given up."""
        return self if self._window is None else self.copy()

    def append(self, turn: Turn, state: bytes | None) -> None:
        """A turn was committed; ``state`` as in the commit."""
        delta_bytes = self.add((turn,))
        if self._window is not None and len(self) > self._window:
            delta_bytes -= self.drop(len(self) - self._window)
        if state is not None:
            delta_bytes += len(state) - len(self.state)
            self.state = state
        self._grow(delta_bytes)

    def _grow(self, delta_bytes: int) -> None:
        self.size_bytes += delta_bytes
        self._resized(delta_bytes)
