"""Turns as packed bytes: what a host keeps of its sessions' pasts.

A turn as an object costs half a kilobyte beside its text, and a look of the garbage collector whenever that walks over
all there is. Most turns in memory are never looked at: an agent reads some of the last ones, a repeated request finds
its own. So they are kept as bytes, which the collector doesn't see, and made into a :class:`~actors.model.Turn` when
somebody asks for one.

Where the turns are: ``_chunks`` holds their records one after the other, ``_places`` where each begins (chunk and
offset), ``_digests`` four bytes of each turn id, in which a known id is found at the speed of a search through bytes.
A place stays what it was when older turns are dropped: ``_chunks_gone`` and ``_bytes_gone`` (of what is the first chunk
now) say what is missing before the rest. All of it is of types that the collector doesn't track: bytes, tuples of bytes
(an ``array`` and a list are tracked). The records are those of ``record.py``: what a claim brings is kept as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, overload

from actors.model import Turn
from actors.record import Records, id_in, pack, packed_id, unpack, written_id

CHUNK_BYTES: Final = 8_192
"""A record is added by copying the last chunk; a longer record has a chunk of its own."""

_DIGEST: Final = Struct("<I")
_DIGEST_MASK: Final = 0xFFFF_FFFF
_PLACE: Final = Struct("<IH")
"""Chunk, and offset in it, which is never above CHUNK_BYTES."""
_BESIDE_BYTES: Final = _PLACE.size + _DIGEST.size


class PackedTurns(Sequence[Turn]):
    """Turns of one session, without a gap. Each access makes a new :class:`Turn`, equal to the one added.

    May be read in another thread while a turn is added: what was there stays where it is. Not while turns are dropped:
    whoever reads then has a :meth:`copy`.
    """

    __slots__ = ("_bytes_gone", "_chunks", "_chunks_gone", "_digests", "_places", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """How many turns of the session are before these."""
        self._chunks: tuple[bytes, ...] = ()
        self._places = bytearray()
        self._digests = bytearray()
        self._chunks_gone = 0
        self._bytes_gone = 0

    @property
    def turn_seq(self) -> int:
        """That of the last; 0 if there is none."""
        return self.dropped + len(self)

    @property
    def last_turn_id(self) -> str:
        """Of the last; empty if there is none. Read out of its record: kept, it would cost each session 80 bytes."""
        return written_id(id_in(*self._place(len(self) - 1))) if self._digests else ""

    def __len__(self) -> int:
        return len(self._digests) // _DIGEST.size

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> list[Turn]: ...
    def __getitem__(self, at: int | slice) -> Turn | list[Turn]:
        there = range(len(self))[at]
        return self._turn(there) if isinstance(there, int) else [self._turn(each) for each in there]

    def __iter__(self) -> Iterator[Turn]:
        return map(self._turn, range(len(self)))

    def find(self, turn_id: str) -> Turn | None:
        """The turn under that id."""
        wanted = packed_id(turn_id)
        digest, at = _digest(wanted), -1
        while (at := self._digests.find(digest, at + 1)) >= 0:
            # It may begin in the middle of one digest, or be that of another id.
            if at % _DIGEST.size == 0 and id_in(*self._place(at // _DIGEST.size)) == wanted:
                return self._turn(at // _DIGEST.size)
        return None

    def copy(self) -> PackedTurns:
        """What is here now. Costs the copying of 10 bytes a turn; the records are shared."""
        other = PackedTurns()
        other.dropped, other._chunks = self.dropped, self._chunks
        other._places, other._digests = self._places[:], self._digests[:]
        other._chunks_gone, other._bytes_gone = self._chunks_gone, self._bytes_gone
        return other

    def drop(self, count: int) -> int:
        """Forget the ``count`` oldest, which mustn't be all; the bytes that they took."""
        assert 0 < count < len(self)
        chunk, begin = _PLACE.unpack_from(self._places, count * _PLACE.size)
        gone = chunk - self._chunks_gone
        cut = begin if gone else begin - self._bytes_gone
        size_bytes: int = sum(map(len, self._chunks[:gone])) + cut + count * _BESIDE_BYTES
        self._chunks = (self._chunks[gone][cut:], *self._chunks[gone + 1 :])
        self._chunks_gone, self._bytes_gone = chunk, begin
        del self._places[: count * _PLACE.size]
        del self._digests[: count * _DIGEST.size]
        self.dropped += count
        return size_bytes

    def add(self, turns: Sequence[Turn]) -> int:
        """Put them after the last; the bytes that they take."""
        if not turns:
            return 0
        if type(turns) is Records:  # Not isinstance, which asks its abstract classes for half a microsecond.
            first_seq, records = turns.first_seq, turns.packed
        else:
            first_seq, records = turns[0].turn_seq, tuple([pack(turn) for turn in turns])
        if not self._digests:
            self.dropped = first_seq - 1
        assert first_seq == self.turn_seq + 1 and turns[-1].turn_seq == first_seq + len(records) - 1
        return self._append(records)

    def _append(self, records: Sequence[bytes]) -> int:
        full, open_ = self._chunks[:-1], list(self._chunks[-1:])
        filled = len(open_[0]) if open_ else 0
        if not full:
            filled += self._bytes_gone
        number, closed = self._chunks_gone + len(full), list[bytes]()
        for record in records:
            size_bytes = len(record)
            if open_ and filled + size_bytes > CHUNK_BYTES:
                closed.append(b"".join(open_))
                open_, filled, number = [], 0, number + 1
            self._places += _PLACE.pack(number, filled)
            open_.append(record)
            filled += size_bytes
        self._chunks = (*full, *closed, b"".join(open_))
        self._digests += b"".join([_digest(id_in(record)) for record in records])
        return sum(map(len, records)) + len(records) * _BESIDE_BYTES

    def _place(self, at: int) -> tuple[bytes, int]:
        chunk, offset = _PLACE.unpack_from(self._places, at * _PLACE.size)
        chunk -= self._chunks_gone
        return self._chunks[chunk], offset if chunk else offset - self._bytes_gone

    def _turn(self, at: int) -> Turn:
        return unpack(self.dropped + at + 1, *self._place(at))


def _digest(packed_id: bytes) -> bytes:
    """Python's own hash: random for each process, so that nobody can choose ids of one digest."""
    return _DIGEST.pack(hash(packed_id) & _DIGEST_MASK)
