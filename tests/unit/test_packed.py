"""Turns kept as bytes: whatever was put in comes out equal, in order, and is found by its id."""

from __future__ import annotations

import gc
import pickle
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import packed
from actors.model import Turn, fingerprint_of
from actors.packed import CHUNK_BYTES, PackedTurns
from actors.record import Records, pack, packed_id, size_of, unpack

TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
JSON = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT | st.lists(TEXT))


@st.composite
def logs(draw: st.DrawFn) -> list[Turn]:
    ids = draw(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), unique=True))
    return [
        Turn(
            number + 1,
            turn_id,
            fingerprint_of(message := draw(TEXT), None),
            message,
            draw(TEXT),
            draw(st.none() | JSON),
            draw(st.integers(0, 2**62)),
            draw(st.integers(0, 2**62)),
        )
        for number, turn_id in enumerate(ids)
    ]


def made(count: int, reply_bytes: int = 10) -> list[Turn]:
    return [Turn(n + 1, f"k:{n}", fingerprint_of("m", None), "m", "r" * reply_bytes) for n in range(count)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), st.data())
def test_what_was_added_at_once_or_one_by_one_comes_out_equal(turns: list[Turn], data: st.DataObject) -> None:
    kept = PackedTurns()
    loaded = data.draw(st.integers(0, len(turns)))
    kept.add(turns[:loaded])
    for turn in turns[loaded:]:
        kept.add((turn,))
    assert list(kept) == turns and len(kept) == len(turns)
    assert [kept[at] for at in range(len(turns))] == turns and kept[1:-1] == turns[1:-1]
    assert [kept[at].turn_id for at in range(len(turns))] == [turn.turn_id for turn in turns]
    for turn in turns:
        assert kept.find(turn.turn_id) == turn
    assert kept.find("never") is None


@pytest.mark.parametrize("fingerprint", ["", "f1", "é" * 16, "A" * 32, "g" * 32, "0" * 31, "0" * 32])
def test_a_fingerprint_of_any_form_comes_out_as_it_was(fingerprint: str) -> None:
    turn = Turn(1, "k:1", fingerprint, "m", "r")
    kept = PackedTurns()
    kept.add([turn])
    assert kept[0] == turn


@pytest.mark.parametrize("metadata", [None, {}, {"a": [1, 2.5, None, True, {"b": "ü"}]}])
def test_no_metadata_is_another_thing_than_empty_metadata(metadata: dict[str, Any] | None) -> None:
    kept = PackedTurns()
    kept.add([Turn(1, "k:1", "", "m", "r", metadata)])
    assert kept[0].metadata == metadata


@pytest.mark.parametrize("reply_bytes", [0, 1_000, CHUNK_BYTES, 5 * CHUNK_BYTES])
def test_records_of_any_length_find_a_place(reply_bytes: int) -> None:
    turns, kept = made(50, reply_bytes), PackedTurns()
    size_bytes = kept.add(turns[:20]) + sum(kept.add((turn,)) for turn in turns[20:])
    assert list(kept) == turns
    assert sum(map(len, kept._chunks)) < size_bytes < sum(map(len, kept._chunks)) + 50 * 20
    assert max(map(len, kept._chunks)) <= max(CHUNK_BYTES, reply_bytes + 100)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6), st.sampled_from([3, 900, 6_000, 20_000]))))
def test_what_is_left_after_drops_is_what_a_list_would_have(steps: list[tuple[int, int, int]]) -> None:
    kept, model, last, size_bytes = PackedTurns(), list[Turn](), 0, 0
    for added, dropped, reply_bytes in steps:
        turns = [Turn(last + n, f"k:{last + n}", "", "m", "r" * reply_bytes) for n in range(1, added + 1)]
        last += added
        size_bytes += kept.add(turns)
        model += turns
        if drops := min(dropped, len(model) - 1):
            size_bytes -= kept.drop(drops)
            del model[:drops]
        assert list(kept) == model and kept.turn_seq == last and kept.dropped == last - len(model)
        assert kept.last_turn_id == f"k:{last}"
        assert [kept.find(f"k:{n}") is not None for n in range(1, last + 1)] == [
            n > kept.dropped for n in range(1, last + 1)
        ]
        assert sum(map(len, kept._chunks)) == sum(len(pack(turn)) for turn in model)
        assert size_bytes == sum(map(len, kept._chunks)) + 10 * len(model)


def test_turns_may_begin_later_than_with_the_first() -> None:
    kept, turns = PackedTurns(), made(9)
    assert kept.last_turn_id == ""
    kept.add(turns[6:])
    assert list(kept) == turns[6:] and (kept.dropped, kept.turn_seq, kept[-1].turn_id) == (6, 9, "k:8")


