"""Who has a slot: conversations that outlive their connections, who comes back, who gives way."""

import asyncio
import concurrent.futures
import json
import statistics
import time
from types import SimpleNamespace

import pytest
from serving import (
    LONG,
    SHORT,
    Serve,
    hear,
    on_loop,
    sound,
    take_slot,
)
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dia2stream.client import connect
from dia2stream.errors import CommandError
from dia2stream.options import ServeOptions
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import (
    Command,
    Error,
    Paused,
    Reset,
    ResetDone,
    Resumed,
    WordEvent,
    parse_event,
)
from dia2stream.server import slots as slots_module
from dia2stream.server.connection import ClientGone
from dia2stream.server.conversations import GONE, TAKEN_OVER, HangUp, ServedConversation
from dia2stream.server.endpoint import OwnProtocol
from dia2stream.server.holds import HOLD_SECONDS, Holds, here
from dia2stream.server.keeping import KeepingJournal
from dia2stream.server.metrics import Metrics
from dia2stream.server.slots import RETURN_SECONDS, Slots
from dia2stream.server.websocket_client import WebSocketClient


@on_loop
async def test_of_twenty_clients_one_speaks_and_nineteen_are_told_at_once(server):
    async def arrive():
        began = time.monotonic()
        try:
            return await connect(server.url), time.monotonic() - began
        except CommandError as error:
            return error, time.monotonic() - began

    def check():
        began = time.monotonic()
        server.get("/healthz")
        return time.monotonic() - began

    async with await take_slot(server) as client:
        await client.start(LONG, seed=4)
        await hear(client, Audio)
        refused, checks = zip(*[(await arrive(), check()) for _ in range(10)], strict=True)
        assert {error.code for error, _ in refused} == {"busy"}
        health = statistics.median(checks)  # a few ms, and on a busy machine as much more as a refusal takes
        assert statistics.median(seconds for _, seconds in refused) < max(0.05, 5 * health)
        await client.reset()
    came = await asyncio.gather(*[arrive() for _ in range(20)])
    [(first, _)] = [(who, at) for who, at in came if not isinstance(who, CommandError)]
    async with first as client:
        await client.start(SHORT, seed=4)
        await hear(client)
    assert max(seconds for _, seconds in came) < max(2, 20 * 5 * health)


@on_loop
async def test_a_program_is_told_busy_by_503_and_a_browser_by_an_event_and_1013(server):
    async with await take_slot(server):
        with pytest.raises(InvalidStatus) as refused:
            await open_websocket(server.url)
        answer = refused.value.response
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert parse_event(answer.body).code == "busy"
        page = {"Origin": f"http://127.0.0.1:{server.port}"}
        for url, headers in ((server.url, page), (f"{server.url}/?busy=event", {})):
            async with open_websocket(url, additional_headers=headers) as second:
                assert parse_event(await second.recv()) == parse_event(answer.body)
                with pytest.raises(ConnectionClosed) as closed:
                    await second.recv()
            assert closed.value.rcvd.code == 1013


@on_loop
async def test_a_dropped_conversation_is_picked_up_without_a_sample_lost(server):
    async with await take_slot(server) as client:
        await client.start(LONG[:70], id="a", seed=5)
        whole = await hear(client)
    client = await take_slot(server)
    await client.start(LONG[:70], id="a", seed=5)
    heard = await hear(client, lambda item: client.received_ms >= 800)
    had = client.received_ms
    client.socket.transport.abort()
    async with await take_slot(server, conversation=client.ready.conversation, received_ms=had) as back:
        assert back.ready.conversation == client.ready.conversation
        heard += await hear(back, Paused)
        assert heard[-1].heard_ms == back.received_ms >= had
        await back.resume()
        heard += await hear(back)
    assert sound(heard) == sound(whole)
    assert heard[-1] == whole[-1]
    words = dict.fromkeys(item for item in heard if isinstance(item, WordEvent))
    assert list(words) == [item for item in whole if isinstance(item, WordEvent)]


