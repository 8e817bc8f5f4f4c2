"""The ring: an immutable value that says which slot, and so which host, each of the 16,384 shards belongs to.

A function of the membership table alone: two processes with the same table have the same ring, whatever the order of
their dicts and whatever PYTHONHASHSEED. Only the leaver's shards move when a slot leaves, and only to the joiner when
one joins; a slot that comes back gets the very shards it had. Weights multiply a slot's points.

This is the only file that knows uhashring, which makes the points of one slot. What is kept of them is how far each
shard is from the next one, because a change of the table is a change of one slot out of many: a shard belongs to the
slot that is nearest. The ring is so compiled into a table, which hosts read and which the edge writes into HAProxy's
map. The ring is a hint (I7): it decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray
from uhashring import HashRing
from xxhash import xxh64_intdigest

from actors.model import HostRef, Member, Table
from router.shards import SHARDS, shard_of

VNODES: Final = 1024
"""Points per slot and unit of weight, unless the settings say otherwise."""

_POSITION_OF_SHARD: Final = np.arange(SHARDS, dtype=np.uint64) << np.uint64(50)
"""Shards stand at equal distances on the circle of 2**64: a slot's share is then its arcs, without a second dice."""

_NUMBERS: Final = 1_023
"""The highest number that a slot can have; all bits are ones."""

_SEED: Final = 7_866
_SEED_OF: Final = {VNODES: 5_040}
"""Of the points' hash: by how many points a slot has, and else ``_SEED``. Part of the ring's definition, so the same in
all processes.

Slots have fixed names, so luck can be chosen once, for a number of points. Of 12,000 seeds the one for the default
keeps the fullest of 2 to 4 equal slots within 2 % of the mean, of up to 16 within 4.5 %, of up to 64 within 10.5 %.
"""


@dataclass(frozen=True, slots=True)
class Ring:
    """Who owns which shard, as of one ``ring_version``. Make one with :meth:`of`; ``EMPTY`` owns nothing."""

    ring_version: int
    members: tuple[Member, ...]
    """By slot number."""
    slot_of_shard: tuple[str, ...]
    """16,384 slots; ``""`` everywhere while the ring is empty."""
    refs: Mapping[str, HostRef]
    """slot -> its host."""

    @classmethod
    def of(cls, table: Table, vnodes: int = VNODES) -> Ring:
        """The ring of ``table``: about 2 ms for a change among 64 slots."""
        members = tuple(sorted(table.members.values(), key=lambda member: slot_number(member.slot)))
        slots = _compiled(tuple((member.slot, member.weight) for member in members), vnodes)
        return cls(table.ring_version, members, slots, {member.slot: member.ref for member in members})

    def owner(self, session_id: str) -> HostRef | None:
        """The host that should run the session; None if the ring is empty."""
        return self.refs.get(self.slot_of_shard[shard_of(session_id)])

    @property
    def weights(self) -> Mapping[str, int]:
        """slot -> weight."""
        return {member.slot: member.weight for member in self.members}

    def shares(self) -> Mapping[str, int]:
        """slot -> number of its shards."""
        counts = {member.slot: 0 for member in self.members}
        for slot in self.slot_of_shard if counts else ():
            counts[slot] += 1
        return counts

    def lists(self, incarnation: str) -> bool:
        """Whether that host is on the ring."""
        return any(member.incarnation == incarnation for member in self.members)


def moved(old: Ring, new: Ring) -> frozenset[int]:
    """The shards whose sessions should run elsewhere now: another slot, or another incarnation in the same slot."""
    stay = {"", *(slot for slot, ref in new.refs.items() if old.refs.get(slot) == ref)}
    pairs = enumerate(zip(old.slot_of_shard, new.slot_of_shard, strict=True))
    return frozenset(shard for shard, (was, now) in pairs if was != now or now not in stay)


def slot_number(slot: str) -> int:
    """``slot-7`` -> 7. ValueError for anything else: a table with other slots was not written by us."""
    name, _, number = slot.rpartition("-")
    if name != "slot" or int(number) > _NUMBERS:
        raise ValueError(f"{slot!r} is no slot: slots are called slot-0, slot-1, ... slot-{_NUMBERS}")
    return int(number)


@lru_cache(maxsize=8)
def _compiled(weighted_slots: tuple[tuple[str, int], ...], vnodes: int) -> tuple[str, ...]:
    # Kept for the last few compositions: a new incarnation in the same slot changes no shard's slot.
    if not weighted_slots:
        return ("",) * SHARDS
    nearest = reduce(np.minimum, [_distances(slot, weight, vnodes) for slot, weight in weighted_slots])
    names = {_NUMBERS - slot_number(slot): slot for slot, _ in weighted_slots}
    return tuple(map(names.__getitem__, (nearest & np.uint64(_NUMBERS)).tolist()))


@lru_cache(maxsize=1024)
def _distances(slot: str, weight: int, vnodes: int) -> NDArray[np.uint64]:
    """How far it is from each shard to the slot's first point beyond it, as in uhashring's own look-up; past the last
    point, once round to the first. 128 KiB for each slot.

    The ten lowest bits of these distances say whose they are, so that the nearest of many slots is a minimum, without
    asking which. Two slots may share a point: the higher slot has it in every process, as it has the lower bits.
    """
    ring = HashRing({slot: weight}, vnodes=vnodes, hash_fn=_hash_for(vnodes))
    points = np.sort(np.array([point for point, _ in ring.get_points()], dtype=np.uint64))
    beyond = points[np.searchsorted(points, _POSITION_OF_SHARD, side="right") % len(points)]
    # One less than the distance, so that a whole round isn't none. Unsigned, so a round is a subtraction as well.
    distances = beyond - _POSITION_OF_SHARD - np.uint64(1)
    return distances & ~np.uint64(_NUMBERS) | np.uint64(_NUMBERS - slot_number(slot))


def _hash_for(vnodes: int) -> Callable[[object], int]:
    """uhashring's keys: the names of points are hashed, positions of shards stand for themselves."""
    seed = _SEED_OF.get(vnodes, _SEED)
    return lambda key: key if isinstance(key, int) else xxh64_intdigest(str(key).encode(), seed=seed)


EMPTY: Final = Ring(-1, (), ("",) * SHARDS, {})
"""What a process knows before it has read the table."""
