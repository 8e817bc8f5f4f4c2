"""The choices of one seed: what may go wrong and how often, how many clients there are and what they like to do.

Each seed has a theme, so that the troubles which need each other meet: a bug that shows only when a batch arrives at a
busy host is never seen by schedules that do a little of everything. Some seeds are left nearly quiet.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

KINDS: Final = (
    *("crash", "replace", "freeze", "stall", "outage", "cut", "network", "store", "stale", "stale edge"),
    *("drain", "expire", "strays", "scale up", "bury", "split", "lag"),
)
CALM: Final = ("quick", "quick", "quick+", "quick++", "slow:0.3", "slow:1.2++", "slow:2.5+++", "flaky+", "raise")
SPICE: Final = ("late", "edge+", "block:1.5+", "block:6", "poison", "slow:5+++++")


@dataclass(frozen=True)
class Theme:
    """``kinds`` of trouble that belong together; ``behaviours`` of the agent in them (none: a mixture)."""

    kinds: tuple[str, ...]
    behaviours: tuple[str, ...] = ()
    likes: str = ""
    """What clients do more than usual: burst, twins, repeat, delete."""
    ambushes: tuple[str, ...] = ()
    """See ``ambush``."""
    crowded: bool = False
    """One session, many clients, on few hosts."""
    brief: bool = False
    """Sessions leave memory at once, and clients are slow, so that they do."""
    pair: bool = False
    """On two hosts, every other time: what one forgets comes back from the other."""
    strays: float = 0.0
    """How many requests go to any host, from the start."""


THEMES: Final = (
    Theme(()),
    Theme(()),
    Theme(("cut", "freeze", "stall", "bury", "strays"), ("slow:5+++++", "slow:2.5+++", "flaky:3++", "quick"), "twins"),
    Theme(("cut", "freeze", "stale edge"), ("slow:2.5+++", "flaky:3++", "raise", "quick+"), "burst"),
    Theme(("drain", "scale up", "stale", "split", "strays", "lag"), ("quick", "quick+", "slow:0.4++"), "burst"),
    Theme(("drain", "scale up", "strays", "lag"), ("slow:0.3", "slow:1.2++"), "burst"),
    Theme(("crash", "replace", "bury"), ("poison", "quick", "slow:0.4++", "quick+"), ""),
    Theme(("store", "outage", "lag", "crash"), ("quick", "quick+", "flaky+", "edge+"), ""),
    Theme(("split", "expire", "strays", "drain"), (), "delete"),
    Theme(("network", "crash", "stall"), (), "repeat"),
)
AMBUSHES: Final = (
    Theme(
        (), ("first:5+++++++", "first:4+++++", "slow:5+++++++++"), "twins", ("cut runner",),
        crowded=True, strays=0.5,
    ),
    Theme(
        ("slow claims", "lag"), ("slow:0.3", "slow:0.4++", "slow:1.2++", "quick+"), "burst", ("disowned",),
        crowded=True, strays=0.5,
    ),
    Theme(("freeze",), ("quick", "quick+", "slow:0.4++"), "", ("late twin",), crowded=True, brief=True, strays=0.7),
    Theme((), ("quick", "quick+", "slow:0.4++"), "", ("straggler",), crowded=True, strays=0.5),
    Theme(("ghost",), ("quick", "quick+", "slow:0.3"), "burst", crowded=True, strays=0.5),
    Theme((), ("quick", "quick+", "slow:0.4++"), "", ("lost answer",), crowded=True),
    Theme((), ("slow:5+++++", "slow:5+++", "slow:0.4++"), "", ("deleted runner",), crowded=True, strays=0.8),
    Theme((), ("once", "once+", "quick"), "", ("frozen runner",), crowded=True, brief=True),
    Theme(("stuck",), ("quick", "quick+", "slow:0.4++"), "", crowded=True),
)  # fmt: skip
MOVES: Final = (
    Theme(
        (),
        ("flaky:0.3", "flaky:0.4", "quick+"),
        "burst",
        ("disowned", "lost receipt"),
        crowded=True,
        pair=True,
        strays=0.3,
    ),
    Theme((), ("slow:0.3", "slow:0.4++", "quick+"), "burst", ("disowned", "slow batch"), crowded=True, strays=0.3),
    Theme((), ("slow:0.3", "slow:0.4++"), "burst", ("disowned", "slow release"), crowded=True, strays=0.5),
    Theme((), ("quick+", "slow:0.4++"), "", ("helpless heir",), crowded=True),
    Theme(("crash", "replace", "drain", "scale up"), ("quick", "slow:0.4++"), "", ("table twin",)),
)
"""What may go wrong while a session, or a slot, changes hands. Seeds of their own, as those that forget."""
FORGOTTEN_GRANT: Final = Theme(
    (), ("slow:0.3", "slow:1.2++", "slow:2.5+++"), "", ("disowned", "forgotten grant"), crowded=True, strays=0.3
)
FORGOTTEN_TURN: Final = Theme((), ("quick", "quick+", "raise"), "repeat", ("forgotten turn",), crowded=True, brief=True)
LOSS: Final = Theme(("forget", "forget", "split", "strays", "drain"), ("quick", "quick+", "slow:0.4++"), "repeat")
"""Two hosts must meet over what was forgotten."""
LOSSES: Final = (LOSS, LOSS, FORGOTTEN_GRANT, FORGOTTEN_GRANT, FORGOTTEN_TURN, FORGOTTEN_TURN, *THEMES[:2])


WINDOWED: Final = (2, 12, 17, 18)
"""Of 20 seeds; the last is one of those that forget."""


class Plan:
    """All choices of one seed that concern trouble."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"{seed}/plan")
        self.forgets = seed % 5 == 3
        moves = seed % 10 == 6
        windowed = seed % 20 in WINDOWED
        self.window = random.Random(f"{seed}/window").choice((1, 2, 3, 5)) if windowed else None
        """Turns that the agent is given at most."""
        theme = rng.choice(LOSSES if self.forgets else MOVES if moves else (*THEMES, *AMBUSHES, *AMBUSHES))
        self.kinds = [kind for kind in theme.kinds if rng.random() < 0.75]
        self.kinds += rng.sample(KINDS, rng.choice((0, 1, 1, 2)) if theme.kinds else rng.choice((0, 1, 2, 3, 4, 6)))
        if self.forgets and not theme.ambushes:
            self.kinds.append("forget")
        if theme.ambushes or theme.crowded:
            self.kinds = list(theme.kinds)
        self.pause_s = rng.choice((0.1, 0.3, 0.5, 1.0, 3.0))
        self.trouble_s = rng.choice((4.0, 8.0, 14.0))
        self.hosts = rng.choice((2, 3, 3, 3))
        self.sessions = rng.choice((1, 1, 2, 3, 6))
        self.clients = rng.choice((2, 3, 4, 5))
        self.actions = rng.choice((4, 8, 12))
        self.pace_s = rng.choice((0.05, 0.3, 0.9))
        self.resident_max = rng.choice((1, 3, 3, 100))
        self.idle_s = rng.choice((0.2, 1.0, 4.0, 4.0))
        self.burst = 0.3 if theme.likes == "burst" else 0.1
        self.twins = 0.3 if theme.likes == "twins" else 0.08
        self.repeats = 0.25 if theme.likes == "repeat" else 0.08
        self.deletions = 0.1 if theme.likes == "delete" else rng.choice((0.0, 0.0, 0.03))
        self.ambushes = theme.ambushes
        self.strays = theme.strays
        self.streams = 0.9 if {"cut runner", "deleted runner"} & {*theme.ambushes} else 0.5
        if theme.crowded:
            self.sessions = rng.choice((1, 1, 2))
            self.hosts = rng.choice((2, 3))
            self.clients = rng.choice((4, 5))
            self.trouble_s = 14.0 if "ghost" in theme.kinds else rng.choice((8.0, 14.0))
            self.twins = 0.5 if theme.likes == "twins" else self.twins
        if theme.pair and seed % 20 == 6:
            self.hosts = 2
        if theme.brief:
            self.idle_s = 0.2
            self.pace_s = rng.choice((0.7, 1.5))
            self.clients, self.actions, self.hosts = 3, 12, 3
        if windowed:
            # A repeat must be likely to come after its turn has left the window.
            self.repeats = 0.25
        self._behaviours = [*(theme.behaviours or CALM)]
        self._behaviours += [extra for extra in SPICE if rng.random() < (0.1 if theme.behaviours else 0.3)]

    def behaviour(self, rng: random.Random) -> str:
        """How the agent is to behave for one message."""
        return rng.choice(self._behaviours)
