"""The ring as a model with free numbers: hosts, shards, points per host. It computes what the product's ring does at 64
slots, 16,384 shards and `ring.vnodes: 1024`, for sizes that the product refuses, and a rival way of dealing shards out.

- ``hashed``: shards at equal distances on a circle of 2**64, each belongs to the first point beyond it (the product's).
- ``dealt``: shards are dealt out by count; whoever leaves has its shards dealt to those that have the fewest. Nothing
  can be computed from the members alone then: the table of shards is what has to be kept and sent.

Pure: no clock, no chance.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heapreplace

from xxhash import xxh32_intdigest, xxh64_intdigest

SEED = 7_866
NOBODY = -1


def points(hosts: Iterable[int], vnodes: int) -> list[tuple[int, int]]:
    """(where on the circle, whose), in order."""
    return sorted(
        (xxh64_intdigest(f"slot-{host}-{number}".encode(), seed=SEED), host)
        for host in hosts
        for number in range(vnodes)
    )


def hashed(circle: Sequence[tuple[int, int]], shards: int) -> list[int]:
    """The host of each shard."""
    places = [place for place, _ in circle]
    hosts = [host for _, host in circle]
    hosts.append(hosts[0])
    distance = (1 << 64) // shards
    return [hosts[bisect_right(places, shard * distance)] for shard in range(shards)]


def dealt(hosts: Sequence[int], shards: int) -> list[int]:
    """The host of each shard, when all join at once."""
    return [hosts[shard % len(hosts)] for shard in range(shards)]


def without(owners: Sequence[int], leaver: int) -> list[int]:
    """A deal after one has left: its shards go to those with the fewest, the others stay."""
    counts = {host: 0 for host in owners if host != leaver}
    for host in owners:
        if host != leaver:
            counts[host] += 1
    fewest = [(count, host) for host, count in counts.items()]
    heapify(fewest)
    found = list(owners)
    for shard, host in enumerate(owners):
        if host == leaver:
            count, heir = fewest[0]
            found[shard] = heir
            heapreplace(fewest, (count + 1, heir))
    return found


def joined(owners: Sequence[int], joiner: int) -> list[int]:
    """A deal after one has joined: it takes its share from those with the most, the others stay."""
    held: dict[int, list[int]] = {}
    for shard, host in enumerate(owners):
        held.setdefault(host, []).append(shard)
    most = [(-len(shards), host) for host, shards in held.items()]
    heapify(most)
    found = list(owners)
    for _ in range(len(owners) // (len(held) + 1)):
        count, host = most[0]
        found[held[host].pop()] = joiner
        if count + 1:
            heapreplace(most, (count + 1, host))
        else:
            heappop(most)
    return found


def loads(owners: Sequence[int], hosts: int, weights: Sequence[int]) -> list[int]:
    """What each host has, where shard ``n`` weighs ``weights[n]``."""
    found = [0] * hosts
    for host, weight in zip(owners, weights, strict=True):
        if host != NOBODY:
            found[host] += weight
    return found


@lru_cache(maxsize=8)
def sessions_of(shards: int, sessions: int) -> list[int]:
    """How many sessions fall into each shard."""
    found = [0] * shards
    for number in range(sessions):
        found[xxh32_intdigest(b"session-%d" % number) % shards] += 1
    return found


def over_mean(loads: Sequence[int]) -> float:
    """Most over mean; 1 is perfect."""
    return max(loads) * len(loads) / sum(loads)


def moved(before: Sequence[int], after: Sequence[int]) -> int:
    """Shards that have another host."""
    return sum(was != now for was, now in zip(before, after, strict=True))
