"""The keys of sealed states, from the settings or a file that only their owner can change.

Make one with ``openssl rand -base64 32``. The newest comes first: it seals; the others only open. To change keys
without refusing anybody: put the new one second on all hosts, then first, and take the old one out when the last state
under it has expired (``sealed.ttl_s``).
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from actors.errors import Misconfigured
from actors.sealed import KEY_BYTES, Sealer
from actors.settings import Settings

KEYS_MAX: Final = 16
FILE_BYTES_MAX: Final = 65_536
_OPEN_TO_OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO
"""The group may read: that is how secrets are mounted for a user who isn't root."""


def sealer_of(settings: Settings) -> Sealer | None:
    """What seals and opens by these settings; None without a key. Misconfigured says which key is none, but no key."""
    sealed = settings.sealed
    if sealed.keys_file:
        keys = _keys_in(_text_of(Path(sealed.keys_file)).splitlines(), f"sealed.keys_file {sealed.keys_file}")
        if not keys:
            raise Misconfigured(f"sealed.keys_file {sealed.keys_file} has no key.")
    else:
        keys = keys_in(sealed.keys.get_secret_value())
    if not keys:
        return None
    return Sealer(keys, sealed, sealed.agent or settings.agent.path, settings.store.tenant)


def keys_in(setting: str) -> list[bytes]:
    """The keys in ``sealed.keys``. Misconfigured names the one that is none."""
    return _keys_in(setting.replace(",", " ").split(), "sealed.keys")


def _keys_in(written: Iterable[str], where: str) -> list[bytes]:
    """One a line; comments (``#``) and empty lines are left out."""
    lines = [line.partition("#")[0].strip() for line in written]
    found = [_key(line, f"Key {number} of {where}") for number, line in enumerate(filter(None, lines), 1)]
    if len(found) > KEYS_MAX:
        raise Misconfigured(f"{where} has {len(found)} keys; at most {KEYS_MAX} are allowed.")
    return found


def _key(written: str, which: str) -> bytes:
    try:
        key = base64.b64decode(written, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        # Without its cause, which might show it.
        raise Misconfigured(f"{which} isn't {KEY_BYTES} bytes in base64: openssl rand -base64 {KEY_BYTES}.")
    return key


def _text_of(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OPEN_TO_OTHERS:
                raise Misconfigured(f"sealed.keys_file {path} is open to others (mode {mode:04o}): chmod 600 {path}.")
            text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "it isn't text"
        raise Misconfigured(f"sealed.keys_file {path} can't be read: {said}.") from None
    if len(text) > FILE_BYTES_MAX:
        raise Misconfigured(f"sealed.keys_file {path} has more than {FILE_BYTES_MAX} bytes.")
    return text
