"""What an experiment does, as a YAML file says it: load, faults with their times, hosts, seed.

Promises: a scenario that loads can be carried out; a misspelled name is refused, never ignored. The numbers under
``smoke`` take the places of those above when the experiment must be over in 90 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from loadtest.lab.faults import KINDS, Fault, Need
from loadtest.lab.faults.kinds import Strict

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"


class Chance(Strict):
    """Faults at random times, seeded, instead of a list."""

    every_s: tuple[float, float]
    among: list[str] = Field(min_length=1, description="a name that stands here twice is chosen twice as often")
    for_s: float = Field(default=5.0, gt=0, le=120)
    hosts: tuple[int, int] = Field(default=(2, 3), description="between how many capacity changes")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := set(self.among) - KINDS.keys():
            raise ValueError(f"there is no fault {', '.join(sorted(unknown))}")
        if not 1 <= self.hosts[0] < self.hosts[1] <= 64:
            raise ValueError("`hosts` are the fewest and the most")
        return self


class Stage(Strict):
    """From ``at_s`` on, so many users."""

    at_s: float = Field(ge=0)
    users: int = Field(ge=1, le=5000)


class Load(Strict):
    """Closed loop: every user has sessions of its own and says something in one of them every ``pace_s``: one message,
    or several at once. Whoever waits for an answer says nothing meanwhile."""

    users: int = Field(ge=1, le=5000)
    sessions_per_user: int = Field(default=4, ge=1, le=10_000)
    pace_s: float = Field(default=0.5, gt=0, description="time between two messages of one user, by schedule")
    over_s: float = Field(default=0.1, ge=0, le=60, description="how long the agent takes")
    at_once: int = Field(default=1, ge=1, le=16, description="messages that a user sends to one session at one moment")
    message_bytes: tuple[int, int] = (20, 400)
    streams: float = Field(default=0.0, ge=0, le=1, description="share of messages that are streamed, with a key")
    stages: list[Stage] = Field(default_factory=list)


class Scenario(Strict):
    """One experiment. ``for_s``: how long the load runs."""

    name: str
    about: str
    hosts: int = Field(default=3, ge=1, le=64)
    nodes: int = Field(default=0, ge=0, le=16, description="Ray nodes that the hosts have to themselves")
    edges: int = Field(default=1, ge=1, le=8, description="with several, clients come by nginx before them")
    settings: dict[str, str] = Field(default_factory=dict, description="Rehydra's, by their names in the environment")
    for_s: float = Field(gt=0, le=3600)
    fsync: str = Field(default="always", pattern="^(always|everysec)$")
    seed: int = 1
    load: Load
    faults: list[Fault] = Field(default_factory=list)
    chance: Chance | None = None
    smoke: dict[str, Any] = Field(default={}, exclude=True)

    @model_validator(mode="after")
    def _faults_fall_into_the_load(self) -> Self:
        if late := [fault.at_s for fault in self.faults if fault.at_s >= self.for_s]:
            raise ValueError(f"faults at {late} s come after the load has ended ({self.for_s} s)")
        if self.edges < 2 and Need.SEVERAL_EDGES in self.needs:
            raise ValueError("who kills one of several edges needs `edges: 2` at least")
        return self

    def on(self, store: str) -> Self:
        """As it is carried out on that store: of what may come by chance, only what makes sense there. ValueError if
        a fault of its list doesn't, or nothing is left."""
        unfit = [name for name in sorted(self.kinds) if not KINDS[name].is_for(store)]
        among = [name for name in self.chance.among if name not in unfit] if self.chance else []
        if (self.chance and not among) or any(fault.do in unfit for fault in self.faults):
            raise ValueError(f"{self.name} isn't for {store}: {'; '.join(map(_only_on, unfit))}")
        if self.chance is None:
            return self
        return self.model_copy(update={"chance": self.chance.model_copy(update={"among": among})})

    @property
    def kinds(self) -> set[str]:
        """All faults that may happen."""
        return {fault.do for fault in self.faults} | set(self.chance.among if self.chance else ())

    @property
    def needs(self) -> frozenset[Need]:
        """What its faults need of the stack."""
        return frozenset[Need]().union(*(KINDS[name].needs for name in self.kinds))


def _only_on(name: str) -> str:
    return f"{name} is only for {', '.join(sorted(KINDS[name].only_on))}"


def names() -> list[str]:
    """All scenarios that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str, *, smoke: bool = False, seed: int | None = None) -> Scenario:
    """The scenario of that name. FileNotFoundError or pydantic's ValidationError says what is wrong with it."""
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    document["name"] = name
    if smoke:
        document |= document.get("smoke", {})
    if seed is not None:
        document["seed"] = seed
    return Scenario.model_validate(document)
