"""Way 6: the client has the talk and sends it with every message, as base64, or encrypted and signed.

Whatever can't be read is taken for the beginning of a talk, as in the guide: tampering and a changed key both end in
a new conversation, and nobody is told.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

from cryptography.fernet import Fernet, InvalidToken

from loadtest.baselines.chat import Message, Said, Turn, Way, next_turn

SECRET: Final = "LOADTEST_SECRET"
"""Environment variable: what all servers share; any text."""


class Base64State(Way):
    """JSON in base64: anybody can read and change it."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, stores: Sequence[str]) -> AsyncIterator[Self]:
        yield cls()

    async def say(self, message: Message) -> Said:
        talk = self.unpack(message.client_state)
        turn, known = await next_turn(talk, message)
        return Said(turn, known, self.pack(talk if known else [*talk, turn]))

    async def talk(self, session_id: str, client_state: str) -> list[Turn]:
        return self.unpack(client_state)

    def pack(self, talk: list[Turn]) -> str:
        """The talk as the client keeps it."""
        return base64.urlsafe_b64encode(json.dumps(talk).encode()).decode()

    def unpack(self, client_state: str) -> list[Turn]:
        """The talk; a new one if it can't be read."""
        try:
            return list(json.loads(base64.urlsafe_b64decode(client_state)))
        except (binascii.Error, ValueError):
            return []


class SealedState(Base64State):
    """The same encrypted with Fernet, and signed with an HMAC of its own before that, as in the guide."""

    def __init__(self) -> None:
        secret = os.environ[SECRET].encode()
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"encrypt" + secret).digest()))
        self._signing_key = hashlib.sha256(b"sign" + secret).digest()

    def pack(self, talk: list[Turn]) -> str:
        text = json.dumps(talk).encode()
        return self._fernet.encrypt(self._signature(text) + text).decode()

    def unpack(self, client_state: str) -> list[Turn]:
        try:
            opened = self._fernet.decrypt(client_state.encode())
        except InvalidToken:
            return []
        signature, text = opened[:32], opened[32:]
        return list(json.loads(text)) if hmac.compare_digest(signature, self._signature(text)) else []

    def _signature(self, text: bytes) -> bytes:
        return hmac.digest(self._signing_key, text, "sha256")
