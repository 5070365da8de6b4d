"""A conversation over as many connections as it takes: cut, interrupted, resumed, begun anew; with prepared replies."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from piping import PATIENCE
from serving import Serve, on_loop

from dia2stream.plugins.talk import Again, Lost, Sound, Talk
from dia2stream.protocol.messages import Done, Listen, Prepared, Ready, WordEvent

TEXT = "[S1] One two three four five six seven eight nine ten. "
LONG = TEXT * 6


class Relay:
    """Stands between a talk and a server, and can break what it carries. deaf: what clients send is lost."""

    def __init__(self, port: int) -> None:
        self.to_port, self.port, self.deaf = port, 0, False
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Relay":
        self._listener = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *rest: object) -> None:
        self._listener.close()
        await self.cut()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def cut(self) -> None:
        """Breaks every connection."""
        self.deaf = False
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self.to_port)
            writers.append(out)
            pumps = [self._pump(reader, out, from_client=True), self._pump(there, writer, from_client=False)]
            await asyncio.gather(*pumps)
        except OSError:
            pass
        finally:
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        while data := await reader.read(4096):
            if not (from_client and self.deaf):
                writer.write(data)
                await writer.drain()
        raise OSError("one end is gone")


class Servers:
    """A server, and another one that takes its place. All of them are ended at the end."""

    def __enter__(self) -> "Servers":
        self.now = Serve(max_lead_ms=1000)
        self._all = [self.now]
        return self

    def __exit__(self, *rest: object) -> None:
        for server in self._all:
            server.end()

    async def replace(self, relay: Relay, max_lead_ms: int) -> None:
        """The server dies with its connections. The relay leads to a new one, which knows nothing."""
        self.now.end()
        await relay.cut()
        self.now = await asyncio.to_thread(Serve, max_lead_ms=max_lead_ms)
        self._all.append(self.now)
        relay.to_port = self.now.port


@contextlib.asynccontextmanager
async def talking(server: Serve, **options: Any) -> AsyncIterator[tuple[Talk, Relay]]:
    async with Relay(server.port) as relay, Talk(relay.url, seed=3, **options) as talk:
        yield talk, relay


async def hear(talk: Talk, until: type[Any] | Callable[[Any], bool]) -> list[Any]:
    """Items up to the first of a type, or for which a function is true."""
    items: list[Any] = []
    ends = until if not isinstance(until, type) else lambda item: isinstance(item, until)

    async def collect() -> None:
        async for item in talk:
            items.append(item)
            if ends(item):
                return

    await asyncio.wait_for(collect(), PATIENCE)
    return items


def after(seconds: float) -> Callable[[Any], bool]:
    """True for the first sound that ends so late on the talk's clock."""
    return lambda item: isinstance(item, Sound) and item.at_ms + item.duration_ms >= seconds * 1000


def sound(items: list[Any]) -> bytes:
    return b"".join(item.pcm for item in items if isinstance(item, Sound))


def words(items: list[Any]) -> list[str]:
    return [item.word for item in items if isinstance(item, WordEvent)]


async def undisturbed(server: Serve, text: str = LONG) -> list[Any]:
    async with talking(server) as (talk, _):
        await talk.say("a", text, final=True)
        return await hear(talk, Done)


