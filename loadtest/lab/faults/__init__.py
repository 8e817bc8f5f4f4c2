"""The faults, a file for each family. A family that isn't imported here doesn't exist."""

from loadtest.lab.faults import capacity, edge, hosts, link, ray_nodes, store
from loadtest.lab.faults.kinds import EVERYBODY, KINDS, Done, Fault, Ground, Kind, Need, Released

__all__ = [
    "EVERYBODY",
    "KINDS",
    "Done",
    "Fault",
    "Ground",
    "Kind",
    "Need",
    "Released",
    "capacity",
    "edge",
    "hosts",
    "link",
    "ray_nodes",
    "store",
]
