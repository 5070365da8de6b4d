"""The request router of the deployment: Ray's proxies, and the replicas themselves, ask it where a request goes.

Ray hands this module to its processes by value, so it keeps no state of its own: that of this process is in `members`.
"""

import time
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from dia2stream.cluster.choice import Choice
from dia2stream.cluster.members import listed


class SlotsRouter(RequestRouter):
    """Chooses the replica with the least share of its slots taken. One that is full is chosen only when all are."""

    def initialize_state(self, **kwargs: Any) -> None:
        """See RequestRouter; called once, before anything else."""
        self._choice = Choice(time.monotonic)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See RequestRouter. Called with every change, and with every new report of a replica."""
        super().update_replicas(replicas)
        names = [replica.replica_id.unique_id for replica in replicas]
        self._choice.keep(names)
        listed(names)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See RequestRouter. Each rank is one replica: Ray tries them in this order."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # between two rounds, not before the first
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        order = self._choice.order({name: replica.routing_stats for name, replica in named.items()})
        self._choice.sent(order[0])  # at once: others choose before this request is on its way
        return [[named[name]] for name in order]
