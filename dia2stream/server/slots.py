"""Who has which slot of the engine, who waits for one, and who gives way."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.options import ServeOptions
from dia2stream.protocol.messages import Error, Event
from dia2stream.server.conversations import Call, HangUp
from dia2stream.server.metrics import Metrics, Reading

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)

SEATS = 1
# A seat that is given back is free after a step of the model. Much longer means that there is no hope.
FREEING_SECONDS = 10.0
CLOSE_SECONDS = 2.0  # for a client to answer that we close


class Seats:
    """Who sits where: calls with a client, and calls that wait for theirs to come back."""

    def __init__(self, options: ServeOptions, metrics: Metrics) -> None:
        self.engine: Engine | None = None
        self._options, self._metrics = options, metrics
        self._calls: dict[str, Call] = {}

    async def take(self, wanted: str | None, new_id: str) -> Call:
        """The call of that id, or a new one with the other. Raises CommandError `busy` when every seat is taken.

        Whoever has the id gets the call, also from a client that is still there: a client comes back sooner than a
        server notices that its old connection is dead.
        """
        call = self._calls.get(wanted or "")
        if call is not None and call.seated and not call.over:
            call.expected = True
            await call.leave(HangUp(1000, "the conversation goes on over another connection"))
            self._metrics.returned.inc()
            return call
        return await self._new_call(new_id)

    async def _new_call(self, id: str) -> Call:
        assert self.engine is not None
        old = self._make_room()
        call = Call(id, self._metrics)
        self._calls[call.id] = call  # before anything is waited for: the seat is taken
        try:
            if old is not None:
                await old.leave(
                    HangUp(1013, "another client took the seat", Error("busy", "another client took the seat"))
                )
                await asyncio.wait_for(old.close(), FREEING_SECONDS)
            call.open(self.engine, self._options.max_lead_ms)
        except asyncio.TimeoutError:
            del self._calls[call.id]
            raise CommandError("busy", "the seat is not free yet") from None
        except BaseException:
            del self._calls[call.id]
            raise
        self._metrics.clients.inc()
        return call

    def _make_room(self) -> Call | None:
        """Takes a seat from whoever needs it least, if all are taken. Raises CommandError when all need theirs."""
        if len(self._calls) < SEATS:
            return None
        idle = [call for call in self._calls.values() if self._gives_way(call)]
        if not idle:
            raise CommandError("busy", f"every seat is taken: this server speaks {SEATS} conversation at a time")
        return self._calls.pop(min(idle, key=lambda call: call.since).id)

    def _gives_way(self, call: Call) -> bool:
        silent = not call.begun and time.monotonic() - call.since > self._options.linger
        return call.seated and (call.over or not call.connected or silent)

    def leave(self, call: Call) -> None:
        """Its client is gone: the call waits for it to come back, if it has anything to wait for."""
        if call.expected:
            return
        if call.over or not call.begun:
            self._forget(call)
        elif call.id in self._calls:
            asyncio.get_running_loop().call_later(self._options.linger, self._expire, call, call.since)

    def _expire(self, call: Call, since: float) -> None:
        if not call.connected and call.since == since:
            _log.info("conversation forgotten", extra={"conversation": call.id[:6]})
            self._forget(call)

    def _forget(self, call: Call) -> None:
        """Gives the engine's seat back; it counts as taken until it is."""
        if self._calls.get(call.id) is call:
            closing = asyncio.create_task(call.close())
            closing.add_done_callback(lambda _: self._calls.pop(call.id, None))

    # ---- All of them at once ----

    @property
    def connected(self) -> int:
        """How many clients are there."""
        return sum(call.connected for call in self._calls.values())

    @property
    def speaking(self) -> bool:
        """Whether a client waits for something that was asked for."""
        return any(call.speaking for call in self._calls.values())

    def tell(self, event: Event) -> None:
        """Sends every client an event."""
        for call in self._calls.values():
            call.tell(event)

    async def clear(self, how: HangUp) -> None:
        """Closes every connection."""
        leaving = [asyncio.ensure_future(call.leave(how)) for call in self._calls.values()]
        if leaving:
            await asyncio.wait(leaving, timeout=CLOSE_SECONDS)

    async def close(self) -> None:
        """Ends every conversation and the engine; does not wait for one that is stuck."""
        if self.engine is not None:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            loop, engine = asyncio.get_running_loop(), self.engine

            def end() -> None:
                engine.close()
                with contextlib.suppress(RuntimeError):  # it took too long, and the loop is closed
                    loop.call_soon_threadsafe(settle, ended)

            threading.Thread(target=end, name="close", daemon=True).start()
            await asyncio.wait({ended}, timeout=FREEING_SECONDS)

    # ---- What Prometheus asks ----

    def gauges(self) -> Iterable[Reading]:
        """Figures of this moment."""
        calls = [call for call in self._calls.values() if call.seated]
        outboxes = [call.session.conversation.outbox for call in calls if call.connected]
        now = time.monotonic()
        yield "ready", "Whether the model is loaded", self.engine is not None
        yield "seats", "Conversations that fit at once", SEATS
        yield "seats_taken", "Clients that are there", self.connected
        yield "lingering", "Conversations that wait for their client", len(calls) - self.connected
        yield "real_time_factor", "Work for a second of audio, in seconds, of late", self._metrics.real_time_factor
        lead = max([outbox.lead_ms(now) for outbox in outboxes], default=0.0)
        yield "lead_seconds", "Audio sent ahead of playback", lead / 1000
        yield "queue_frames", "Frames made and not sent", sum(outbox.waiting for outbox in outboxes)
        yield "queue_words", "Words that wait to be spoken", sum(call.session.queued_words for call in calls)
        if self.engine is not None:
            yield "gpu_memory_bytes", "Held on the GPU by this process", _gpu_memory(self.engine)

    def counters(self) -> Iterable[Reading]:
        """Totals that the engine keeps."""
        if self.engine is None:
            return
        stats = self.engine.stats
        yield "steps", "Steps of the model", stats.steps
        yield "frames", f"Frames made, {FRAME_MS} ms each", stats.frames
        yield "failures", "Steps and commands that failed", stats.failures
        yield "rollovers", "Contexts rebuilt because they were full", self.engine.rollovers


def settle(waited_for: "asyncio.Future[None]") -> None:
    if not waited_for.done():
        waited_for.set_result(None)


def _gpu_memory(engine: "Engine") -> float:
    if engine.checkpoint.device.type != "cuda":
        return 0.0
    import torch

    return float(torch.cuda.memory_reserved(engine.checkpoint.device))
