"""The metrics for Prometheus. Ours start with dia2stream_; those that start with process_ are memory, descriptors, CPU.

The code that counts or times something feeds the counters and histograms at once. Gauges are looked up at each scrape,
by the functions that `observe` was given.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dia2stream.engine.observer import StepReport
from dia2stream.errors import CommandError, ErrorCode
from dia2stream.items import FRAME_MS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCIES = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_FRAME_TIMES = (0.001, 0.002, 0.003, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5, 1)

# Why a client gets no slot.
REFUSALS = ("slots", "overload", "line", "unready")

# One gauge or counter that is looked up: its name, its description, its value.
Reading = tuple[str, str, float]


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.conversations = Counter(
            "dia2stream_conversations", "Conversations begun by a start command", registry=registry
        )
        self.clients = Counter("dia2stream_clients", "Clients that got a slot", registry=registry)
        self.returned = Counter("dia2stream_returns", "Clients that came back to a conversation", registry=registry)
        self.refusals = Counter(
            "dia2stream_refusals", "Clients refused a slot, by reason", ["reason"], registry=registry
        )
        self.busy = Counter("dia2stream_busy", "Clients refused because no slot was free", registry=registry)
        self.errors = Counter("dia2stream_errors", "Errors told to clients", ["code"], registry=registry)
        # A counter's first increase can only be seen if the counter was there before, at 0.
        for reason in REFUSALS:
            self.refusals.labels(reason)
        for code in get_args(ErrorCode):
            self.errors.labels(code)
        self.first_audio = Histogram(
            "dia2stream_first_audio_seconds",
            "From a command's arrival to its first audio",
            buckets=_LATENCIES,
            registry=registry,
        )
        self.take_over = Histogram(
            "dia2stream_take_over_seconds",
            "From a client's arrival with another server's conversation to where that stands again",
            buckets=_LATENCIES,
            registry=registry,
        )
        self.frame_time = Histogram(
            "dia2stream_frame_seconds",
            f"Work on one frame, {FRAME_MS} ms of audio: a step's time over its frames",
            buckets=_FRAME_TIMES,
            registry=registry,
        )
        self.batch_size = Histogram(
            "dia2stream_batch_size", "Rows that a step's batch has", buckets=_BATCH_SIZES, registry=registry
        )
        self._recent: deque[StepReport] = deque(maxlen=200)

    def stepped(self, step: StepReport) -> None:
        """Counts a step of the engine. The engine's thread calls it."""
        self._recent.append(step)
        self.batch_size.observe(step.batch_size)
        if step.frames:
            self.frame_time.observe(step.seconds / step.frames)

    def refusal(self, reason: str, message: str) -> CommandError:
        """The error for a client that gets no slot, counted. reason: one of REFUSALS."""
        self.refusals.labels(reason).inc()
        return CommandError("busy", message)

    def idle(self) -> None:
        """Called when the engine has nothing to do; there is nothing to count."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for one second of audio, over the last 200 steps, lead-ins included; 0 without any frame."""
        recent = list(self._recent)
        audio = sum(step.frames for step in recent) * FRAME_MS / 1000
        return sum(step.seconds for step in recent) / audio if audio else 0.0

    @property
    def worst_margin(self) -> float | None:
        """The least time that a listener had left at one of the last 200 steps; None if nobody was listening."""
        return min((step.margin for step in list(self._recent) if step.margin is not None), default=None)

    def observe(self, gauges: Callable[[], Iterable[Reading]], counters: Callable[[], Iterable[Reading]]) -> None:
        """Has these functions called at every scrape, for gauges and counters."""
        self.registry.register(_Lookup(gauges, counters))

    def text(self) -> bytes:
        """The answer to GET /metrics."""
        return generate_latest(self.registry)


class _Lookup(Collector):
    def __init__(self, gauges: Callable[[], Iterable[Reading]], counters: Callable[[], Iterable[Reading]]) -> None:
        self._gauges, self._counters = gauges, counters

    def collect(self) -> Iterable[Metric]:
        for name, about, value in self._gauges():
            yield GaugeMetricFamily(f"dia2stream_{name}", about, value=value)
        for name, about, value in self._counters():
            yield CounterMetricFamily(f"dia2stream_{name}", about, value=value)
