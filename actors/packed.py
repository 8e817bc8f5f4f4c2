"""Turns as packed bytes: what a host keeps of its sessions' pasts.

A turn as an object costs half a kilobyte beside its text, and a look of the garbage collector whenever that walks over
all there is. Most turns in memory are never looked at: an agent reads some of the last ones, a repeated request finds
its own. So they are kept as bytes, which the collector doesn't see, and made into a :class:`~actors.model.Turn` when
somebody asks for one.

Where the turns are: ``_chunks`` holds their records one after the other, ``_places`` where each begins (chunk and
offset), ``_digests`` eight bytes of each turn id, in which a known id is found at the speed of a search through bytes.
A place stays what it was when older turns are dropped: ``_chunks_gone`` and ``_bytes_gone`` (of what is the first chunk
now) say what is missing before the rest. All of it is of types that the collector doesn't track: bytes, tuples of bytes
(an ``array`` and a list are tracked). The format is this module's own and never leaves the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, overload

from pydantic_core import from_json, to_json

from actors.model import Turn

CHUNK_BYTES: Final = 8_192
"""A record is added by copying the last chunk; a longer record has a chunk of its own."""

_HEAD: Final = Struct("<qqIIB")
"""epoch, committed_ms; bytes of message and reply; whether the rest is as usual: turn id and fingerprint
are packed, and there is no metadata."""
_MORE: Final = Struct("<HBI")
"""Where it isn't: bytes of turn id, fingerprint, metadata (0: none)."""
_DIGEST: Final = Struct("<q")
_PLACE: Final = Struct("<IH")
"""Chunk, and offset in it, which is never above CHUNK_BYTES."""
_BESIDE_BYTES: Final = _PLACE.size + _DIGEST.size
_RAW: Final = 16
"""Bytes of a fingerprint of 32 hexadecimal digits, as all are that clients' messages get. Longer ones: as written."""
_FORMS: Final = (("k:", 32), ("r:", 32), ("k:", 36), ("r:", 36))
"""Turn ids that are kept as 17 bytes, the first of which is the index here: 32 hexadecimal digits, or a UUID, behind
their namespace. No other id begins with so small a byte."""
_HEX_CHARS: Final = 2 + 32
_FORM_OF: Final = {(prefix, length + len(prefix)): bytes((at,)) for at, (prefix, length) in enumerate(_FORMS)}


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

    def turn_id(self, at: int) -> str:
        """The id of one turn alone."""
        chunk, offset = self._place(range(len(self))[at])
        begin, length, _, _ = _lengths(chunk, offset)
        return _written_id(chunk[begin : begin + length])

    def find(self, turn_id: str) -> Turn | None:
        """The turn under that id."""
        digest, at = _digest(turn_id), -1
        while (at := self._digests.find(digest, at + 1)) >= 0:
            # It may begin in the middle of one digest, or be that of another id.
            if at % _DIGEST.size == 0 and self.turn_id(at // _DIGEST.size) == turn_id:
                return self._turn(at // _DIGEST.size)
        return None

    def copy(self) -> PackedTurns:
        """What is here now. Costs the copying of 14 bytes a turn; the records are shared."""
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
        if turns and not len(self):
            self.dropped = turns[0].turn_seq - 1
        size_bytes = len(turns) * _BESIDE_BYTES
        full, open_ = self._chunks[:-1], list(self._chunks[-1:])
        filled = len(open_[0]) if open_ else 0
        if not full:
            filled += self._bytes_gone
        number, closed = self._chunks_gone + len(full), list[bytes]()
        for turn_seq, turn in enumerate(turns, self.turn_seq + 1):
            assert turn.turn_seq == turn_seq
            record = _record(turn)
            if open_ and filled + len(record) > CHUNK_BYTES:
                closed.append(b"".join(open_))
                open_, filled, number = [], 0, number + 1
            self._places += _PLACE.pack(number, filled)
            self._digests += _digest(turn.turn_id)
            open_.append(record)
            filled += len(record)
            size_bytes += len(record)
        if turns:
            self._chunks = (*full, *closed, b"".join(open_))
        return size_bytes

    def _place(self, at: int) -> tuple[bytes, int]:
        chunk, offset = _PLACE.unpack_from(self._places, at * _PLACE.size)
        chunk -= self._chunks_gone
        return self._chunks[chunk], offset if chunk else offset - self._bytes_gone

    def _turn(self, at: int) -> Turn:
        chunk, offset = self._place(at)
        epoch, committed_ms, message, reply, _ = _HEAD.unpack_from(chunk, offset)
        begin, turn_id, fingerprint, metadata = _lengths(chunk, offset)
        fingerprint_at = begin + turn_id
        message_at = fingerprint_at + fingerprint
        reply_at = message_at + message
        end = reply_at + reply
        printed = chunk[fingerprint_at:message_at]
        return Turn(
            self.dropped + at + 1,
            _written_id(chunk[begin:fingerprint_at]),
            printed.hex() if fingerprint == _RAW else printed.decode(),
            chunk[message_at:reply_at].decode(),
            chunk[reply_at:end].decode(),
            from_json(chunk[end : end + metadata]) if metadata else None,
            epoch,
            committed_ms,
        )


def _digest(turn_id: str) -> bytes:
    """Python's own hash: random for each process, so that nobody can choose ids of one digest."""
    return _DIGEST.pack(hash(turn_id))


def _record(turn: Turn) -> bytes:
    texts = (
        _packed_id(turn.turn_id),
        _packed_fingerprint(turn.fingerprint),
        turn.message.encode(),
        turn.reply.encode(),
        to_json(turn.metadata) if turn.metadata is not None else b"",
    )
    turn_id, fingerprint, message, reply, metadata = map(len, texts)
    usual = turn_id == 1 + _RAW and fingerprint == _RAW and not metadata
    head = _HEAD.pack(turn.epoch, turn.committed_ms, message, reply, usual)
    return b"".join((head, b"" if usual else _MORE.pack(turn_id, fingerprint, metadata), *texts))


def _lengths(chunk: bytes, offset: int) -> tuple[int, int, int, int]:
    """Where the texts of the record at ``offset`` begin, and the bytes of its turn id, fingerprint and metadata."""
    begin = offset + _HEAD.size
    if chunk[begin - 1]:
        return begin, 1 + _RAW, _RAW, 0
    return begin + _MORE.size, *_MORE.unpack_from(chunk, begin)


def _packed_id(turn_id: str) -> bytes:
    """As short as can be; :func:`_written_id` is the way back."""
    form = _FORM_OF.get((turn_id[:2], len(turn_id)))
    if form is not None and (len(turn_id) == _HEX_CHARS or turn_id[10:26:5] == "----"):
        raw = _raw(turn_id[2:].replace("-", ""))
        if raw is not None:
            return form + raw
    written = turn_id.encode()
    assert written[0] >= len(_FORMS), turn_id
    return written


def _written_id(packed: bytes) -> str:
    form = packed[0]
    if form >= len(_FORMS):
        return packed.decode()
    prefix, length = _FORMS[form]
    digits = packed.hex()[2:]
    if length == len(digits):
        return prefix + digits
    return f"{prefix}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _packed_fingerprint(fingerprint: str) -> bytes:
    """32 hexadecimal digits as 16 bytes; anything else as it is written, which must not have 16 bytes then."""
    if (raw := _raw(fingerprint)) is not None:
        return raw
    written = fingerprint.encode()
    assert len(written) != _RAW, fingerprint
    return written


def _raw(digits: str) -> bytes | None:
    """What 32 hexadecimal digits in lower case say; None if these are none, and would come back as something else."""
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return None
    return raw if len(raw) == _RAW and raw.hex() == digits else None
