"""Sealing a conversation and opening it again: what comes back, and all that doesn't."""

from __future__ import annotations

import base64
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.errors import BadRequest, Misconfigured
from actors.model import Turn, fingerprint_of
from actors.sealed import KEY_BYTES, OFF_LOOP_BYTES, PREFIX, Sealer, off_loop
from actors.sealed_errors import (
    StateExpired,
    StateForeign,
    StateInvalid,
    StateKeyUnknown,
    StateNewer,
    StateOutdated,
    StateTooLarge,
)
from actors.sealed_keys import FILE_BYTES_MAX, KEYS_MAX, sealer_of
from actors.settings import SealedSettings, Settings

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
NOW_MS = 1_700_000_000_000
AGENT = "shop.agent:assistant"


def turn(turn_seq: int, message: str, reply: str = "", metadata: dict[str, Any] | None = None) -> Turn:
    return Turn(
        turn_seq, f"k:{turn_seq}", fingerprint_of(message, metadata), message, reply, metadata, 0, NOW_MS + turn_seq
    )


TURNS = (turn(1, "My name is Ada. ä€😀\0", "Hello, Ada."), turn(2, "m", "", {"deep": [{"at": 1.5}, None, "é"]}))
STATE = b'{"seen":2}'


def sealer(*keys: bytes, agent: str = AGENT, tenant: str = "-", **settings: Any) -> Sealer:
    return Sealer(keys or (NEW,), SealedSettings(**settings), agent, tenant)


def sealed(*keys: bytes, **settings: Any) -> str:
    return sealer(*keys, **settings).seal("s-1", TURNS, STATE, NOW_MS).text


# --- what comes back ------------------------------------------------------------------------------------------------


def test_what_was_sealed_is_opened() -> None:
    made = sealer().seal("s-1", TURNS, STATE, NOW_MS)
    opened = sealer().open(made.text, NOW_MS + 1)
    assert (opened.session_id, opened.turns, opened.state, opened.sealed) == ("s-1", TURNS, STATE, made)
    assert opened.find("k:2") == TURNS[1]
    assert opened.find("k:3") is None


def test_a_conversation_without_turns_and_without_state_is_one_too() -> None:
    opened = sealer().open(sealer().seal("s", (), b"", NOW_MS).text, NOW_MS)
    assert (opened.turns, opened.state) == ((), b"")


def test_the_same_conversation_never_looks_the_same_and_has_another_name_each_time() -> None:
    made = [sealer().seal("s-1", TURNS, STATE, NOW_MS) for _ in range(50)]
    assert len({each.text for each in made}) == len({each.state_id for each in made}) == 50


def test_nothing_of_it_can_be_read_without_the_key() -> None:
    raw = base64.urlsafe_b64decode(sealed().removeprefix(PREFIX) + "==")
    for word in (b"Ada", b"s-1", b"seen", AGENT.encode(), b"k:1", NEW):
        assert word not in raw


def test_long_talks_are_compressed_and_the_agents_state_is_not() -> None:
    talk = [turn(seq, f"question {seq} about the same order as before", "an answer " * 20) for seq in range(1, 101)]
    assert len(sealer().seal("s", talk, b"", NOW_MS).text) < 100 * 250 / 4
    states = [b'{"s":"%b"}' % (b"a" * 4_000), b'{"s":"%b"}' % os.urandom(2_000).hex().encode()]
    lengths = {len(sealer().seal("s", TURNS, state, NOW_MS).text) for state in states}
    assert len(lengths) == 1, "its length would tell what it repeats"


# --- tampering ------------------------------------------------------------------------------------------------------


def test_no_character_can_be_changed() -> None:
    text = sealed()
    for at, was in enumerate(text):
        for other in ("A", "B", "_", "\n", "=", "é"):
            if other != was:
                with pytest.raises((StateInvalid, StateKeyUnknown)):
                    sealer().open(text[:at] + other + text[at + 1 :], NOW_MS)


