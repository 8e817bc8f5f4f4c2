"""One turn as bytes: the same on the way to the store, in its log, and in a host's memory.

Made once per commit. What a claim brings isn't taken apart to be kept: memory gets what the store has, and a
:class:`~actors.model.Turn` is made when somebody looks at one. Little-endian::

    epoch 8 · committed_ms 8 · bytes of message 4 · of reply 4 · usual 1
    [bytes of turn id 2 · of fingerprint 1 · of metadata 4]              only where usual is 0
    turn id · fingerprint · message · reply · metadata

``usual`` is 1 where turn id and fingerprint have 17 and 16 bytes and there is no metadata, which is JSON. Which
turn of which session it is doesn't stand here: ``stores/codec.py`` puts that before it, and memory knows it by its
place. ``stores/lua/record.lua`` reads the turn id and the fingerprint by the same layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, overload

from pydantic_core import from_json, to_json

from actors.model import Turn

_HEAD: Final = Struct("<qqIIB")
_MORE: Final = Struct("<HBI")
_RAW: Final = 16
"""Bytes of a fingerprint of 32 hexadecimal digits, as all are that clients' messages get. Longer ones: as written."""
_FORMS: Final = (("k:", 32), ("r:", 32), ("k:", 36), ("r:", 36))
"""Turn ids that are kept as 17 bytes, the first of which is the index here: 32 hexadecimal digits, or a UUID, behind
their namespace. No other id begins with so small a byte."""
_HEX_CHARS: Final = 2 + 32
_FORM_OF: Final = {(prefix, length + len(prefix)): bytes((at,)) for at, (prefix, length) in enumerate(_FORMS)}


def pack(turn: Turn) -> bytes:
    """All of a turn but its ``turn_seq``, made once: a commit needs it for the store and for memory. ValueError if a
    text can't be written as UTF-8 (a lone surrogate)."""
    made: bytes | None = getattr(turn, "packed", None)
    if made is not None:
        return made
    texts = (
        packed_id(turn.turn_id),
        _packed_fingerprint(turn.fingerprint),
        turn.message.encode(),
        turn.reply.encode(),
        to_json(turn.metadata) if turn.metadata is not None else b"",
    )
    turn_id, fingerprint, message, reply, metadata = map(len, texts)
    usual = turn_id == 1 + _RAW and fingerprint == _RAW and not metadata
    head = _HEAD.pack(turn.epoch, turn.committed_ms, message, reply, usual)
    packed = b"".join((head, b"" if usual else _MORE.pack(turn_id, fingerprint, metadata), *texts))
    object.__setattr__(turn, "packed", packed)
    return packed


def unpack(turn_seq: int, chunk: bytes, offset: int = 0) -> Turn:
    """The turn whose record begins at ``offset``. It says itself where it ends."""
    epoch, committed_ms, message, reply, _ = _HEAD.unpack_from(chunk, offset)
    begin, turn_id, fingerprint, metadata = _lengths(chunk, offset)
    fingerprint_at = begin + turn_id
    message_at = fingerprint_at + fingerprint
    reply_at = message_at + message
    end = reply_at + reply
    printed = chunk[fingerprint_at:message_at]
    return Turn(
        turn_seq,
        written_id(chunk[begin:fingerprint_at]),
        printed.hex() if fingerprint == _RAW else printed.decode(),
        chunk[message_at:reply_at].decode(),
        chunk[reply_at:end].decode(),
        from_json(chunk[end : end + metadata]) if metadata else None,
        epoch,
        committed_ms,
    )


def id_in(chunk: bytes, offset: int = 0) -> bytes:
    """The turn id of the record at ``offset``, as :func:`packed_id` made it."""
    begin, length, _, _ = _lengths(chunk, offset)
    return chunk[begin : begin + length]


def size_of(chunk: bytes, offset: int = 0) -> int:
    """Bytes of the record at ``offset``, by what it says itself."""
    _, _, message, reply, _ = _HEAD.unpack_from(chunk, offset)
    begin, turn_id, fingerprint, metadata = _lengths(chunk, offset)
    return int(begin - offset + turn_id + fingerprint + message + reply + metadata)


class Records(Sequence[Turn]):
    """Turns of one session without a gap, from ``first_seq`` on, each made anew whenever it is looked at. A slice has
    no step. Equal to a tuple of the same turns."""

    __slots__ = ("first_seq", "packed")

    def __init__(self, first_seq: int, packed: Iterable[bytes]) -> None:
        self.first_seq = first_seq
        self.packed = tuple(packed)

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, at: int) -> Turn: ...
    @overload
    def __getitem__(self, at: slice) -> Records: ...
    def __getitem__(self, at: int | slice) -> Turn | Records:
        there = range(len(self))[at]
        if isinstance(there, int):
            return self._turn(there)
        if there.step != 1:
            raise ValueError("Records have no slices with a step.")
        return Records(self.first_seq + there.start, self.packed[there.start : there.stop])

    def __iter__(self) -> Iterator[Turn]:
        return map(self._turn, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Records | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _turn(self, at: int) -> Turn:
        return unpack(self.first_seq + at, self.packed[at])


def _lengths(chunk: bytes, offset: int) -> tuple[int, int, int, int]:
    """Where the texts of the record at ``offset`` begin, and the bytes of its turn id, fingerprint and metadata."""
    begin = offset + _HEAD.size
    if chunk[begin - 1]:
        return begin, 1 + _RAW, _RAW, 0
    return begin + _MORE.size, *_MORE.unpack_from(chunk, begin)


@lru_cache(maxsize=1024)  # A turn's id is looked for twice, committed, and named by the next turn's commit.
def packed_id(turn_id: str) -> bytes:
    """As short as can be; :func:`written_id` is the way back. Two ids that differ differ here, too."""
    form = _FORM_OF.get((turn_id[:2], len(turn_id)))
    if form is not None and (len(turn_id) == _HEX_CHARS or turn_id[10:26:5] == "----"):
        raw = _raw(turn_id[2:].replace("-", ""))
        if raw is not None:
            return form + raw
    written = turn_id.encode()
    assert written[0] >= len(_FORMS), turn_id
    return written


def written_id(packed: bytes) -> str:
    """The turn id itself."""
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
