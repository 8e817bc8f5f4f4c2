"""Turns as packed bytes: what a host keeps of its sessions' pasts.

A turn as an object costs half a kilobyte beside its text, and a look of the garbage collector whenever that walks over
all there is. Most turns in memory are never looked at: an agent reads some of the last ones, a repeated request finds
its own. So they are kept as bytes, which the collector doesn't see, and made into a :class:`~actors.model.Turn` when
somebody asks for one.

Where the turns are: ``_chunks`` holds their records one after the other; ``_rows`` has for each turn four bytes of the
hash of its id, by which a known one is found at the speed of a search through bytes, and the place of its record (chunk
and offset). A place stays what it was when older turns are dropped: ``_chunks_gone`` and ``_bytes_gone`` (of what is
the first chunk now) say what is missing before the rest. All of it is of types that the collector doesn't track: bytes,
tuples of bytes (an ``array`` and a list are tracked). The format is this module's own and never leaves the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, overload

from pydantic_core import from_json, to_json

from actors.model import Turn

CHUNK_BYTES: Final = 16_384
"""A record is added by copying the last chunk; a longer record has a chunk of its own."""

_HEAD: Final = Struct("<qqIIB")
"""epoch, committed_ms; bytes of message and reply; whether the other lengths are ``_USUAL``."""
_MORE: Final = Struct("<HBI")
"""The others, where they aren't: bytes of turn id, fingerprint, metadata (0: none)."""
_DIGEST: Final = Struct("<I")
_ROW: Final = Struct("<IIH")
"""digest; chunk and offset in it, which is never above CHUNK_BYTES."""
_RAW: Final = 16
"""Bytes of a fingerprint of 32 hexadecimal digits, as all are that clients' messages get. Longer ones: as written."""
_FORMS: Final = (("k:", 32), ("r:", 32), ("k:", 36), ("r:", 36))
"""Turn ids that are kept as 17 bytes, the first of which is the index here: 32 hexadecimal digits, or a UUID, behind
their namespace. No other id begins with so small a byte."""
_USUAL: Final = (1 + _RAW, _RAW, 0)
"""Lengths of a turn that a client's message became: id and fingerprint are packed, and there is no metadata."""
_FORM_OF: Final = {(prefix, length + len(prefix)): form for form, (prefix, length) in enumerate(_FORMS)}


