"""A conversation that its client keeps: sealed into one text after each turn, opened again with the next message.

The text is ``rs1.`` and, in base64url, a head and a body. The head is in the clear: which key, which schema_version,
whose agent, and the random salt that also names this very state. The body is encrypted with AES-256-GCM, under a key
that HKDF-SHA-256 makes of the deployment's key and the salt; prefix and head are its associated data. So whoever
changes a byte of any part has a text that doesn't open, and what the head says is believed only once it has opened.
A key of its own for each text also means that no number of texts wears a deployment's key out.

In the body: when it was sealed, the turns (deflated), and the agent's state as it is. The turns hold nothing that the
client hasn't seen. The agent's state may, so it is never compressed: the length of a compressed secret beside words
that the client chooses tells the secret, piece by piece (CRIME).

What a seal can't do: tell the newest state of a conversation from an older one, which opens as well. That takes
somebody who remembers: ``actors.stores.guard``.

Synchronous and without I/O. A large text takes milliseconds: ``off_loop`` says when to use a thread.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic_core import from_json, to_json

from actors.model import Sealed, Turn, fingerprint_of
from actors.sealed_errors import (
    StateExpired,
    StateForeign,
    StateInvalid,
    StateKeyUnknown,
    StateNewer,
    StateOutdated,
    StateTooLarge,
)
from actors.settings import SealedSettings

PREFIX: Final = "rs1."
"""Of every state. Another format gets another number."""
KEY_BYTES: Final = 32
OFF_LOOP_BYTES: Final = 65_536

_HEAD: Final = Struct(">8sI16s16s12s")
"""Key id, schema_version, whose (agent and tenant), salt, nonce."""
_BODY: Final = Struct(">QI")
"""sealed_ms, bytes of the deflated turns; they follow, then the agent's state."""
_ALTERNATE: Final = b"-_"
_LEVEL: Final = 1
"""Of deflate: 6 takes eight times as long for texts that are a sixth shorter."""
_INFO: Final = b"rehydra sealed state 1"


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation as its client brought it. ``state`` is the agent's own JSON object as bytes."""

    session_id: str
    turns: tuple[Turn, ...]
    state: bytes
    sealed: Sealed

    def find(self, turn_id: str) -> Turn | None:
        """The turn under that id."""
        return next((turn for turn in self.turns if turn.turn_id == turn_id), None)


