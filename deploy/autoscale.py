"""How many hosts there should be, by the load that they report: the policy of ``deploy/serve-autoscale.yaml``.

Serve's own policy counts the requests that it has passed on itself. Clients come by the edge, so it would see none, and
take every host but one away. What a host can say of itself (``SessionHost.record_autoscaling_stats``) is how many
sessions are in its memory, and how many of them have a turn that runs or waits. Either can be what is short: memory,
or the time of one event loop. Limits, delays and factors are Serve's, from ``autoscaling_config``. Imports no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Context(Protocol):
    """What is used of ``ray.serve.config.AutoscalingContext``."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...
    @property
    def running_replicas(self) -> Sequence[Any]: ...
    @property
    def target_num_replicas(self) -> int: ...


class BySessions:
    """Enough hosts for all sessions in memory, and for all that are busy, whichever asks for more.

    ``resident``, ``busy``: sessions per host that are aimed at.
    """

    def __init__(self, resident: float, busy: float) -> None:
        if resident <= 0 or busy <= 0:
            raise ValueError("policy_kwargs: resident and busy must be above 0.")
        self._aims = {"resident": resident, "busy": busy}

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """The number of hosts, and nothing to remember."""
        found = context.aggregated_metrics or {}
        reports = {name: found.get(name, {}) for name in self._aims}
        wanted = max(math.ceil(sum(reports[name].values()) / aim) for name, aim in self._aims.items())
        # A host that is new, or whose report is on its way, may have any load: none is taken away on a guess.
        if any(replica not in report for report in reports.values() for replica in context.running_replicas):
            wanted = max(wanted, context.target_num_replicas)
        return max(wanted, 1), {}
