"""Who has which slot of the engine, who waits for one, and who gives way."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.options import ServeOptions
from dia2stream.protocol.messages import Error, Event
from dia2stream.server import keeping
from dia2stream.server.connection import ClientGone
from dia2stream.server.conversations import TAKEN_OVER, Claim, ClientConnection, HangUp, ServedConversation, new_id
from dia2stream.server.holds import HOLD_SECONDS, Holds, arrived
from dia2stream.server.keeping import Keeping, KeepingJournal, KeepingNothing
from dia2stream.server.metrics import Metrics, Reading
from dia2stream.waits import within

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine
    from dia2stream.journal.journal import Taken

_log = logging.getLogger(__name__)
_GAVE_WAY = HangUp(1013, "another client took the slot", Error("busy", "another client took the slot"))

# A slot that is given back is free after the step that is running. If that takes longer, the engine hangs.
FREEING_SECONDS = 10.0
CLOSE_SECONDS = 2.0  # for a client to answer that we close
# Agent frameworks drop the connection at every interruption and come back at once: so long their slot is theirs alone.
RETURN_SECONDS = 10.0
MAX_WAITING = 256  # clients in the line
MAX_FORKS = 4  # of one conversation, to which nobody has come yet
LOOK_SECONDS = 0.2  # how often the first in the line looks whether somebody gives way


class Slots:
    """Which conversations have a slot: those with a client, and those whose client may come back.

    admits: says why one more conversation would be one too many although there is a slot; None when it would not.
    """

    def __init__(self, options: ServeOptions, metrics: Metrics, count: int = 1) -> None:
        self.engine: Engine | None = None
        self.count = count
        self.keeping: Keeping = KeepingNothing()
        self.holds = Holds()
        self.admits: Callable[[], str | None] = lambda: None
        self._options, self._metrics = options, metrics
        self.forks = 0  # conversations that were copied
        self._served: dict[str, ServedConversation] = {}
        self._line: deque[object] = deque()  # who waits for a slot, first come first
        self._changed = asyncio.Event()

    async def take(
        self,
        wanted: str | None,
        fresh: str,
        wait: float = 0.0,
        client: ClientConnection | None = None,
        paced: bool = True,
    ) -> Claim:
        """The conversation `wanted`, or a new one named `fresh`.

        Whoever knows the id gets the conversation, even while another client is connected to it: a client whose
        connection broke comes back sooner than the server notices the broken connection.

        wait: for how many seconds at most, while that client is there. paced: whether a new one keeps to the listener's
        pace. Raises CommandError `busy`, ClientGone.
        """
        while (served := self._served.get(fresh)) is not None and wanted == fresh and not served.has_slot:
            await asyncio.sleep(0.002)  # another client of the same name is about to have its slot
        served = self._served.get(wanted or "")
        if served is not None and served.has_slot and not served.over:
            claim = served.take()
            self.let_go(arrived())
            await served.leave(TAKEN_OVER)
            self._metrics.returned.inc()
            return claim
        taken = await self._take_over(wanted, client, paced)
        try:
            if taken is not None:
                await self._until_left(cast(str, wanted))
            if self._was_kept():
                old = self._make_room()
            else:
                old = await self._wait_for_room(min(wait, self._options.queue_seconds), client)
        except BaseException:
            await self._give_back(taken)
            raise
        return await self._begin(fresh if taken is None else cast(str, wanted), old, paced, taken)

    async def _take_over(self, wanted: str | None, client: ClientConnection | None, paced: bool) -> "Taken | None":
        """The conversation, if another server had it. Raises CommandError `busy` where that cannot be known yet."""
        if wanted is None or self.engine is None or not isinstance(self.keeping, KeepingJournal):
            return None
        received_ms = None if client is None else client.received_ms
        return await self.keeping.take_over(
            wanted, self.engine, received_ms, self._options.max_lead_ms if paced else None
        )

    async def _give_back(self, taken: "Taken | None") -> None:
        """It was another server's, and there is no room for it here."""
        if taken is not None and isinstance(self.keeping, KeepingJournal):
            await self.keeping.give_back(taken)

    def lose(self, served: ServedConversation) -> None:
        """Another server has the conversation."""
        served.lost, served.begun = True, False  # nobody can come back to it here
        leaving = asyncio.ensure_future(served.leave(TAKEN_OVER))
        leaving.add_done_callback(lambda _: self._forget(served))

    async def _until_left(self, id: str) -> None:
        """Waits until a conversation of that id has left, which was served here before. Raises CommandError `busy`."""
        deadline = time.monotonic() + FREEING_SECONDS
        while id in self._served:
            if time.monotonic() > deadline:
                raise self._metrics.refusal("slots", "the slot is not free yet")
            await asyncio.sleep(0.002)

    async def _wait_for_room(self, seconds: float, client: ClientConnection | None) -> ServedConversation | None:
        """Stands in line. Returns the conversation that gives way, if one has to. Raises CommandError, ClientGone."""
        if len(self._line) >= MAX_WAITING:
            raise self._metrics.refusal("line", f"{MAX_WAITING} clients wait for a slot already")
        me, deadline = object(), time.monotonic() + seconds
        self._line.append(me)
        try:
            while True:
                refused = self._no_room() if self._line[0] is me else self._full()
                if refused is None:
                    return self._make_room()
                if (left := deadline - time.monotonic()) <= 0:
                    raise self._metrics.refusal(*refused)
                self._changed.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(min(left, LOOK_SECONDS), self._changed.wait())
                if client is not None and not client.open:
                    raise ClientGone("the client has not waited")
        finally:
            self._line.remove(me)
            self._changed.set()

    async def _begin(
        self,
        id: str,
        old: ServedConversation | None,
        paced: bool,
        taken: "Taken | None" = None,
        is_fork: bool = False,
    ) -> Claim:
        assert self.engine is not None
        served = ServedConversation(id, self._metrics)
        served.forks = self.fork
        claim = served.take()
        self._served[served.id] = served  # before anything is waited for: the slot is taken
        try:
            if old is not None:
                await self._free(old)
        except BaseException:
            self._drop(served)
            await self._give_back(taken)
            raise
        try:
            max_lead_ms = self._options.max_lead_ms if paced else None
            if taken is None or not isinstance(self.keeping, KeepingJournal):
                self.keeping.begin(served, self.engine, max_lead_ms, is_fork)
            else:
                self.keeping.go_on(served, taken, self.engine, max_lead_ms)
        except BaseException:
            self._drop(served)
            raise
        self._metrics.clients.inc(not is_fork)
        return claim

    async def _free(self, old: ServedConversation) -> None:
        """Waits until a conversation that gives way has left its slot. Raises CommandError."""
        await old.leave(_GAVE_WAY)
        try:
            await within(FREEING_SECONDS, old.close())
        except asyncio.TimeoutError:
            raise self._metrics.refusal("slots", "the slot is not free yet") from None

    async def fork(self, original: ServedConversation) -> None:
        """Copies a conversation into a free slot. The copy waits for a client, as one whose client has gone.

        Raises CommandError.
        """
        copies = sum(served.original == original.id for served in self._served.values())
        if copies >= MAX_FORKS:
            raise CommandError("busy", f"{copies} forks of this conversation wait for a client, of at most {MAX_FORKS}")
        if (refused := self._no_room()) is not None:
            raise self._metrics.refusal(*refused)
        claim = await self._begin(new_id(), self._make_room(), paced=True, is_fork=True)
        copy = claim.conversation
        copy.original, original.copies[copy.id] = original.id, copy
        try:
            await asyncio.wrap_future(original.session.fork_into(copy.session, copy.id))
        except BaseException:
            original.copies.pop(copy.id, None)
            self.leave(claim)
            raise
        self.forks += 1
        copy.begun = True
        self.leave(claim)

    # ---- Clients on their way ----

    def hold(self, request: str) -> bool:
        """Keeps a slot for the client of that request, if there is one: see holds.py. Returns whether it is kept.

        The slot of a conversation that gives way may be kept; if its client comes back first, there is none after all.
        """
        if request in self.holds:
            return True
        if self.holds.closed or self._line or not self.free:
            return False
        self.holds.keep(request)
        return True

    def let_go(self, request: str | None) -> None:
        """That request needs no slot, or needs none any more."""
        if request is not None and self.holds.give_back(request):
            self._changed.set()

    async def close_holds(self) -> None:
        """Keeps no more slots, and waits until those have arrived for whom one is kept."""
        self.holds.closed, deadline = True, time.monotonic() + HOLD_SECONDS
        while self.holds.count and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _was_kept(self) -> bool:
        """Whether a slot was kept for the request that is served here. From now on the slot is like any other."""
        request = arrived()
        return request is not None and self.holds.give_back(request) and self._room > 0

    # ---- Room ----

    @property
    def _room(self) -> int:
        """Slots that are neither taken, unless somebody gives way, nor kept."""
        return self.count - sum(not self._gives_way(served) for served in self._served.values()) - self.holds.count

    def _no_room(self) -> tuple[str, str] | None:
        """Why there is no slot, as `refusals` counts it and as the client is told; None when there is one, or somebody
        gives way.
        """
        if self._room <= 0:
            return self._full()
        if len(self._served) >= self.count:
            return None
        overload = self.admits()
        return None if overload is None else ("overload", overload)

    def _full(self) -> tuple[str, str]:
        many = "conversation" if self.count == 1 else "conversations"
        return "slots", f"every slot is taken: this server speaks {self.count} {many} at a time"

    def _make_room(self) -> ServedConversation | None:
        """Whoever needs its slot least, if all are taken."""
        if len(self._served) < self.count:
            return None
        idle = [served for served in self._served.values() if self._gives_way(served)]
        chosen = self._served.pop(min(idle, key=lambda served: served.since).id)
        self.keeping.end(chosen, delete=False)
        return chosen

    def _gives_way(self, served: ServedConversation) -> bool:
        """Whether somebody who waits may have its slot."""
        if not served.has_slot or served.awaited:
            return False
        if served.over:
            return True
        quiet = time.monotonic() - served.since
        if not served.connected:
            return quiet >= RETURN_SECONDS or not served.begun
        return not served.speaking and quiet >= (self._options.idle_seconds if served.begun else self._options.linger)

    def leave(self, claim: Claim, returns: bool = True) -> None:
        """Whoever has the claim is gone. Keeps the conversation for a while, if there is anything to come back to.

        returns: whether its client knows how to.
        """
        served = claim.conversation
        if not served.give_up(claim):
            return  # somebody else has taken it
        if served.over or not served.begun or not returns:
            self.keeping.end(served, delete=not served.over)
            self._forget(served)
        elif served.id in self._served:
            asyncio.get_running_loop().call_later(self._options.linger, self._expire, served, served.since)

    def _expire(self, served: ServedConversation, since: float) -> None:
        if not (served.connected or served.awaited) and served.since == since:
            _log.info("conversation forgotten", extra={"conversation": served.id[:6]})
            self.keeping.end(served, delete=True)
            self._forget(served)

    def _forget(self, served: ServedConversation) -> None:
        """Gives the engine's slot back; it counts as taken until it is, unless another one has its id already."""
        closing = asyncio.create_task(served.close())
        closing.add_done_callback(lambda _: self._drop(served))

    def _drop(self, served: ServedConversation) -> None:
        """It has no slot any more."""
        if self._served.get(served.id) is served:
            del self._served[served.id]
        self.keeping.end(served, delete=False)
        self._changed.set()

    # ---- All of them at once ----

    @property
    def connected(self) -> int:
        """How many clients are there."""
        return sum(served.connected for served in self._served.values())

    @property
    def free(self) -> int:
        """How many conversations could begin now: on slots that nobody has, and on those of clients that give way."""
        if self.engine is None or self.admits() is not None:
            return 0
        return max(0, self._room)

    @property
    def speaking(self) -> bool:
        """Whether a client waits for something that was asked for."""
        return any(served.speaking for served in self._served.values())

    def tell(self, event: Event) -> None:
        """Sends every client an event."""
        for served in self._served.values():
            served.tell(event)

    async def clear(self, how: HangUp, hands_over: bool = False) -> None:
        """Closes every connection. hands_over: each conversation may go on elsewhere as soon as its client has left."""

        async def clear(served: ServedConversation) -> None:
            await served.leave(how)
            if hands_over:
                self.keeping.end(served, delete=False)

        leaving = [asyncio.ensure_future(clear(served)) for served in self._served.values()]
        if leaving:
            await asyncio.wait(leaving, timeout=CLOSE_SECONDS)

    async def close(self, wait: bool = True) -> None:
        """Ends every conversation and the engine, and waits for that, though not for an engine that is stuck."""
        if self.engine is not None and wait:
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
        all_served = [served for served in self._served.values() if served.has_slot]
        outboxes = [served.session.conversation.outbox for served in all_served if served.connected]
        now = time.monotonic()
        yield from keeping.gauges(self.keeping)
        yield "ready", "Whether the model is loaded", self.engine is not None
        yield "slots", "Conversations that fit at once", self.count
        yield "slots_taken", "Slots whose client is connected", self.connected
        yield "slots_free", "Conversations that could begin now", self.free
        # The names of the release before this one; the next release drops them.
        yield "seats", "Old name of slots", self.count
        yield "seats_taken", "Old name of slots_taken", self.connected
        yield "waiting", "Clients that wait for a slot", len(self._line)
        turns = [served.session.conversation for served in all_served if served.session.conversation.speaking]
        starting = sum(turn.waits_since is not None for turn in turns)
        yield "starting", "Conversations whose turn nobody hears yet", starting
        yield "speaking", "Conversations whose turn is heard", len(turns) - starting
        if (margin := self._metrics.worst_margin) is not None:
            yield "margin_seconds", "Least time that a listener had left when a step began, of late", margin
        yield "lingering", "Conversations that wait for their client", len(all_served) - self.connected
        yield "real_time_factor", "Work for a second of audio, in seconds, of late", self._metrics.real_time_factor
        lead = max([outbox.lead_ms(now) for outbox in outboxes], default=0.0)
        yield "lead_seconds", "Audio sent ahead of playback", lead / 1000
        yield "queue_frames", "Frames made and not sent", sum(outbox.waiting for outbox in outboxes)
        yield "queue_words", "Words that wait to be spoken", sum(served.session.queued_words for served in all_served)
        if self.engine is not None:
            yield "gpu_memory_bytes", "Held on the GPU by this process", _gpu_memory(self.engine)
            blocks = self.engine.stepper.blocks
            yield "cache_blocks", "Blocks of the model's key/value cache", blocks.total
            yield "cache_blocks_taken", "Blocks that conversations have", blocks.taken

    def counters(self) -> Iterable[Reading]:
        """Totals that the engine and the journal keep."""
        yield from keeping.counters(self.keeping)
        if self.engine is None:
            return
        yield "forks", "Conversations copied", self.forks
        stats = self.engine.stats
        yield "steps", "Steps of the model", stats.steps
        yield "model_seconds", "Time for which the engine's thread ran or waited for the model", stats.device_seconds
        yield "host_seconds", "Time that the steps took on the engine's thread besides", stats.host_seconds
        yield "frames", f"Frames made, {FRAME_MS} ms each", stats.frames
        yield "failures", "Steps and commands that failed", stats.failures
        yield "rollovers", "Contexts rebuilt because they had no room left", self.engine.rollovers


def settle(waited_for: "asyncio.Future[None]") -> None:
    if not waited_for.done():
        waited_for.set_result(None)


def _gpu_memory(engine: "Engine") -> float:
    if engine.checkpoint.device.type != "cuda":
        return 0.0
    import torch

    return float(torch.cuda.memory_reserved(engine.checkpoint.device))