class Sealer:
    """Seals and opens for one agent. ``keys``, of ``KEY_BYTES`` each: the first seals, all of them open."""

    def __init__(self, keys: Sequence[bytes], settings: SealedSettings, agent: str, tenant: str) -> None:
        assert keys and all(len(key) == KEY_BYTES for key in keys)
        self._settings = settings
        self._whose = sha256(to_json([tenant, agent])).digest()[:16]
        self._keys = {_key_id(key): key for key in keys}
        self._newest = _key_id(keys[0])

    def seal(self, session_id: str, turns: Sequence[Turn], state: bytes, now_ms: int) -> Sealed:
        """The conversation as a text for its client. StateTooLarge if it can't be taken back."""
        packed = to_json([session_id, [_packed(turn) for turn in turns]])
        opened_bytes = len(packed) + len(state)
        if opened_bytes > self._settings.opened_bytes_max:
            raise _too_large("opened_bytes", opened_bytes, self._settings.opened_bytes_max)
        deflated = zlib.compress(packed, _LEVEL)
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        head = _HEAD.pack(self._newest, self._settings.schema_version, self._whose, salt, nonce)
        body = _BODY.pack(now_ms, len(deflated)) + deflated + state
        sealed = _cipher(self._keys[self._newest], salt).encrypt(nonce, body, PREFIX.encode() + head)
        text = PREFIX + _encoded(head + sealed)
        if len(text) > self._settings.state_bytes_max:
            raise _too_large("state_bytes", len(text), self._settings.state_bytes_max)
        return Sealed(text, salt.hex(), self._expires_ms(now_ms))

    def open(self, text: str, now_ms: int) -> Opened:
        """What was sealed. Each reason against it is an error of its own: see :mod:`actors.sealed_errors`."""
        limits = self._settings
        if len(text) > limits.state_bytes_max:
            raise _too_large("state_bytes", len(text), limits.state_bytes_max)
        raw = _decoded(text)
        head, sealed = raw[: _HEAD.size], raw[_HEAD.size :]
        key_id, schema_version, whose, salt, nonce = _HEAD.unpack(head)
        if (key := self._keys.get(key_id)) is None:
            raise StateKeyUnknown(f"Its key is {key_id.hex()}; sealed.keys has {len(self._keys)} others.")
        try:
            body = _cipher(key, salt).decrypt(nonce, sealed, PREFIX.encode() + head)
        except InvalidTag as error:
            raise StateInvalid("It was changed since it was sealed.") from error
        self._require_fit(whose, schema_version)
        sealed_ms, deflated_bytes = _BODY.unpack_from(body)
        expires_ms = self._expires_ms(sealed_ms)
        if expires_ms is not None and now_ms >= expires_ms:
            raise StateExpired(f"A state is taken for {limits.ttl_s:g} s after it was sealed.", expires_ms=expires_ms)
        begin = _BODY.size + deflated_bytes
        state = body[begin:]
        session_id, records = from_json(self._inflated(body[_BODY.size : begin], len(state)))
        turns = tuple(_unpacked(turn_seq, record) for turn_seq, record in enumerate(records, 1))
        return Opened(session_id, turns, state, Sealed(text, salt.hex(), expires_ms))

    def _require_fit(self, whose: bytes, schema_version: int) -> None:
        oldest, newest = self._settings.schema_version_min, self._settings.schema_version
        if not hmac.compare_digest(whose, self._whose):
            raise StateForeign("It was sealed for another sealed.agent (agent.path), or another store.tenant.")
        told: dict[str, Any] = {"schema_version": schema_version, "schema_version_min": oldest}
        if schema_version < oldest:
            raise StateOutdated(f"It has schema_version {schema_version}; {oldest} is the oldest taken.", **told)
        if schema_version > newest:
            detail = f"It has schema_version {schema_version}; this host knows {newest} at most."
            raise StateNewer(detail, retry_after_s=1, **told, schema_version_max=newest)

    def _expires_ms(self, sealed_ms: int) -> int | None:
        return sealed_ms + int(self._settings.ttl_s * 1000) if self._settings.ttl_s else None

    def _inflated(self, deflated: bytes, state_bytes: int) -> bytes:
        """Never more than allowed: a client may have filled its own conversation with what deflates to nothing."""
        room = self._settings.opened_bytes_max - state_bytes
        inflating = zlib.decompressobj()
        packed = inflating.decompress(deflated, room + 1) if room > 0 else b""
        if room <= 0 or len(packed) > room:
            limit = self._settings.opened_bytes_max
            raise StateTooLarge(f"It has more than {limit} bytes when it is opened.", opened_bytes_max=limit)
        return packed


def off_loop(text: str, more_bytes: int = 0) -> bool:
    """Whether opening it, or sealing what it holds and so much more, would be felt by everybody else on the loop."""
    return len(text) + more_bytes > OFF_LOOP_BYTES


def _key_id(key: bytes) -> bytes:
    """Names a key without telling it."""
    return hmac.digest(key, b"rehydra sealed key id", "sha256")[:8]


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, _INFO).derive(key))


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw, _ALTERNATE).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """The bytes of a text, which have a whole head. StateInvalid for all but the one way in which they are written."""
    written = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(written + "=" * (-len(written) % 4), _ALTERNATE, validate=True)
    except ValueError:
        raw = b""
    if not text.startswith(PREFIX) or len(raw) < _HEAD.size or _encoded(raw) != written:
        raise StateInvalid(f"It isn't a state: those begin with {PREFIX} and go on in base64url.")
    return raw


def _packed(turn: Turn) -> tuple[Any, ...]:
    return turn.turn_id, turn.message, turn.reply, turn.metadata, turn.committed_ms


def _unpacked(turn_seq: int, record: Sequence[Any]) -> Turn:
    turn_id, message, reply, metadata, committed_ms = record
    fingerprint = fingerprint_of(message, metadata)
    return Turn(turn_seq, turn_id, fingerprint, message, reply, metadata, 0, committed_ms)


def _too_large(what: str, found: int, allowed: int) -> StateTooLarge:
    detail = f"It has {found} bytes{' when it is opened' if what == 'opened_bytes' else ''}; {allowed} are allowed."
    told: dict[str, Any] = {what: found, f"{what}_max": allowed}
    return StateTooLarge(detail, **told)
