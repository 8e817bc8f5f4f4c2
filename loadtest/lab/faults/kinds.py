"""What a fault is, and the one table of those that can be carried out.

A new fault is a coroutine under ``@kind(...)`` in the file of its family; its name is the scenario's word for it. What
it promises: it returns when the fault is over (a frozen process goes on, a cut link is whole again), it has filled in
``Done.slot`` and, only if the effect was really seen, ``Done.seen``; it ends only processes of the experiment's own.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from loadtest.lab.deployment import Deployment

EVERYBODY = "*"
"""In the place of a victim's slot: all sessions are concerned."""
ERRORS_FOR_S = 5.0
ON_REDIS = frozenset({"redis"})
"""Stores that keep everything in a Redis of their own."""
WITH_REDIS = ON_REDIS | {"hybrid"}
"""Stores that have a Redis of their own."""
ON_ONE_SERVER = frozenset({"redis", "postgres"})
"""Stores that are one server, before which the link can stand."""


class Need(StrEnum):
    """What a fault needs of the stack that the experiment starts."""

    STORE_LINK = "store_link"
    """Hosts reach their store through a proxy of the experiment's own."""
    SEVERAL_EDGES = "several_edges"
    """Clients come by nginx, which has other edges to go by than the stack's own."""


class Strict(BaseModel):
    """A part of a scenario: a misspelled name is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(Strict):
    """One fault, ``at_s`` seconds after the load has begun."""

    at_s: float = Field(ge=0)
    do: str
    hosts: int | None = Field(default=None, ge=1, le=64, description="scale: how many there shall be")
    for_s: float = Field(default=5.0, gt=0, le=120, description="freezes and cuts: how long; a drain: its deadline")
    surge_percent: int = Field(default=0, ge=0, le=100, description="rolling_update: Serve's max_surge_percent")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.do not in KINDS:
            raise ValueError(f"there is no fault {self.do!r}; there are {', '.join(sorted(KINDS))}")
        if KINDS[self.do].wants_hosts != (self.hosts is not None):
            raise ValueError(f"{self.do}: `hosts` belongs to changes of capacity, and to nothing else")
        return self


@dataclass(frozen=True, slots=True)
class Released:
    """A lease of a host that left: when the host left the table, and when the lease was first seen free. Monotonic."""

    slot: str
    left: float
    free: float


@dataclass(slots=True)
class Done:
    """One fault as it happened. Times are monotonic seconds, durations seconds."""

    do: str
    at: float
    slot: str = ""
    """The victim; several with commas between; ``EVERYBODY``."""
    host: str = ""
    """The life of the host that was struck; known where somebody asks what it did meanwhile."""
    pid: int = 0
    seen: str = ""
    """What was seen of its effect; empty: nothing."""
    effect_s: float = 0.0
    """From the strike until the effect was seen."""
    over: float = 0.0
    """When it ended: thawed, healed; 0: it was over as it struck."""
    again_s: float = 0.0
    """From the strike until all hosts were ready again; 0: they weren't before the next fault."""
    traffic: int = 0
    """Operations that were under way on the victim; from the history."""
    trouble: str = ""
    released: dict[str, Released] = field(default_factory=dict)
    """By session: the leases of hosts that left as planned."""

    @property
    def effective(self) -> bool:
        """Whether it counts: traffic ran on the victim, and the effect was seen."""
        return bool(self.seen) and self.traffic > 0

    @property
    def slots(self) -> frozenset[str]:
        """Slots that were struck; none if it was everybody."""
        return frozenset(name for name in self.slot.split(",") if name and name != EVERYBODY)

    def as_json(self, begun: float) -> dict[str, Any]:
        """For the verdict; ``at_s`` counts from when the load began."""
        names = ("do", "slot", "pid", "seen", "effect_s", "again_s", "traffic", "effective", "trouble")
        return {"at_s": round(self.at - begun, 2)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Ground:
    """What a fault works on."""

    deployment: Deployment
    random: random.Random


CarryOut = Callable[[Ground, Fault, Done], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault, and what may follow from it."""

    name: str
    carry_out: CarryOut
    takes_hosts: bool = False
    """It takes hosts away, or their sessions from them: those of ``Done.slots`` may move."""
    reloads: bool = False
    """Any session may have to be loaded anew after it."""
    may_lose: bool = False
    """The store may have less afterwards than was acknowledged: every session must be asked once more."""
    stops_map: bool = False
    """Until all hosts are ready again, the edge's map may be behind the ring that the hosts go by."""
    wants_hosts: bool = False
    """It is told how many hosts there shall be."""
    all_ready: bool = False
    """It begins only when all hosts are ready, even where others don't wait for that."""
    errors: frozenset[str] = frozenset()
    """What clients may see of it, as ``status`` or ``status problem-type``; ``0``: no answer."""
    errors_for_s: float = ERRORS_FOR_S
    """Until so long after it is over and all hosts are ready."""
    needs: frozenset[Need] = frozenset()
    only_on: frozenset[str] = frozenset()
    """The stores on which it makes sense; none: on all."""

    def is_for(self, store: str) -> bool:
        return not self.only_on or store in self.only_on


KINDS: dict[str, Kind] = {}
"""Every fault that can be carried out, by name."""


def kind(
    *,
    takes_hosts: bool = False,
    reloads: bool = False,
    may_lose: bool = False,
    stops_map: bool = False,
    wants_hosts: bool = False,
    all_ready: bool = False,
    errors: frozenset[str] = frozenset(),
    errors_for_s: float = ERRORS_FOR_S,
    needs: frozenset[Need] = frozenset(),
    only_on: frozenset[str] = frozenset(),
) -> Callable[[CarryOut], CarryOut]:
    """Enter a coroutine into the table under its own name."""

    def enter(carry_out: CarryOut) -> CarryOut:
        name = carry_out.__name__
        KINDS[name] = Kind(
            *(name, carry_out, takes_hosts, reloads, may_lose, stops_map, wants_hosts, all_ready),
            *(errors, errors_for_s, needs, only_on),
        )
        return carry_out

    return enter
