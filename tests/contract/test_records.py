"""What was written once is readable for ever: golden records of every schema_version, and what is refused.

The files in ``golden/`` are never changed. A change of the format is a new ``schema_version`` with new files beside
the old ones; ``test_what_is_written_today_is_golden`` fails until both are there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic_core import to_json

from actors.errors import Misconfigured
from actors.model import MEMBERS_VERSION, SCHEMA_VERSION, Checkpoint, Member, Turn
from actors.stores.base import Granted, LogDamaged, Ok, Replayed, Turns
from actors.stores.codec import decode_member, decode_turn, decode_turns, encode_member, encode_turn
from tests.contract.lab import ANNA, RedisLab, Talk, fresh_key, turn

GOLDEN = Path(__file__).with_name("golden")


def golden(what: str) -> list[Any]:
    """All cases of one kind, of all schema versions: (id, case)."""
    return [
        pytest.param(case, id=f"{path.stem} {case['what']}")
        for path in sorted(GOLDEN.glob(f"{what}-v*.json"))
        for case in json.loads(path.read_text("utf-8"))
    ]


def stored(record: str) -> bytes:
    """As the store has it: JSON under schema_version 1, bytes since then, which the golden files hold as digits."""
    return record.encode() if record.startswith("{") else bytes.fromhex(record)


@pytest.mark.parametrize("case", golden("turn"))
def test_every_turn_ever_written_can_be_read(case: dict[str, Any]) -> None:
    assert decode_turn(case["tenant"], stored(case["record"])) == Turn(**case["turn"])
    assert decode_turns(case["tenant"], [stored(case["record"])]) == (Turn(**case["turn"]),)


@pytest.mark.parametrize("case", golden("member"))
def test_every_member_ever_written_can_be_read(case: dict[str, Any]) -> None:
    assert decode_member(case["member"]["slot"], case["record"].encode()) == Member(**case["member"])


@pytest.mark.parametrize("case", golden("session"))
async def test_every_session_ever_stored_can_be_claimed_read_and_continued(
    redis_lab: RedisLab, case: dict[str, Any]
) -> None:
    key, store = fresh_key(case["tenant"]), redis_lab.store()
    lease, log, ids = redis_lab.keys.of_session(key)
    redis_lab.client.hset(lease, mapping=case["lease"])
    redis_lab.client.rpush(log, *map(stored, case["log"]))
    redis_lab.client.hset(ids, mapping=case["ids"])
    for name in (lease, log, ids):
        redis_lab.client.expire(name, 60)
    turns = tuple(Turn(**fields) for fields in case["turns"])
    assert await store.read(key, 0, 100) == Turns(turns, len(turns))
    granted = await store.claim(key, "token", ANNA)
    assert isinstance(granted, Granted)
    assert granted.checkpoint == Checkpoint(turns, case["state"].encode())
    assert (granted.lease.epoch, granted.lease.born) == (case["epoch"] + 1, case["born"])
    talk = Talk(store, key, ANNA, "token", [turn.turn_id for turn in turns], granted)
    known = turns[0]
    assert await store.commit(key, talk.lease, talk.last, turn(9, known.turn_id, known.fingerprint), None) == Replayed(
        known
    )
    assert await talk.commit("k:next") == Ok()


def test_what_is_written_today_is_golden() -> None:
    turns = [case for param in golden("turn") for case in param.values if stored(case["record"])[0] == SCHEMA_VERSION]
    members = [
        case
        for param in golden("member")
        for case in param.values
        if f'"schema_version":{MEMBERS_VERSION},' in case["record"]
    ]
    assert turns
    assert members
    for case in turns:
        assert encode_turn(case["tenant"], Turn(**case["turn"])).hex() == case["record"]
    for case in members:
        assert encode_member(Member(**case["member"])).decode() == case["record"]


SEVENTEEN: Final = {"tenant": "-", "turn": {**asdict(turn(1, "k:fifteen-letters", "seventeen letters")), "reply": "r"}}
"""As many bytes as a packed id has, and one more than a packed fingerprint may have."""


@pytest.mark.parametrize("case", [*golden("turn"), pytest.param(SEVENTEEN, id="as long as if it were packed")])
async def test_the_scripts_see_the_same_in_a_record_as_the_program(redis_lab: RedisLab, case: dict[str, Any]) -> None:
    """Turn id and fingerprint are packed in the record, and nowhere else in a commit."""
    talk = Talk(redis_lab.store(), fresh_key())
    await talk.claim()
    first = replace(Turn(**case["turn"]), turn_seq=1)
    assert await talk.store.commit(talk.key, talk.lease, "", first, None) == Ok()
    second = replace(turn(2, "k:second"), fingerprint="not hexadecimal")
    assert await talk.store.commit(talk.key, talk.lease, first.turn_id, second, None) == Ok()
    lease, _, ids = redis_lab.keys.of_session(talk.key)
    assert redis_lab.client.hgetall(ids) == {
        first.turn_id.encode(): f"1:{first.fingerprint}".encode(),
        b"k:second": b"2:not hexadecimal",
    }
    assert redis_lab.client.hget(lease, "last_turn_id") == b"k:second"
    assert await talk.store.commit(talk.key, talk.lease, "k:second", replace(first, turn_seq=3), None) == Replayed(
        first
    )


async def test_what_a_session_keeps_today_is_golden(redis_lab: RedisLab) -> None:
    """The fields of the lease and the ids are a format too."""
    known = golden("session")[-1].values[0]
    talk = Talk(redis_lab.store(), fresh_key())
    await talk.claim()
    await talk.commit("a", b"{}")
    lease, _, ids = redis_lab.keys.of_session(talk.key)
    stored: Any = redis_lab.client.hgetall(lease)
    assert {name.decode() for name in stored} == set(known["lease"])
    assert redis_lab.client.hgetall(ids) == {b"a": b"1:" + b"f" * 32}


def test_a_record_of_a_newer_program_is_refused_in_one_sentence() -> None:
    record = encode_turn("-", turn(1, "a"))
    with pytest.raises(Misconfigured, match=f"schema_version {SCHEMA_VERSION + 1}"):
        decode_turn("-", bytes((SCHEMA_VERSION + 1,)) + record[1:])
    member = json.loads(encode_member(Member("slot-0", "inc", "a:1", 2, 3)))
    member["schema_version"] = MEMBERS_VERSION + 1
    with pytest.raises(Misconfigured, match=f"schema_version {MEMBERS_VERSION + 1}"):
        decode_member("slot-0", to_json(member))


def test_a_record_of_another_tenant_is_refused() -> None:
    for case in golden("turn"):
        (known,) = case.values
        with pytest.raises(Misconfigured, match=repr(known["tenant"])):
            decode_turn("green", stored(known["record"]))


def test_turns_that_do_not_follow_on_each_other_are_no_log() -> None:
    first, second, third = (encode_turn("-", turn(n, f"k:{n}")) for n in (1, 2, 3))
    assert [one.turn_seq for one in decode_turns("-", [second, third])] == [2, 3]
    for log in ([first, third], [second, first], [first, first]):
        with pytest.raises(LogDamaged, match="damaged"):
            decode_turns("-", log)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_was_cut_or_grew_is_no_record_and_is_never_read_as_another(at: int) -> None:
    """In memory one record follows on the other: nobody would see where it should have ended."""
    log = [encode_turn("-", turn(n, f"k:{n}", metadata={"n": n} if n == 2 else None)) for n in (1, 2, 3)]
    whole = log[at]
    for size_bytes in range(len(whole)):
        log[at] = whole[:size_bytes]
        with pytest.raises((LogDamaged, Misconfigured)):
            decode_turns("-", log)
    for broken in (whole + b"x", b"\x00" + whole[1:], b"\x01" + whole[1:], b'{"schema_version":1}', b"{"):
        log[at] = broken
        with pytest.raises(LogDamaged):
            decode_turns("-", log)
        with pytest.raises(LogDamaged):
            decode_turn("-", broken)


async def test_a_session_of_a_newer_program_is_refused_and_not_claimed(redis_lab: RedisLab) -> None:
    talk = Talk(redis_lab.store(), fresh_key())
    await talk.claim()
    await talk.release()
    lease = redis_lab.keys.of_session(talk.key)[0]
    redis_lab.client.hset(lease, "schema_version", str(SCHEMA_VERSION + 1))
    with pytest.raises(Misconfigured, match="schema_version"):
        await talk.claim()
    assert redis_lab.client.hget(lease, "incarnation") is None


def test_keys_carry_the_tenant_and_share_a_hash_tag(redis_lab: RedisLab) -> None:
    names = redis_lab.keys.of_session(fresh_key("red"))
    assert len({name[name.index("{") : name.index("}")] for name in names}) == 1
    assert all("{red:s-" in name for name in names)