@pytest.mark.parametrize(
    ("encoding", "rate"), [("pcm16", 8000), ("mulaw", 8000), ("alaw", 16000), ("pcm16", 16000), ("mulaw", 24000)]
)
@on_loop
async def test_the_bytes_after_a_reconnect_are_those_of_an_undisturbed_connection(server, encoding, rate):
    """Telephone bots reconnect at every interruption: a resampler that began anew would click each time."""
    form = {"encoding": encoding, "sample_rate": rate}
    async with await take_slot(server, **form) as client:
        await client.start(LONG[:70], seed=5)
        whole = await hear(client)
    client = await take_slot(server, **form)
    await client.start(LONG[:70], seed=5)
    heard = await hear(client, lambda item: client.received_ms >= 400)
    for received in (400.0, 640.0):
        name, had = client.ready.conversation, client.received_ms
        client.socket.transport.abort()
        client = await take_slot(server, conversation=name, received_ms=had, **form)
        heard += await hear(client, Paused)
        await client.resume()
        heard += await hear(client, lambda item, c=client, ms=received: c.received_ms >= ms)
    heard += await hear(client)
    await client.close()
    assert sound(heard) == sound(whole)


@on_loop
async def test_the_clock_is_right_also_for_who_comes_back_without_what_was_sent_before_an_interruption(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 1600)
    had = client.received_ms - 400
    await client.pause(played_ms=800)
    await client.inject("[S2] Something else.", id="else")
    await hear(client, lambda item: isinstance(item, WordEvent) and item.id == "else")
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation, received_ms=had) as back:
        items = await hear(back, Paused)
        assert items[-1].heard_ms == back.received_ms
        assert "Something" in [item.word for item in items if isinstance(item, WordEvent)]
        assert sound(items)[: 5 * 3840] == bytes(5 * 3840)
        await back.resume()
        assert (await hear(back))[-1].audio_ms == back.received_ms


@on_loop
async def test_who_comes_back_after_too_long_is_told(impatient):
    client = await take_slot(impatient)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 12_000)
    await client.close()
    async with await take_slot(impatient, conversation=client.ready.conversation, received_ms=80) as back:
        items = await hear(back, Error)
        assert (items[-1].code, items[-1].field) == ("bad_field", "received_ms")
        assert "received_ms 80 is too long ago" in items[-1].message
        await back.reset()
        await hear(back, ResetDone)


@on_loop
async def test_who_comes_back_may_rewind_to_what_was_heard_and_say_something_else(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 1600)
    await client.close()
    async with await take_slot(
        server, conversation=client.ready.conversation, encoding="mulaw", sample_rate=8000
    ) as back:
        assert isinstance(await back.receive(), Paused)
        await back.pause(played_ms=800)
        paused = await back.receive()
        assert paused.heard_ms == 800
        assert paused.pending
        await back.inject("[S2] Something else.", id="else")
        items = await hear(back)
    assert [item.word for item in items if isinstance(item, WordEvent)] == ["Something", "else."]
    assert items[-1].id == "else"


@on_loop
async def test_a_pause_before_the_drop_is_what_the_client_comes_back_to(server):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 800)
    await client.pause(played_ms=400)
    paused = (await hear(client, Paused))[-1]
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation) as back:
        assert await back.receive() == paused
        await back.reset()
        assert not [item for item in await hear(back, ResetDone) if isinstance(item, Paused)]  # it is told once


@pytest.mark.parametrize("refused", [{"cmd": "inject", "text": "a " * 2001}, {"cmd": "pause", "played_ms": -1}])
@on_loop
async def test_a_command_that_was_refused_in_a_pause_changes_nothing_about_where_it_stopped(server, refused):
    client = await take_slot(server)
    await client.start(LONG, seed=6)
    await hear(client, lambda item: client.received_ms >= 800)
    await client.pause(played_ms=400)
    paused = (await hear(client, Paused))[-1]
    await client.socket.send(json.dumps(refused))
    assert (await hear(client, Error))[-1].cmd == refused["cmd"]
    await client.close()
    async with await take_slot(server, conversation=client.ready.conversation) as back:
        await back.reset()
        assert {item for item in await hear(back, ResetDone) if isinstance(item, Paused)} == {paused}


