"""The request router of the deployment: Ray's proxies, and the replicas themselves, ask it where a request goes.

Ray hands this module to its processes by value, so it keeps no state of its own: that of this process is in `members`.
"""

import asyncio
import time
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from dia2stream.cluster.choice import Choice, Report
from dia2stream.cluster.members import listed

ANSWER_SECONDS = 2.0  # for a replica to say whether it keeps a slot; a calm one needs 3 ms


class SlotsRouter(RequestRouter):
    """Sends a client to the least loaded replica by slots that keeps a slot for the client."""

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
        """See RequestRouter. Each rank is one replica: Ray tries them in this order.

        Where all are full, the request goes to any of them, which says `busy` in its client's own format.
        """
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        order = self._choice.order({name: replica.routing_stats for name, replica in named.items()})
        if pending_request is None:
            return [[named[name]] for name in order]
        pending_request.routing_context.should_backoff = True  # between two rounds, not before the first
        if pending_request.metadata.is_http_request:
            for name in order:
                if await self._keeps_slot(named[name], pending_request):
                    return [[named[name]]]
        return [[named[name]] for name in order]

    async def _keeps_slot(self, replica: RunningReplica, pending: PendingRequest) -> bool:
        """Asks a replica to keep a slot for this request."""
        name = replica.replica_id.unique_id
        try:
            with self._choice.asking(name):
                kept, report = await asyncio.wait_for(self._ask(replica, pending), ANSWER_SECONDS)
        except Exception:  # whatever it is, the next replica is asked; Ray itself finds out whether this one is alive
            self._choice.silent(name)
            return False
        self._choice.told(name, report)
        if kept and self.replica_queue_len_cache.get(replica.replica_id) is None:
            # Without this figure Ray would ask for it, and go to another replica if that takes more than 0.1 s.
            self.on_new_queue_len_info(replica.replica_id, 0)
        return kept

    async def _ask(self, replica: RunningReplica, pending: PendingRequest) -> tuple[bool, Report]:
        asked = pending.metadata
        # Ray's own id of a request is unique, which that of a client need not be, and of its fields this one is what
        # Ray takes along to the replica and tells there by a public function. Nothing else uses the field here.
        asked.multiplexed_model_id = asked.internal_request_id
        question = type(asked)(
            request_id=asked.request_id,
            internal_request_id=f"{asked.internal_request_id}-slot",
            call_method="keep_slot",
            app_name=asked.app_name,
        )
        told = PendingRequest(args=[asked.internal_request_id], kwargs={}, metadata=question)
        kept, report = await replica.try_send_request(told, with_rejection=False).get_async()
        return kept, report
