"""The ring as Ray Serve's request router: for ``edge.kind: serve``, where clients come by Serve's own proxy.

Every process that holds a handle makes a router of its own, from what the controller broadcasts: the live replicas,
and the slot that each took when it started (``SessionHost.record_replica_metadata``). That is the table of which hosts
make their ring, save for the moments in which it changes; a host that gets a session which isn't its own passes it on.

Serve reads the session id from the header ``X-Session-Id`` alone. A request that names its session in the body, or
none, goes to any host. Deliberately absent: a repeat. Serve's proxy answers 500 when a replica dies under a request;
the client repeats it with its ``Idempotency-Key``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from actors.model import Member, Table
from router.ring import EMPTY, VNODES, Ring


class RingRouter(RequestRouter):  # type: ignore[misc]
    """Chooses the owner of the session, and any other replica if the owner takes no requests now."""

    def initialize_state(self, vnodes: int = VNODES, **_: Any) -> None:
        """Called by Serve with ``request_router_kwargs``: ``vnodes`` as in ``ring.vnodes``."""
        self._vnodes = vnodes
        self._ring: Ring = EMPTY

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve whenever replicas have come or gone."""
        super().update_replicas(replicas)
        self._ring = Ring.of(table_of(replica.replica_metadata for replica in replicas), self._vnodes)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The owner first; then all others, of which Serve takes one that has room."""
        session_id = pending_request.metadata.session_id if pending_request is not None else ""
        owner = self._ring.owner(session_id) if session_id else None
        if owner is None:
            return [candidate_replicas]
        own = [each for each in candidate_replicas if each.replica_metadata.get("incarnation") == owner.incarnation]
        others = [each for each in candidate_replicas if each not in own]
        return [rank for rank in (own, others) if rank]


def table_of(replicas: Iterable[dict[str, Any]]) -> Table:
    """The membership table that the replicas' metadata tell. A slot that two claim is the later one's."""
    members: dict[str, Member] = {}
    ring_version = 0
    for metadata in sorted(replicas, key=lambda metadata: int(metadata.get("ring_version", 0))):
        if slot := str(metadata.get("slot", "")):
            members[slot] = Member(slot, metadata["incarnation"], metadata["address"], 0, int(metadata["weight"]))
            ring_version = int(metadata["ring_version"])
    return Table(ring_version, members)
