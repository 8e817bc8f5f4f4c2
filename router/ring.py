"""The ring: an immutable value that says which slot, and so which host, each of the 4,096 shards belongs to.

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
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from uhashring import HashRing
from xxhash import xxh64_intdigest

from actors.model import HostRef, Member, Table
from router.shards import SHARDS, shard_of

VNODES: Final = 1024
"""Points per slot and unit of weight, unless the settings say otherwise."""

_POSITION_OF_SHARD: Final = np.arange(SHARDS, dtype=np.uint64) << np.uint64(52)
"""Shards stand at equal distances on the circle of 2**64: a slot's share is then its arcs, without a second dice."""

_SEED: Final = 7_866
_SEED_OF: Final = {VNODES: 3}
"""Of the points' hash: by how many points a slot has, and else ``_SEED``. Part of the ring's definition, so the same in
all processes.

Slots have fixed names, so luck can be chosen once, for a number of points. Of 360 seeds the one for the default keeps
the fullest of 2 to 16 equal slots within 5.5 % of the mean, and hosts of weight 3 among hosts of weight 1 (2 to 8 of
them) within 6.5 % of three times their shards; others reach 15 %. 160 points were the default before: whoever sets
``ring.vnodes`` to that has the very ring of then.
"""


@dataclass(frozen=True, slots=True)
class Ring:
    """Who owns which shard, as of one ``ring_version``. Make one with :meth:`of`; ``EMPTY`` owns nothing."""

    ring_version: int
    members: tuple[Member, ...]
    """By slot number."""
    slot_of_shard: tuple[str, ...]
    """4,096 slots; ``""`` everywhere while the ring is empty."""
    owner_of_shard: tuple[HostRef | None, ...]

    @classmethod
    def of(cls, table: Table, vnodes: int = VNODES) -> Ring:
        """The ring of ``table``: about 2 ms for a change among 64 slots."""
        members = tuple(sorted(table.members.values(), key=lambda member: slot_number(member.slot)))
        slots = _compiled(tuple((member.slot, member.weight) for member in members), vnodes)
        refs: dict[str, HostRef | None] = {member.slot: member.ref for member in members}
        return cls(table.ring_version, members, slots, tuple(map(refs.get, slots)))

    def owner(self, session_id: str) -> HostRef | None:
        """The host that should run the session; None if the ring is empty."""
        return self.owner_of_shard[shard_of(session_id)]

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
    pairs = enumerate(zip(old.owner_of_shard, new.owner_of_shard, strict=True))
    return frozenset(shard for shard, (was, now) in pairs if was is not now and was != now)


def slot_number(slot: str) -> int:
    """``slot-7`` -> 7. ValueError for anything else: a table with other slots was not written by us."""
    name, _, number = slot.rpartition("-")
    if name != "slot":
        raise ValueError(f"{slot!r} is no slot: slots are called slot-0, slot-1, ...")
    return int(number)


@lru_cache(maxsize=8)
def _compiled(weighted_slots: tuple[tuple[str, int], ...], vnodes: int) -> tuple[str, ...]:
    # Kept for the last few compositions: a new incarnation in the same slot changes no shard's slot.
    if not weighted_slots:
        return ("",) * SHARDS
    # Two slots may share a point: the higher slot has it in every process, as it comes first here.
    downwards = weighted_slots[::-1]
    nearest = np.stack([_distances(slot, weight, vnodes) for slot, weight in downwards]).argmin(axis=0)
    names = [slot for slot, _ in downwards]
    return tuple(map(names.__getitem__, nearest.tolist()))


@lru_cache(maxsize=1024)
def _distances(slot: str, weight: int, vnodes: int) -> NDArray[np.uint64]:
    """How far it is from each shard to the slot's first point beyond it, as in uhashring's own look-up; past the last
    point, once round to the first. 32 KiB for each slot."""
    ring = HashRing({slot: weight}, vnodes=vnodes, hash_fn=_hash_for(vnodes))
    points = np.sort(np.array([point for point, _ in ring.get_points()], dtype=np.uint64))
    beyond = points[np.searchsorted(points, _POSITION_OF_SHARD, side="right") % len(points)]
    # One less than the distance, so that a whole round isn't none. Unsigned, so a round is a subtraction as well.
    return beyond - _POSITION_OF_SHARD - np.uint64(1)


def _hash_for(vnodes: int) -> Callable[[object], int]:
    """uhashring's keys: the names of points are hashed, positions of shards stand for themselves."""
    seed = _SEED_OF.get(vnodes, _SEED)
    return lambda key: key if isinstance(key, int) else xxh64_intdigest(str(key).encode(), seed=seed)


EMPTY: Final = Ring(-1, (), ("",) * SHARDS, (None,) * SHARDS)
"""What a process knows before it has read the table."""