@on_loop
async def test_utterances_are_said_in_order_and_every_sound_and_word_says_whose_it_is(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", "One two ")
        await talk.say("b", "Four five six.", final=True)
        await talk.say("a", "three.", final=True)
        items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")
    assert [item.id for item in items if isinstance(item, Done)] == ["a", "b"]
    assert words(items) == ["One", "two", "three.", "Four", "five", "six."]
    ids = [item.id for item in items if isinstance(item, Sound)]
    assert ids == sorted(ids)
    assert {*ids} == {"a", "b"}
    clock = [(item.at_ms, item.duration_ms) for item in items if isinstance(item, Sound)]
    assert clock == [(80.0 * number, 80.0) for number in range(len(clock))]


@on_loop
async def test_an_end_closes_an_utterance_and_is_no_error_for_one_that_is_over(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", "One two")
        await talk.end("a")
        await hear(talk, Done)
        await talk.end("a")
        await talk.end("never")
        await talk.say("b", "Three.", final=True)
        assert words(await hear(talk, Done)) == ["Three."]


@on_loop
async def test_an_interruption_tells_what_was_heard_and_what_follows_is_said(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", LONG, final=True)
        await hear(talk, after(3))
        heard = await talk.interrupt(1600)
        assert heard is not None
        await talk.say("b", "Yes?", final=True)
        paused = await asyncio.wait_for(heard, PATIENCE)
        assert paused.heard_ms == 1600
        assert paused.spoken.split()[-1] in TEXT
        assert words(await hear(talk, Done))[-1:] == ["Yes?"]


@on_loop
async def test_an_interruption_of_nothing_is_none(impatient):
    async with talking(impatient) as (talk, _):
        assert await talk.interrupt(0) is None
        await talk.say("a", TEXT, final=True)
        await hear(talk, Done)
        assert await talk.interrupt(talk.received_ms) is None
        assert await talk.interrupt(talk.received_ms - 400) is not None


@on_loop
async def test_who_is_interrupted_again_before_more_was_said_has_heard_nothing_of_that(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", LONG, final=True)
        await hear(talk, after(2))
        first = await talk.interrupt(800)
        assert await talk.interrupt(800) is None
        assert first is not None
        assert (await asyncio.wait_for(first, PATIENCE)).heard_ms == 800
        assert await talk.interrupt(800) is None
        assert await talk.resume(), "the first interruption may still have been none"
        assert words(await hear(talk, Done))


@on_loop
async def test_each_interruption_is_told_what_was_heard_of_its_own_text(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", LONG, final=True)
        await hear(talk, after(2))
        told = [await talk.interrupt(800)]
        for text in ("Eleven twelve.", "Thirteen."):
            await talk.say(text, text, final=True)
            told.append(await talk.interrupt(800))
        pending = [(await asyncio.wait_for(heard, PATIENCE)).pending for heard in told if heard is not None]
        assert len(pending) == 3
        assert pending[0].split() == LONG.split()[-len(pending[0].split()) :]
        assert pending[1:] == ["Eleven twelve.", "Thirteen."]


@on_loop
async def test_text_that_was_not_sent_yet_is_not_said_after_an_interruption():
    with Serve(max_lead_ms=3_600_000) as server:
        async with Relay(9) as relay, Talk(relay.url) as talk:  # where nobody listens
            await talk.say("a", "One two.", final=True)
            heard = await talk.interrupt(0)
            assert heard is not None
            assert (heard.result().spoken, heard.result().pending) == ("", "One two.")
            assert await talk.interrupt(0) is None
            assert not await talk.resume()
            relay.to_port = server.port
            await talk.say("b", "Three.", final=True)
            assert words(await hear(talk, Done)) == ["Three."]


@on_loop
async def test_what_is_interrupted_while_the_connection_is_gone_is_never_said(impatient):
    async with talking(impatient) as (talk, relay):
        await talk.say("a", LONG, final=True)
        await hear(talk, after(2))
        relay.to_port = 9
        await relay.cut()
        await hear(talk, Lost)
        first = await talk.interrupt(800)
        await talk.say("b", "Never.", final=True)
        second = await talk.interrupt(800)
        await talk.say("c", "Yes?", final=True)
        relay.to_port = impatient.port
        items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "c")
        assert first is not None
        assert second is not None
        assert (await asyncio.wait_for(first, PATIENCE)).heard_ms == 800
        assert second.result().pending == "Never."
        assert words(items)[-1:] == ["Yes?"]
        assert "Never." not in words(items)


@on_loop
async def test_an_interruption_after_the_end_counts_for_what_was_not_played(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", TEXT, final=True)
        items = await hear(talk, Done)
        fourth = [item for item in items if isinstance(item, WordEvent)][3]
        heard = await talk.interrupt(fourth.start_ms)
        assert heard is not None
        paused = await asyncio.wait_for(heard, PATIENCE)
        assert paused.heard_ms == fourth.start_ms
        assert f"{paused.spoken} {paused.pending}".split() == TEXT.replace("[S1] ", "").split()
        assert 2 <= len(paused.spoken.split()) <= 4
        await talk.say("b", "Yes?", final=True)
        assert words(await hear(talk, Done)) == ["Yes?"]


@on_loop
async def test_utterances_that_are_kept_are_said_after_an_interruption(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", LONG, final=True)
        await talk.say("b", "Eleven twelve.", final=True)
        await hear(talk, after(2))
        await talk.interrupt(1000, keep={"b"})
        items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")
        assert words(items)[-2:] == ["Eleven", "twelve."]


@on_loop
async def test_what_is_resumed_sounds_as_if_nothing_had_been(impatient):
    whole = await undisturbed(impatient)
    async with talking(impatient) as (talk, _):
        await talk.say("a", LONG, final=True)
        before = await hear(talk, after(4))
        heard = await talk.interrupt(2000)
        assert heard is not None
        await asyncio.wait_for(heard, PATIENCE)
        assert await talk.resume()
        items = await hear(talk, Done)
        again = items[next(n for n, item in enumerate(items) if isinstance(item, Again)) :]
        assert sound(before)[: 2000 * 48] + sound(again) == sound(whole)
        heard_words = [item.word for item in before if isinstance(item, WordEvent) and item.start_ms < 1900]
        assert words(whole) in ([*heard_words[:-1], *words(again)], [*heard_words, *words(again)])
        assert not await talk.resume()


@on_loop
async def test_a_connection_that_breaks_in_mid_speech_costs_nothing(impatient):
    whole = await undisturbed(impatient)
    async with talking(impatient) as (talk, relay):
        await talk.say("a", LONG, final=True)
        items = await hear(talk, after(1))
        for seconds in (2, 3):
            await relay.cut()
            items += await hear(talk, after(seconds))
        items += await hear(talk, Done)
    assert sound(items) == sound(whole)
    assert words(items) == words(whole)
    assert any(isinstance(item, Lost) for item in items)


@on_loop
async def test_text_that_was_lost_with_the_connection_is_sent_again(impatient):
    whole = await undisturbed(impatient, TEXT * 2)
    async with talking(impatient) as (talk, relay):
        await talk.say("a", TEXT)
        items = await hear(talk, after(0.5))
        relay.deaf = True  # what is sent now never arrives
        await talk.say("a", TEXT, final=True)
        await asyncio.sleep(0.2)
        await relay.cut()
        items += await hear(talk, Done)
    assert words(items) == words(whole)
    assert sound(items) == sound(whole)


@on_loop
async def test_an_interruption_while_nobody_can_be_told_is_told_later(impatient):
    async with talking(impatient) as (talk, relay):
        await talk.say("a", LONG, final=True)
        await hear(talk, after(2))
        relay.deaf = True
        heard = await talk.interrupt(800)
        await asyncio.sleep(0.1)
        await relay.cut()
        assert heard is not None
        assert (await asyncio.wait_for(heard, PATIENCE)).heard_ms == 800
        await talk.say("b", "Yes?", final=True)
        assert words(await hear(talk, Done))[-1:] == ["Yes?"]


def test_a_server_that_has_forgotten_all_is_told_the_rest():
    @on_loop
    async def talk_on() -> None:
        async with talking(servers.now) as (talk, relay):
            await talk.say("a", LONG, final=True)
            items = await hear(talk, after(1))
            said = words(items)
            await servers.replace(relay, max_lead_ms=3_600_000)
            more = await hear(talk, Done)
            assert [*said, *words(more)][-60:] == LONG.replace("[S1]", "").split()[-60:]
            assert len(said) + len(words(more)) == 60
            clock = [item.at_ms for item in [*items, *more] if isinstance(item, Sound)]
            assert clock == [80.0 * number for number in range(len(clock))]

    with Servers() as servers:
        talk_on()


@on_loop
async def test_a_server_that_is_not_there_is_lost_and_then_found(impatient):
    async with Relay(9) as relay, Talk(relay.url) as talk:  # where nobody listens
        await talk.say("a", "One.", final=True)
        await hear(talk, Lost)
        relay.to_port = impatient.port
        assert words(await hear(talk, Done)) == ["One."]


@on_loop
async def test_a_wrong_token_is_told_once_and_is_the_end(guarded):
    async with Talk(guarded.url, token="wrong") as talk:
        items = [item async for item in talk]
    assert [type(item) for item in items] == [Lost]
    assert "token" in items[0].reason


@on_loop
async def test_text_that_cannot_be_said_is_an_error_and_the_next_is_said(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", 'One <break time="99s"/>', final=True)
        await talk.say("b", "Two.", final=True)
        items = await hear(talk, Done)
        assert words(items) == ["Two."]
        assert any(getattr(item, "id", None) == "a" for item in items)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_sound_comes_at_the_rate_that_was_asked_for(impatient, rate):
    @on_loop
    async def check() -> None:
        async with talking(impatient, sample_rate=rate) as (talk, _):
            await talk.say("a", "One.", final=True)
            sounds = [item for item in await hear(talk, Done) if isinstance(item, Sound)]
            assert {(len(item.pcm), item.duration_ms) for item in sounds} == {(rate * 160 // 1000, 80.0)}

    check()


# ---- Prepared replies ----


async def turn(talk: Talk, id: str, text: str) -> list[Any]:
    await talk.say(id, text, final=True)
    return await hear(talk, lambda item: isinstance(item, Done) and item.id == id)


def prepared(id: str) -> Callable[[Any], bool]:
    return lambda item: isinstance(item, Prepared) and item.id == id


QUESTION = Listen(base64.b64encode(b"\0\1" * 12000).decode(), "Hello?")


@on_loop
async def test_a_discarded_reply_never_was_and_a_committed_one_is_as_if_it_was_said_then(impatient):
    async with talking(impatient) as (talk, _):
        await turn(talk, "a", "One two three.")
        await talk.listen(QUESTION)
        without = sound(await turn(talk, "b", TEXT + "Eleven."))
    async with talking(impatient) as (talk, _):
        await turn(talk, "a", "One two three.")
        await talk.prepare("x", "Never said. ", final=True)
        await hear(talk, prepared("x"))
        await talk.discard("x")
        await talk.prepare("y", "Nor ")
        await talk.say("y", TEXT)
        await hear(talk, prepared("y"))
        await talk.prepare("b", TEXT[:20])
        await talk.say("b", TEXT[20:])
        await hear(talk, prepared("b"))
        await talk.listen(QUESTION)
        assert talk.prepared == "b"
        await talk.commit("b")
        await talk.say("b", "Eleven.")
        await talk.end("b")
        items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")
        assert sound(items) == without
        assert talk.prepared is None
        await talk.commit("b")
        await talk.discard("b")


@on_loop
async def test_the_first_reply_can_be_prepared(impatient):
    async with talking(impatient) as (talk, _):
        await talk.prepare("a", "One two.", final=True)
        await hear(talk, prepared("a"))
        await talk.discard("a")
        await talk.prepare("b", "Three.", final=True)
        await hear(talk, prepared("b"))
        await talk.commit("b")
        items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")
        assert words(items) == ["Three."]
        assert next(item.at_ms for item in items if isinstance(item, Sound)) == 0


@on_loop
async def test_an_interruption_keeps_the_prepared_reply_and_what_goes_on_does_too(impatient):
    async with talking(impatient) as (talk, _):
        await talk.say("a", TEXT * 2, final=True)
        await hear(talk, after(2))
        heard = await talk.interrupt(800)
        assert heard is not None
        await talk.prepare("b", "Eleven.", final=True)
        await hear(talk, prepared("b"))
        assert (await asyncio.wait_for(heard, PATIENCE)).heard_ms == 800
        assert await talk.resume()
        await hear(talk, lambda item: isinstance(item, Done) and item.id == "a")
        await hear(talk, prepared("b"))
        await talk.commit("b")
        assert words(await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")) == ["Eleven."]


@pytest.mark.parametrize("lost", ["nothing", "prepare", "commit"])
def test_a_prepared_reply_outlives_its_connection(impatient, lost):
    @on_loop
    async def check() -> None:
        async with talking(impatient) as (talk, relay):
            await turn(talk, "a", "One two three.")
            relay.deaf = lost == "prepare"
            await talk.prepare("b", TEXT)
            if lost != "prepare":
                await hear(talk, prepared("b"))
            relay.deaf = lost != "nothing"
            if lost == "commit":
                await talk.commit("b")
            await asyncio.sleep(0.1)
            await relay.cut()
            await hear(talk, Ready)
            await talk.commit("b")
            await talk.say("b", "Eleven.", final=True)
            items = await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")
            assert words(items) == [*TEXT.split()[1:], "Eleven."]

    check()


def test_a_reply_that_was_prepared_by_a_server_that_is_gone_is_said_by_another():
    @on_loop
    async def talk_on() -> None:
        async with talking(servers.now) as (talk, relay):
            await talk.prepare("b", "One two.", final=True)
            await hear(talk, prepared("b"))
            await servers.replace(relay, max_lead_ms=1000)
            await hear(talk, prepared("b"))
            await talk.commit("b")
            assert words(await hear(talk, lambda item: isinstance(item, Done) and item.id == "b")) == ["One", "two."]

    with Servers() as servers:
        talk_on()


@on_loop
async def test_a_reply_that_cannot_be_said_is_refused_when_it_is_wanted(impatient):
    async with talking(impatient) as (talk, _):
        await turn(talk, "a", "One.")
        await talk.prepare("b", 'Two <break time="99s"/>', final=True)
        await hear(talk, lambda item: getattr(item, "cmd", None) == "prepare")
        await talk.commit("b")
        items = await hear(talk, lambda item: getattr(item, "cmd", None) == "inject")
        assert items[-1].id == "b"
        assert words(await turn(talk, "c", "Three.")) == ["Three."]
