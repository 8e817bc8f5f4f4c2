"""The edge: HAProxy with the ring compiled into it, and the control loop that keeps both true.

``config`` renders what HAProxy is told at its start, ``admin`` speaks to a running one, ``process`` starts, adopts and
ends it, ``sync`` makes its servers and its map follow the membership table, ``deployment`` is the whole.
"""

from router.edge.deployment import Edge, EdgeReplica

__all__ = ["Edge", "EdgeReplica"]