def test_a_copy_keeps_what_is_dropped_and_gets_nothing_new() -> None:
    kept, turns = PackedTurns(), made(50, 1_000)
    kept.add(turns[:40])
    kept.drop(5)
    copy = kept.copy()
    kept.add(turns[40:])
    kept.drop(30)
    assert list(copy) == turns[5:40] and copy.find("k:39") == turns[39] and copy.turn_seq == 40
    assert list(kept) == turns[35:]


def test_no_place_grows_for_ever_in_a_window_of_one_turn() -> None:
    """A place has four bytes for the chunk and two for the offset in it."""
    kept = PackedTurns()
    for turn in made(200, 1_000):
        kept.add((turn,))
        if len(kept) > 1:
            kept.drop(1)
        assert kept._bytes_gone < CHUNK_BYTES and len(kept._chunks) == 1
    assert kept._chunks_gone > 5


def test_ids_of_one_digest_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_digest", lambda _: b"\x00" * 4)
    kept, turns = PackedTurns(), made(30)
    kept.add(turns)
    assert [kept.find(turn.turn_id) for turn in turns] == turns
    assert kept.find("k:30") is None


def test_a_digest_that_lies_across_two_others_is_not_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {"k:0": b"aabb", "k:1": b"ccdd", "k:2": b"bbcc"}
    monkeypatch.setattr(packed, "_digest", lambda packed_id: digests[packed_id.decode()])
    kept, turns = PackedTurns(), made(3)
    kept.add(turns[:2])
    assert kept.find("k:2") is None
    kept.add(turns[2:])
    assert kept.find("k:2") == turns[2]


UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize("prefix", ["k:", "r:"])
@pytest.mark.parametrize("written", [UUID, UUID.replace("-", "")])
def test_a_uuid_is_kept_in_17_bytes_and_comes_out_as_it_was(prefix: str, written: str) -> None:
    kept = PackedTurns()
    kept.add([Turn(1, turn_id := prefix + written, "", "m", "r")])
    assert len(packed_id(turn_id)) == 17
    assert kept[0].turn_id == turn_id and kept.find(turn_id) == kept[0]


@pytest.mark.parametrize(
    "turn_id",
    [
        *("k:" + UUID.upper(), "k:" + UUID.replace("-", "").upper(), "d:" + UUID, UUID, "k:" + UUID[:-1]),
        *("k:" + UUID.replace("-", "_"), "k:" + UUID[:-1] + "g", "k:" + UUID.replace("-", "")[:-2] + "  "),
        *("k:" + "0" * 36, "k:" + "-" * 36, "k:" + "-" * 4 + UUID.replace("-", ""), "k", "k:", "k:" + "é" * 16),
    ],
)
def test_an_id_that_is_nearly_a_uuid_comes_out_as_it_was(turn_id: str) -> None:
    kept = PackedTurns()
    kept.add([Turn(1, turn_id, "", "m", "r")])
    assert kept[0].turn_id == turn_id and kept.find(turn_id) is not None


def test_an_index_out_of_range_is_an_error() -> None:
    kept = PackedTurns()
    kept.add(made(2))
    assert kept[-1].turn_id == "k:1"
    for at in (2, -3):
        with pytest.raises(IndexError):
            kept[at]


def test_the_garbage_collector_sees_one_object_however_many_turns_there_are() -> None:
    kept = PackedTurns()
    kept.add(made(2_000, 100))
    gc.collect()
    parts = [part for part in gc.get_referents(kept) if part is not PackedTurns]
    assert len(parts) == 6 and not any(map(gc.is_tracked, parts))


def test_a_turn_is_packed_once_and_none_of_that_is_seen() -> None:
    turn = Turn(1, "k:1", "f" * 32, "m", "r", {"a": 1})
    assert pack(turn) is pack(turn)
    assert turn == Turn(1, "k:1", "f" * 32, "m", "r", {"a": 1}) and "packed" not in repr(turn)
    assert set(asdict(turn)) == {each.name for each in fields(Turn)} and pickle.loads(pickle.dumps(turn)) == turn
    assert unpack(1, pack(replace(turn, reply="other"))).reply == "other"


@given(logs())
def test_a_record_knows_how_long_it_is(turns: list[Turn]) -> None:
    records = [pack(turn) for turn in turns]
    assert [size_of(record) for record in records] == list(map(len, records))
    joined, at = b"".join(records), 0
    for record in records:
        assert size_of(joined, at) == len(record)
        at += len(record)


def test_records_are_a_sequence_of_turns() -> None:
    turns = tuple(made(5))
    records = Records(1, map(pack, turns))
    assert records == turns and turns == records and records[1:4] == turns[1:4] and records[-1] == turns[-1]
    assert list(reversed(records)) == list(reversed(turns)) and repr(records) == repr(turns)
    with pytest.raises(ValueError):
        records[::2]