# --- who gives way ---


@on_loop
async def test_a_conversation_that_lost_its_client_has_its_slot_for_ten_seconds_and_then_gives_way():
    with Serve(linger=60) as server:
        client = await take_slot(server)
        await client.start(LONG, seed=7)
        await hear(client, Audio)
        began = time.monotonic()
        await client.close()
        with pytest.raises(CommandError, match="every slot is taken"):
            await connect(server.url)
        async with await connect(server.url, conversation=client.ready.conversation) as back:  # in time
            assert back.ready.conversation == client.ready.conversation
        async with await connect(server.url, wait=30) as other:
            assert time.monotonic() - began > RETURN_SECONDS - 1
            assert other.ready.conversation != client.ready.conversation
            await other.start(SHORT, seed=7)
            await hear(other)
            await other.hang_up()
        began = time.monotonic()
        async with await take_slot(server):  # nobody comes back to what was forgotten
            assert time.monotonic() - began < RETURN_SECONDS / 2


@on_loop
async def test_a_client_that_idles_gives_way_to_one_that_waits_and_one_that_is_active_does_not():
    with Serve(idle_seconds=3, max_lead_ms=200) as server:
        async with await take_slot(server) as forgotten:
            await forgotten.start(LONG, seed=7)
            refused = 0
            while refused < 5:  # for longer than it may idle, it hears audio
                with pytest.raises(CommandError, match="every slot is taken"):
                    await connect(server.url, wait=1)
                refused += 1
            began = time.monotonic()
            await forgotten.pause()
            async with await connect(server.url, wait=30) as other:
                assert time.monotonic() - began > 2
                await other.start(SHORT)
                told = await hear(forgotten, Error)
                assert (told[-1].code, told[-1].message) == ("busy", "another client took the slot")


@on_loop
async def test_clients_wait_in_line_first_come_first_served(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=7)
        came: list[int] = []

        async def wait(number: int, seconds: float) -> None:
            async with await connect(server.url, wait=seconds) as next_one:
                came.append(number)
                await next_one.start(SHORT, seed=number)
                await hear(next_one)
                await next_one.hang_up()

        def in_line(count: int) -> bool:
            return server.metric("dia2stream_waiting") == count

        line = []
        for number in range(3):
            line.append(asyncio.create_task(wait(number, 25)))
            await asyncio.to_thread(server.until, lambda n=number: in_line(n + 1))
        began = time.monotonic()
        with pytest.raises(CommandError, match="every slot is taken"):
            await connect(server.url, wait=0.5)
        assert time.monotonic() - began >= 0.5
        line[1].cancel()  # who goes is not waited for
        await asyncio.to_thread(server.until, lambda: in_line(2))
        await client.hang_up()
    await asyncio.gather(line[0], line[2])
    assert came == [0, 2]


@on_loop
async def test_nobody_waits_longer_than_the_server_lets():
    with Serve(queue_seconds=0.5) as server:
        async with await take_slot(server):
            began = time.monotonic()
            with pytest.raises(CommandError, match="every slot is taken"):
                await connect(server.url, wait=60)
            assert 0.4 < time.monotonic() - began < 20


@on_loop
async def test_a_conversation_is_gone_after_linger_and_the_client_gets_a_new_one(impatient):
    client = await take_slot(impatient)
    await client.start(LONG, seed=7)
    await hear(client, Audio)
    await client.close()
    for lingering in (1, 0):
        await asyncio.to_thread(impatient.until, lambda n=lingering: impatient.metric("dia2stream_lingering") == n)
    async with await take_slot(impatient, conversation=client.ready.conversation) as other:
        assert other.ready.conversation != client.ready.conversation
        error = await other.receive()
        assert (error.code, error.field) == ("no_session", "conversation")


