"""A Ray Serve application of many servers: `pip install 'dia2stream[ray]'`.

    serve run dia2stream.cluster.ray:app slots=32 journal=redis://journal:6379 max_replicas=8
    serve deploy scripts/serve.yaml

Each replica is one server with one model on one GPU, behind Ray's HTTP proxy. What is asked for, and where it happens:

    a new client       Ray's proxy asks `SlotsRouter`, which has the least loaded replica keep a slot for the client, or
                       the next one if that replica has none; so a client is refused only when all replicas are full
    health             `check_health` is what /readyz says; Ray replaces a replica that fails it
    more replicas      `BySlots`: conversations over slots
    fewer replicas     `members` tells the replica, which closes its connections with 1012; with a journal, each client
                       comes back with ?conversation=ID to any other replica, which goes on with the conversation
    metrics            /metrics asks every replica, and names it in the label `replica`
"""

import asyncio
import contextlib
import logging
from typing import Any

from ray import serve
from ray.serve import Application as RayApplication
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from dia2stream.cluster import members
from dia2stream.cluster.arrivals import Arrivals
from dia2stream.cluster.choice import REPORT_SECONDS
from dia2stream.cluster.scrapes import together
from dia2stream.cluster.settings import Settings, of_the_server, read
from dia2stream.server.asgi import Application
from dia2stream.server.logs import set_up
from dia2stream.server.server import Server

_log = logging.getLogger(__name__)

# Ray holds back what is over this, for however long; a server that is full says `busy` in its client's format instead.
_MANY = 100_000
HEALTH_SECONDS, HEALTH_TIMEOUT_SECONDS = 2.0, 10.0
SCRAPE_SECONDS = 5.0


@serve.ingress()
class Speech:
    """One replica. arguments: those of the application, see `settings`; the environment is the replica's own."""

    def __init__(self, arguments: dict[str, object]) -> None:
        settings = read(arguments)
        set_up(settings.serve.log_level, settings.serve.log_format)
        here = serve.get_replica_context()
        self._name = here.replica_id.unique_id
        self._others = serve.get_deployment_handle(here.deployment, here.app_name)
        self._server = Server(settings.model, settings.speech, settings.serve)
        self._own_scrape = self._server.scrape
        self._server.scrape = self._scrape_all
        self._meeting: asyncio.Task[None] | None = None
        self._application = Application(self._server, settings.serve)
        self._arrivals = Arrivals(self._application, self._server, settings.serve.token, serve.get_multiplexed_model_id)
        self._told, self._turn = (0, 0), 0
        members.watch(self._name, self._stop_soon(asyncio.get_running_loop()))
        if settings.serve.journal is None:
            _log.warning("without a journal, a client finds its conversation only if it reaches the same replica")

    def __serve_build_asgi_app__(self) -> Arrivals:
        """What Ray serves. Its lifespan loads the model before the replica counts as running."""
        return self._arrivals

    # ---- Called by Ray ----

    async def check_health(self) -> None:
        """Raises when clients are not served."""
        self._meet_the_others()
        if (reason := self._server.unready()) is not None and not self._application.stopping:
            raise RuntimeError(reason)

    def record_routing_stats(self) -> dict[str, int]:
        """For SlotsRouter. turn: counts the different reports, as they may overtake each other."""
        now = (self._server.slots, self._server.invites or 0)
        if now != self._told:
            self._told, self._turn = now, self._turn + 1
        return {"slots": now[0], "free": now[1], "turn": self._turn}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For BySlots."""
        return {"slots": self._server.slots, "taken": self._server.taken}

    # ---- Called by routers ----

    async def keep_slot(self, request: str) -> tuple[bool, dict[str, int]]:
        """Keeps a slot for a client that the router is about to send. Returns whether it is kept, and the report."""
        return self._server.hold(request), self.record_routing_stats()

    # ---- Called by other replicas ----

    async def scrape(self) -> tuple[str, str]:
        """The name and the metrics of this one."""
        return self._name, (await self._own_scrape()).decode()

    async def _scrape_all(self) -> bytes:
        answers = await self._others.broadcast("scrape").results_async(timeout_s=SCRAPE_SECONDS)
        return together(dict(answers)).encode()

    # ---- The end ----

    def _stop_soon(self, loop: asyncio.AbstractEventLoop) -> Any:
        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._application.stop)

        return stop

    def _meet_the_others(self) -> None:
        """Has Ray make this process's router, from which `members` learns that this replica is being stopped."""
        if self._meeting is None:
            self._meeting = asyncio.create_task(self._meet())

    async def _meet(self) -> None:
        with contextlib.suppress(Exception):  # whoever does not answer is met by the next change of the list
            await self._others.broadcast("scrape").results_async(timeout_s=SCRAPE_SECONDS)


def deployment(settings: Settings) -> Any:
    """The deployment that fits these settings; a serve.yaml may say otherwise of everything in it."""
    cluster = settings.cluster
    autoscaling = AutoscalingConfig(
        min_replicas=cluster.min_replicas,
        max_replicas=max(cluster.min_replicas, cluster.max_replicas),
        upscale_delay_s=5.0,
        downscale_delay_s=300.0,
        metrics_interval_s=2.0,
        look_back_period_s=6.0,
        policy=AutoscalingPolicy(
            policy_function="dia2stream.cluster.scaling:BySlots", policy_kwargs={"target": cluster.target}
        ),
    )
    return serve.deployment(
        Speech,
        name="Speech",
        ray_actor_options={"num_gpus": cluster.gpus, "num_cpus": cluster.cpus},
        autoscaling_config=autoscaling,
        max_ongoing_requests=_MANY,
        request_router_config=RequestRouterConfig(
            request_router_class="dia2stream.cluster.router:SlotsRouter",
            request_routing_stats_period_s=REPORT_SECONDS,
        ),
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.serve.drain_seconds + 15,
    )


def app(arguments: dict[str, Any]) -> RayApplication:
    """What `serve run` and serve.yaml name. Raises Dia2StreamError for an argument that is none."""
    return deployment(read(arguments)).bind(of_the_server(arguments))