class PackedTurns(Sequence[Turn]):
    """Turns of one session, without a gap. Each access makes a new :class:`Turn`, equal to the one added.

    May be read in another thread while a turn is added: what was there stays where it is. Not while turns are dropped:
    whoever reads then has a :meth:`copy`.
    """

    __slots__ = ("_bytes_gone", "_chunks", "_chunks_gone", "_rows", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """How many turns of the session are before these."""
        self._chunks: tuple[bytes, ...] = ()
        self._rows = bytearray()
        self._chunks_gone = 0
        self._bytes_gone = 0

    @property
    def turn_seq(self) -> int:
        """That of the last; 0 if there is none."""
        return self.dropped + len(self)

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

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
        begin, (length, _, _) = _lengths(chunk, offset)
        return _written_id(chunk[begin : begin + length])

    def find(self, turn_id: str) -> Turn | None:
        """The turn under that id."""
        digest, at = _DIGEST.pack(_digest(turn_id)), -1
        while (at := self._rows.find(digest, at + 1)) >= 0:
            # It may be anything else in a row, or the digest of another id.
            row, beside = divmod(at, _ROW.size)
            if not beside and self.turn_id(row) == turn_id:
                return self._turn(row)
        return None

    def copy(self) -> PackedTurns:
        """What is here now. Costs the copying of 10 bytes a turn; the records are shared."""
        other = PackedTurns()
        other.dropped, other._chunks, other._rows = self.dropped, self._chunks, self._rows[:]
        other._chunks_gone, other._bytes_gone = self._chunks_gone, self._bytes_gone
        return other

    def drop(self, count: int) -> int:
        """Forget the ``count`` oldest, which mustn't be all; the bytes that they took."""
        assert 0 < count < len(self)
        _, chunk, begin = _ROW.unpack_from(self._rows, count * _ROW.size)
        gone = chunk - self._chunks_gone
        cut = begin if gone else begin - self._bytes_gone
        size_bytes: int = sum(map(len, self._chunks[:gone])) + cut + count * _ROW.size
        self._chunks = (self._chunks[gone][cut:], *self._chunks[gone + 1 :])
        self._chunks_gone, self._bytes_gone = chunk, begin
        del self._rows[: count * _ROW.size]
        self.dropped += count
        return size_bytes

    def add(self, turns: Sequence[Turn]) -> int:
        """Put them after the last; the bytes that they take."""
        if turns and not len(self):
            self.dropped = turns[0].turn_seq - 1
        size_bytes = len(turns) * _ROW.size
        chunks, open_ = list(self._chunks[:-1]), list(self._chunks[-1:])
        filled = len(open_[0]) if open_ else 0
        if not chunks:
            filled += self._bytes_gone
        for turn in turns:
            assert turn.turn_seq == self.turn_seq + 1
            record = _record(turn)
            if open_ and filled + len(record) > CHUNK_BYTES:
                chunks.append(b"".join(open_))
                open_, filled = [], 0
            self._rows += _ROW.pack(_digest(turn.turn_id), self._chunks_gone + len(chunks), filled)
            open_.append(record)
            filled += len(record)
            size_bytes += len(record)
        self._chunks = (*chunks, b"".join(open_)) if open_ else tuple(chunks)
        return size_bytes

    def _place(self, at: int) -> tuple[bytes, int]:
        _, chunk, offset = _ROW.unpack_from(self._rows, at * _ROW.size)
        chunk -= self._chunks_gone
        return self._chunks[chunk], offset if chunk else offset - self._bytes_gone

    def _turn(self, at: int) -> Turn:
        chunk, offset = self._place(at)
        epoch, committed_ms, message, reply, _ = _HEAD.unpack_from(chunk, offset)
        begin, (turn_id, fingerprint, metadata) = _lengths(chunk, offset)
        texts = []
        for length in (turn_id, fingerprint, message, reply, metadata):
            texts.append(chunk[begin : begin + length])
            begin += length
        return Turn(
            self.dropped + at + 1,
            _written_id(texts[0]),
            texts[1].hex() if fingerprint == _RAW else texts[1].decode(),
            texts[2].decode(),
            texts[3].decode(),
            from_json(texts[4]) if metadata else None,
            epoch,
            committed_ms,
        )


def _digest(turn_id: str) -> int:
    """Of Python's own hash: random for each process, so that nobody can choose ids of one digest."""
    return hash(turn_id) & 0xFFFF_FFFF


def _record(turn: Turn) -> bytes:
    texts = (
        _packed_id(turn.turn_id),
        _packed_fingerprint(turn.fingerprint),
        turn.message.encode(),
        turn.reply.encode(),
        to_json(turn.metadata) if turn.metadata is not None else b"",
    )
    turn_id, fingerprint, message, reply, metadata = map(len, texts)
    others = (turn_id, fingerprint, metadata)
    head = _HEAD.pack(turn.epoch, turn.committed_ms, message, reply, others == _USUAL)
    return b"".join((head, b"" if others == _USUAL else _MORE.pack(*others), *texts))


def _lengths(chunk: bytes, offset: int) -> tuple[int, tuple[int, int, int]]:
    """Where the texts of the record at ``offset`` begin, and the lengths that aren't in its head."""
    begin = offset + _HEAD.size
    if chunk[begin - 1]:
        return begin, _USUAL
    return begin + _MORE.size, _MORE.unpack_from(chunk, begin)


def _packed_id(turn_id: str) -> bytes:
    """As short as can be; :func:`_written_id` is the way back."""
    form = _FORM_OF.get((turn_id[:2], len(turn_id)))
    if form is not None:
        try:
            packed = bytes((form,)) + bytes.fromhex(turn_id[2:].replace("-", ""))
        except ValueError:
            packed = b""
        # Capitals, or dashes in other places, would come back as something else.
        if len(packed) == 1 + _RAW and _written_id(packed) == turn_id:
            return packed
    written = turn_id.encode()
    assert written[0] >= len(_FORMS), turn_id
    return written


def _written_id(packed: bytes) -> str:
    if packed[0] >= len(_FORMS):
        return packed.decode()
    prefix, length = _FORMS[packed[0]]
    digits = packed[1:].hex()
    if length == len(digits):
        return prefix + digits
    return f"{prefix}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _packed_fingerprint(fingerprint: str) -> bytes:
    """32 hexadecimal digits as 16 bytes; anything else as it is written, which must not have 16 bytes then."""
    try:
        raw = bytes.fromhex(fingerprint)
    except ValueError:
        raw = b""
    if len(raw) == _RAW and raw.hex() == fingerprint:
        return raw
    written = fingerprint.encode()
    assert len(written) != _RAW, fingerprint
    return written