@on_loop
async def test_who_has_the_id_takes_the_conversation_over_from_a_connection_that_may_be_dead(server):
    async with await take_slot(server) as client:
        await client.start(LONG, seed=7)
        await hear(client, Audio)
        async with await connect(server.url, conversation=client.ready.conversation) as other:
            assert other.ready.conversation == client.ready.conversation
            assert isinstance(await other.receive(), Paused)
            await other.reset()
        async for _ in client:
            pass
        assert client.socket.close_code == 1000


@on_loop
async def test_a_client_that_never_speaks_gives_way_after_a_while(impatient):
    async with await take_slot(impatient) as client:
        with pytest.raises(CommandError, match="every slot is taken"):
            await connect(impatient.url)
        async with await take_slot(impatient) as other:
            await other.start(SHORT)
            await hear(other)
        assert isinstance(await client.receive(), Error)


@on_loop
async def test_a_slot_that_is_still_being_freed_is_nobodys():
    """A client waits for it: who asks for that client's conversation, or stops the server, finds nobody there yet."""
    free = asyncio.Event()
    slots = Slots(ServeOptions(), Metrics())
    slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=free.wait))
    old = await slots.take(None, "old")
    slots.leave(old, returns=False)
    waiting = asyncio.create_task(slots.take(None, "new"))
    await asyncio.sleep(0)
    assert not slots.speaking
    with pytest.raises(CommandError, match="every slot is taken"):
        await slots.take("new", "another")
    free.set()
    assert (await waiting).conversation.id == "new"


@on_loop
async def test_a_server_that_stops_hands_a_conversation_over_while_another_client_does_not_leave():
    slots, ended = slots_of(2), []
    slots.keeping.end = lambda served, delete: ended.append((served.id, delete))
    quick, slow = [(await slots.take(None, id)).conversation for id in ("quick", "slow")]
    stays = asyncio.Event()

    async def leave(how) -> None:
        await stays.wait()

    slow.leave = leave
    clearing = asyncio.create_task(slots.clear(HangUp(1012, "the server stops"), hands_over=True))
    await asyncio.sleep(0.02)
    assert ended == [(quick.id, False)]
    stays.set()
    await clearing
    assert ended == [(quick.id, False), (slow.id, False)]


class FetchesAnything(KeepingJournal):
    """A journal that has every conversation."""

    def __init__(self) -> None:
        self.taken, self.given_back = object(), []

    async def take_over(self, *_):
        return self.taken

    async def give_back(self, taken):
        self.given_back.append(taken)

    def end(self, served, delete): ...


@on_loop
async def test_a_conversation_from_elsewhere_for_which_no_slot_is_freed_in_time_is_left_to_others(monkeypatch):
    monkeypatch.setattr(slots_module, "FREEING_SECONDS", 0.01)
    slots = Slots(ServeOptions(), Metrics(), 1)
    slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=asyncio.Event().wait))
    slots.leave(await slots.take(None, "old"), returns=False)
    slots.keeping = keeping = FetchesAnything()
    with pytest.raises(CommandError, match="the slot is not free yet"):
        await slots.take("a", "new")
    assert keeping.given_back == [keeping.taken]


@on_loop
async def test_a_conversation_that_is_over_gives_its_slot_back_also_when_its_client_has_come_again_by_its_name():
    ended = []

    def session(**_):
        async def end() -> None:
            ended.append(new)

        new = SimpleNamespace(ended=False, aclose=end)
        return new

    slots = slots_of(2)
    slots.engine = SimpleNamespace(conversation=session)
    first = await slots.take("a", "a")
    first.conversation.session.ended = True  # the model has failed
    second = await slots.take("a", "a")
    assert second.conversation is not first.conversation
    slots.leave(first)
    await asyncio.sleep(0.01)
    assert ended == [first.conversation.session]