def test_no_bit_can_be_changed() -> None:
    raw = bytearray(base64.urlsafe_b64decode(sealed().removeprefix(PREFIX) + "=="))
    for at in range(len(raw) * 8):
        raw[at // 8] ^= 1 << at % 8
        text = PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")
        # The first eight bytes name the key: any other name is one that nobody knows.
        with pytest.raises(StateKeyUnknown if at < 64 else StateInvalid):
            sealer().open(text, NOW_MS)
        raw[at // 8] ^= 1 << at % 8


def test_nothing_can_be_cut_off_or_added() -> None:
    text = sealed()
    for wrong in [text[:length] for length in range(len(text))] + [
        text + more for more in ("A", "AAAA", "=", " ", "\n")
    ]:
        with pytest.raises(StateInvalid):
            sealer().open(wrong, NOW_MS)


def test_the_body_of_one_state_does_not_fit_the_head_of_another() -> None:
    one, other = sealed(), sealed()
    with pytest.raises(StateInvalid):
        sealer().open(one[:80] + other[80:], NOW_MS)


@pytest.mark.parametrize(
    "text", ["", "x", PREFIX, "rs2." + "A" * 200, "A" * 200, PREFIX + "ä" * 200, PREFIX + "A" * 200]
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises((StateInvalid, StateKeyUnknown)):
        sealer().open(text, NOW_MS)


# --- keys -----------------------------------------------------------------------------------------------------------


def test_the_newest_key_seals_and_all_of_them_open() -> None:
    before = sealed(OLD)
    assert sealer(NEW, OLD).open(before, NOW_MS).turns == TURNS
    after = sealed(NEW, OLD)
    assert sealer(NEW).open(after, NOW_MS).turns == TURNS
    assert sealer(OLD, NEW).open(after, NOW_MS).turns == TURNS, "a host that isn't told yet which is the newest"
    with pytest.raises(StateKeyUnknown):
        sealer(OLD).open(after, NOW_MS)


def test_a_key_that_was_taken_away_opens_nothing_any_more() -> None:
    with pytest.raises(StateKeyUnknown) as refused:
        sealer(NEW).open(sealed(OLD), NOW_MS)
    assert OLD.hex() not in refused.value.detail


# --- whose, which schema, how old -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"agent": "shop.agent:other"}, {"tenant": "acme"}, {"agent": "-", "tenant": AGENT}])
def test_another_agents_or_tenants_state_is_told_from_a_tampered_one(other: dict[str, str]) -> None:
    with pytest.raises(StateForeign):
        sealer(**other).open(sealed(), NOW_MS)  # type: ignore[arg-type]


def test_states_of_a_schema_version_in_between_are_taken_and_others_are_named() -> None:
    text = sealed(schema_version=3)
    assert sealer(schema_version=4, schema_version_min=3).open(text, NOW_MS).turns == TURNS
    with pytest.raises(StateOutdated) as old:
        sealer(schema_version=5, schema_version_min=4).open(text, NOW_MS)
    assert old.value.extra == {"schema_version": 3, "schema_version_min": 4}
    with pytest.raises(StateNewer) as new:
        sealer(schema_version=2).open(text, NOW_MS)
    assert new.value.retryable


def test_a_state_expires_by_the_setting_of_who_opens_it() -> None:
    made = sealer(ttl_s=10).seal("s", TURNS, STATE, NOW_MS)
    assert made.expires_ms == NOW_MS + 10_000
    assert sealer(ttl_s=10).open(made.text, NOW_MS + 9_999).turns == TURNS
    for at_ms, ttl_s in ((10_000, 10), (5_000, 5)):
        with pytest.raises(StateExpired):
            sealer(ttl_s=ttl_s).open(made.text, NOW_MS + at_ms)
    assert sealer(ttl_s=0).open(made.text, NOW_MS + 10**12).sealed.expires_ms is None


def test_a_state_from_a_clock_that_is_ahead_is_taken() -> None:
    assert sealer(ttl_s=10).open(sealed(), NOW_MS - 5_000).turns == TURNS


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_a_state_that_would_be_too_long_is_not_made_and_its_size_is_told() -> None:
    long = turn(1, os.urandom(2_000).hex())
    with pytest.raises(StateTooLarge) as refused:
        sealer(state_bytes_max=1024).seal("s", [long], b"", NOW_MS)
    assert refused.value.extra["state_bytes"] > refused.value.extra["state_bytes_max"] == 1024
    assert str(refused.value.extra["state_bytes"]) in refused.value.detail


def test_a_state_that_is_too_long_is_not_opened() -> None:
    text = sealed()
    with pytest.raises(StateTooLarge) as refused:
        sealer(state_bytes_max=1024).open(text + "A" * 1024, NOW_MS)
    assert refused.value.extra == {"state_bytes": len(text) + 1024, "state_bytes_max": 1024}


def test_what_deflates_to_nothing_is_measured_as_it_is() -> None:
    bomb = turn(1, "a" * 1_000_000)
    text = sealer().seal("s", [bomb], STATE, NOW_MS).text
    assert len(text) < 10_000
    with pytest.raises(StateTooLarge) as at_sealing:
        sealer(opened_bytes_max=100_000).seal("s", [bomb], STATE, NOW_MS)
    assert at_sealing.value.extra["opened_bytes"] > 1_000_000
    with pytest.raises(StateTooLarge):
        sealer(opened_bytes_max=100_000).open(text, NOW_MS)


def test_a_bomb_is_never_inflated_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sealer().seal("s", [turn(1, "a" * 1_000_000)], STATE, NOW_MS).text
    inflated: list[int] = []

    class Watched:
        def __init__(self) -> None:
            self._real = zlib._original()  # type: ignore[attr-defined]

        def decompress(self, data: bytes, bytes_max: int) -> bytes:
            found: bytes = self._real.decompress(data, bytes_max)
            inflated.append(len(found))
            return found

    monkeypatch.setattr(zlib, "_original", zlib.decompressobj, raising=False)
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(StateTooLarge):
        sealer(opened_bytes_max=50_000).open(text, NOW_MS)
    assert max(inflated) <= 50_000


def test_the_agents_state_alone_may_be_too_large() -> None:
    text = sealer().seal("s", TURNS, b'"' + b"x" * 50_000 + b'"', NOW_MS).text
    with pytest.raises(StateTooLarge):
        sealer(opened_bytes_max=10_000).open(text, NOW_MS)


def test_large_texts_leave_the_event_loop() -> None:
    assert not off_loop("x" * OFF_LOOP_BYTES)
    assert off_loop("x" * OFF_LOOP_BYTES, 1)


# --- for ever -------------------------------------------------------------------------------------------------------

GOLDEN = (
    "rs1.q-xBWIW253oAAAABNzJB0jBQyFGHLADDet8uMr-43Y9r_crhRQgNLOOm3FhzNwd6IrvfH-uIyu3bS8h-Kb9ofPdas__hWc_v"
    "wLT_yPXNf9LOa9o9Bim2WlOCYqns1GBhufAHJCrggkNS3OSp6fZUsaYXByjQztdkW10pP4QPC-Wau_qQH6F0AiMXq9_E8J0X66Pw"
    "uXzdC4K8Ntttpr7kymx0kvR1BQGogqPp890-N2dcgo3ngkqrUXOBhpeKQ9BcKQbiJQEHB4SxJhKy54YAhKHVMiE4JM8"
)


def test_a_state_that_was_sealed_once_is_readable_for_ever() -> None:
    opened = sealer(ttl_s=0).open(GOLDEN, NOW_MS)
    assert (opened.session_id, opened.turns, opened.state) == ("s-1", TURNS, STATE)


# --- keys from settings and files -----------------------------------------------------------------------------------


def settings(**sealed: Any) -> Settings:
    return Settings.load({"sealed": sealed})


def written(*keys: bytes) -> str:
    return "\n".join(base64.b64encode(key).decode() for key in keys)


def keys_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_without_a_key_there_is_no_sealer() -> None:
    assert sealer_of(Settings.load()) is None
    assert sealer_of(settings(keys=" , ")) is None


@pytest.mark.parametrize("between", [",", " ", ", ", "\n"])
def test_keys_from_the_settings_newest_first(between: str) -> None:
    made = sealer_of(settings(keys=written(NEW, OLD).replace("\n", between), agent=AGENT))
    assert made is not None
    assert made.open(sealed(OLD), NOW_MS).turns == TURNS
    assert sealer(NEW).open(made.seal("s", TURNS, STATE, NOW_MS).text, NOW_MS).turns == TURNS


def test_states_are_bound_to_the_agents_path_unless_it_has_a_name() -> None:
    plain = sealer_of(Settings.load({"sealed": {"keys": written(NEW)}, "agent": {"path": AGENT}}))
    assert plain is not None
    assert plain.open(sealed(), NOW_MS).turns == TURNS


def test_a_file_of_keys_may_have_comments(tmp_path: Path) -> None:
    text = f"# newest first\n{written(NEW)}  # since May\n\n{written(OLD)}\n"
    made = sealer_of(settings(keys_file=keys_file(tmp_path, text), agent=AGENT))
    assert made is not None
    assert made.open(sealed(OLD), NOW_MS).turns == TURNS


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_file_of_keys_that_its_owner_and_group_read_is_taken(tmp_path: Path, mode: int) -> None:
    assert sealer_of(settings(keys_file=keys_file(tmp_path, written(NEW), mode))) is not None


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o777])
def test_a_file_of_keys_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Misconfigured, match="open to others"):
        sealer_of(settings(keys_file=keys_file(tmp_path, written(NEW), mode)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no key"),
        ("# none\n", "has no key"),
        (written(NEW) + "\nsecret-but-wrong", "Key 2 of sealed.keys_file"),
        (written(b"short"), "isn't 32 bytes in base64"),
        (written(*[os.urandom(KEY_BYTES) for _ in range(KEYS_MAX + 1)]), f"at most {KEYS_MAX}"),
        ("ä", "it isn't text"),
        (f"#{' ' * FILE_BYTES_MAX}\n", f"more than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_file_that_has_no_keys_is_one_clear_line_without_a_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        sealer_of(settings(keys_file=keys_file(tmp_path, text)))
    assert told in refused.value.detail
    assert "secret" not in refused.value.detail
    assert "\n" not in refused.value.detail


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        sealer_of(settings(keys_file=str(tmp_path / "none")))


def test_every_refusal_of_a_state_is_the_clients_to_mend() -> None:
    codes = set()
    for error in (StateInvalid, StateKeyUnknown, StateForeign, StateOutdated, StateNewer, StateExpired, StateTooLarge):
        assert issubclass(error, BadRequest)
        assert 400 <= error.status < 500
        codes.add(error.code)
    assert len(codes) == 7


def test_turns_keep_their_number_whatever_they_were_numbered() -> None:
    text = sealer().seal("s", [replace(TURNS[0], turn_seq=9, epoch=4)], b"", NOW_MS).text
    assert sealer().open(text, NOW_MS).turns == (TURNS[0],)
