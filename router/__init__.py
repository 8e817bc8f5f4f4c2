"""Where a session should run: shards, slots, ring, membership policy, and the edge that routes by them.

``router`` imports only the model and the errors of ``actors``. Nothing here decides who may write: the
store does (invariant I7, the ring is a hint).
"""