@on_loop
async def test_who_comes_to_a_conversation_that_is_leaving_this_server_has_it_fetched_once_it_has_left():
    """It has been asked for by another client, who came by another server or was quicker at this one."""

    class Keeping(FetchesAnything):
        def go_on(self, served, taken, engine, max_lead_ms):
            served.open(engine, max_lead_ms)

    slots, left = slots_of(2), asyncio.Event()
    served = (await slots.take("a", "a")).conversation

    async def leave(how) -> None:
        await left.wait()

    served.leave = leave
    slots.lose(served)
    slots.keeping = Keeping()
    coming = asyncio.create_task(slots.take("a", "new"))
    await asyncio.sleep(0.02)
    assert not coming.done()
    left.set()
    assert (await coming).conversation is not served
    assert served.over


@on_loop
async def test_two_clients_who_come_by_one_name_at_the_same_time_get_one_conversation():
    free = asyncio.Event()
    slots = Slots(ServeOptions(), Metrics(), 2)
    slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=free.wait))
    for old in [await slots.take(None, name) for name in ("old", "older")]:
        slots.leave(old, returns=False)
    coming = [asyncio.create_task(slots.take("key", "key")) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    free.set()
    first, second = await asyncio.gather(*coming)
    assert first.conversation is second.conversation


# ---- Slots that are kept for clients on their way ----


def slots_of(count):
    async def end() -> None: ...

    slots = Slots(ServeOptions(), Metrics(), count)
    slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=end))
    return slots


@on_loop
async def test_a_kept_slot_is_nobodys_but_its_clients_and_a_server_is_full_with_it():
    slots = slots_of(2)
    await slots.take(None, "first")
    assert [slots.hold("coming") for _ in range(2)] == [True, True]  # asked twice, kept once
    assert (slots.free, slots.hold("another")) == (0, False)
    with pytest.raises(CommandError, match="every slot is taken"):
        await slots.take(None, "unannounced")
    with here("coming"):
        assert (await slots.take(None, "second")).conversation.id == "second"
    assert (slots.free, slots.holds.count) == (0, 0)


@on_loop
async def test_a_kept_slot_is_taken_though_the_server_has_begun_to_refuse_newcomers():
    slots = slots_of(2)
    assert slots.hold("coming")
    slots.admits = lambda: "too much goes on"
    assert not slots.hold("another")
    with pytest.raises(CommandError, match="too much goes on"):
        await slots.take(None, "unannounced")
    with here("coming"):
        await slots.take(None, "first")


@on_loop
async def test_who_waits_in_line_gets_the_slot_that_is_given_back_and_not_who_comes_later():
    slots = slots_of(1)
    assert slots.hold("coming")
    waiting = asyncio.create_task(slots.take(None, "waiting", wait=60))
    await asyncio.sleep(0)
    assert not slots.hold("later")
    slots.let_go("coming")
    assert (await waiting).conversation.id == "waiting"
    assert not slots.hold("later")


async def cancelled_after(turns, task):
    """Cancels a task after so many turns of the event loop. Returns whether it has ended by that."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=1)
    return task.cancelled()


@pytest.mark.parametrize("turns", range(7))
def test_who_is_cancelled_just_as_the_line_moves_waits_no_longer(turns):
    @on_loop
    async def check() -> None:
        slots = slots_of(1)
        assert slots.hold("coming")
        ahead = asyncio.create_task(slots.take(None, "ahead", wait=60))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(slots.take(None, "waiting", wait=60))
        await asyncio.sleep(0.01)
        ahead.cancel()  # which moves the line
        assert await cancelled_after(turns, waiting)
        slots.let_go("coming")
        await slots.take(None, "another")

    check()


@pytest.mark.parametrize("turns", range(6))
def test_who_is_cancelled_just_as_a_slot_is_freed_for_it_does_not_keep_the_slot(turns):
    @on_loop
    async def check() -> None:
        free = asyncio.Event()
        slots = Slots(ServeOptions(), Metrics())
        slots.engine = SimpleNamespace(conversation=lambda **_: SimpleNamespace(ended=False, aclose=free.wait))
        slots.leave(await slots.take(None, "old"), returns=True)
        coming = asyncio.create_task(slots.take(None, "new"))
        await asyncio.sleep(0.01)
        free.set()
        if await cancelled_after(turns, coming):
            await slots.take(None, "another")
        else:
            assert coming.done(), "whoever was cancelled later has the conversation"

    check()


@on_loop
async def test_who_comes_back_to_its_conversation_needs_no_kept_slot():
    slots = slots_of(2)
    await slots.take(None, "mine")
    assert slots.hold("back")
    with here("back"):
        await slots.take("mine", "new")
    assert slots.free == 1


@on_loop
async def test_a_server_that_stops_waits_for_those_whom_it_has_promised_a_slot():
    slots = slots_of(2)
    assert slots.hold("coming")
    stopping = asyncio.create_task(slots.close_holds())
    await asyncio.sleep(0)
    assert not slots.hold("later")
    assert not stopping.done()
    slots.let_go("coming")
    await stopping


def test_a_slot_is_kept_for_a_few_seconds_at_most():
    now = 0.0
    holds = Holds(lambda: now)
    holds.keep("coming")
    now = HOLD_SECONDS + 0.1
    assert (holds.count, "coming" in holds, holds.give_back("coming")) == (0, False, False)


def hung_up() -> WebSocketClient:
    """A client whose `reset` is on its way to the reader when sending finds that it is gone."""
    said = [{"type": "websocket.disconnect"}, {"type": "websocket.receive", "text": '{"cmd": "reset"}'}]

    async def receive():
        await asyncio.sleep(0.01)
        return said.pop()

    async def send(message):
        raise ClientGone("it is gone")

    return WebSocketClient({}, receive, send, None, OwnProtocol())


@on_loop
async def test_what_a_client_said_before_it_went_is_obeyed_though_sending_finds_first_that_it_is_gone():
    obeyed: list[Command] = []
    served = ServedConversation("a", Metrics())
    served.session = SimpleNamespace(  # type: ignore[assignment]
        submit=obeyed.append, say_where=lambda: None, stand_still=lambda: None, behind=0.0, ended=False
    )
    served.begun = True
    assert await served.serve(served.take(), hung_up(), Resumed()) == GONE
    assert obeyed == [Reset()]
    assert not served.begun


@on_loop
async def test_who_comes_while_a_conversation_arrives_from_elsewhere_waits_for_it_too_and_is_served_alone():
    """A client whose connection broke at once comes back sooner than the conversation is here."""
    adopted: concurrent.futures.Future[None] = concurrent.futures.Future()
    outbox = SimpleNamespace(sent=5)
    revived = SimpleNamespace(lead_in=None, behind=0, conversation=SimpleNamespace(outbox=outbox))
    served, asked = ServedConversation("a", Metrics()), []
    served.open(
        SimpleNamespace(  # type: ignore[arg-type]
            conversation=lambda **_: SimpleNamespace(
                adopt=lambda _: adopted,
                say_where=lambda: asked.append(served.clock_ms),
                stand_still=lambda: None,
                submit=lambda _: None,
                behind=0.0,
                ended=False,
            )
        ),
        None,
        taken=SimpleNamespace(revived=revived, lease_seconds=0.0, read_seconds=0.0),  # type: ignore[arg-type]
    )
    serving = []
    for _ in range(2):
        claim = served.take()
        await served.leave(TAKEN_OVER)
        serving.append(asyncio.create_task(served.serve(claim, hung_up(), Resumed())))
        await asyncio.sleep(0.01)
    assert asked == []
    adopted.set_result(None)
    assert await asyncio.gather(*serving) == [TAKEN_OVER, GONE]
    assert asked == [400]
