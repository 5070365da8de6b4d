"""A fork: a copy of a conversation that goes on as its original would, and knows nothing of what that does."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversations import HISTORY, Memory, Rig, assert_same_memory, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import redis_running
from piping import ran
from serving import HASTY, Serve, hear, on_loop, sound
from test_journal import TEXT, WORDS, words
from test_replay import replayed
from test_rerun import carry_out
from tools import needs

from dia2.codec.frames import FrameCodec
from dia2.codec.hearing import Hearing
from dia2.steps.context import Context
from dia2.steps.stepper import Stepper
from dia2stream.client import Client, connect
from dia2stream.protocol.messages import (
    Commit,
    Done,
    End,
    Error,
    Forked,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Reset,
    Resume,
    Start,
)

HELLO = f"[S1] {WORDS}. [S2] {WORDS}."
SOUND = np.random.default_rng(0).integers(-9000, 9000, 12000).astype("<i2").tobytes()


# ---- The conversations themselves ----

texts = st.sampled_from(["one two three four five", "[S2] six seven eight", "[S1] nine ten eleven twelve one two", ""])
commands = st.one_of(
    st.builds(Inject, texts, final=st.booleans()),
    st.builds(Pause, st.one_of(st.none(), st.integers(0, 4000))),
    st.just(Resume()),
    st.just(End()),
    st.builds(
        lambda size, rate, final: Listen(SOUND[: 2 * size], sample_rate=rate, final=final),  # type: ignore
        st.integers(1, 6000),
        st.sampled_from([8000, 24000]),
        st.booleans(),
    ),
)
parts = st.lists(st.one_of(st.integers(1, 30), commands), max_size=7)


def rig_in(stepper: Stepper, codec: FrameCodec, slot: int, hearing: Hearing) -> Rig:
    """A conversation of random:tiny in a slot. Its context is so short that it is rebuilt now and then."""
    return Rig(Context(stepper, slot, codec.slot(slot), HISTORY), tiny().tokenizer, ear=hearing.slot(slot))


def rigs(count: int) -> list[Rig]:
    """Conversations of one model."""
    runtime = replace(tiny().config.runtime, max_context_steps=150)
    loaded = replace(tiny(), config=replace(tiny().config, runtime=runtime))
    stepper, codec = Stepper(loaded, slots=count), FrameCodec(loaded.codec, count)
    hearing = Hearing(loaded.codec, count)
    return [rig_in(stepper, codec, slot, hearing) for slot in range(count)]


def fork(rig: Rig, copy: Rig) -> None:
    """Copies the conversation of one rig into that of another one."""
    rig.batch.settle()
    copy.conversation.copy(rig.conversation, rig.now)


@settings(max_examples=6, deadline=None)
@given(before=parts, one=parts, other=parts, seed=st.integers(0, 9))
def test_both_sides_say_what_each_would_have_said_alone(
    before: list[Any], one: list[Any], other: list[Any], seed: int
) -> None:
    """Bit for bit, though they take turns with their steps, and whatever was done before the fork."""
    original, copy = rigs(2)
    carry_out(original, [Start("[S1] one two three four five six seven", seed=seed), *before])
    fork(original, copy)
    taken = len(original.items)
    sides = [(original, one), (copy, [Resume(), *other])]
    for number in range(8):
        for rig, plan in sides:
            carry_out(rig, plan[number : number + 1])
    for rig, plan in sides:
        finish(rig)
        [alone] = rigs(1)
        carry_out(alone, [Start("[S1] one two three four five six seven", seed=seed), *before])
        if rig is copy:
            alone.batch.settle()
            alone.conversation.stand_still(alone.now)
            while alone.conversation.take(alone.now, answers_only=True):
                pass  # answers are for whoever has asked
            alone.items.clear()
        carry_out(alone, plan)
        finish(alone)
        assert rig.told == alone.told
        assert rig.of(Paused, Error) == alone.of(Paused, Error)
        assert_same_memory(Memory(rig), Memory(alone))
    assert len(original.items) >= taken


def finish(rig: Rig) -> None:
    carry_out(rig, [Resume(), End()])
    rig.run()


def test_a_copy_leaves_no_trace_in_its_original_and_takes_its_voice_along() -> None:
    original, copy = rigs(2)
    original.do(Start(HELLO, seed=4)).run_until_sent(20)
    original.batch.settle()
    before = Memory(original)
    fork(original, copy)
    assert_same_memory(Memory(original), before)
    assert_same_memory(Memory(copy), before)
    assert (copy.sent, copy.conversation.heard_ms, original.conversation.heard_ms) == (20, 1600, None)
    copy.do(Inject("[S2] red green blue"))  # interrupts the copy
    copy.do(Reset())
    original.run()
    [alone] = rigs(1)
    assert original.told == alone.say(HELLO, seed=4).told


# ---- Servers ----


def test_a_prepared_reply_stays_with_the_original() -> None:
    one, copy, plain = rigs(3)
    one.do(Start("One two.")).run().do(Prepare("Three four.", "b")).run()
    plain.do(Start("One two.")).run()
    fork(one, copy)
    one.run()
    assert one.conversation.preparation.draft is not None
    copy.do(Resume(), Inject("Five six.", id="c")).run()
    one.do(Commit("b")).run()
    assert one.told == plain.do(Inject("Three four.", id="b")).run().told
    assert copy.words == ["Five", "six."]


async def forked(client: Client) -> tuple[list[Any], Forked]:
    """Forks; what came until the answer, and the answer."""
    await client.fork()
    *items, answer = await hear(client, Forked)
    return items, answer


async def copy_of(server: Serve, answer: Forked, received_ms: float) -> Client:
    """A client of the copy, told where it stands."""
    copy = await connect(server.url, conversation=answer.conversation, received_ms=received_ms)
    assert copy.ready.conversation == answer.conversation
    return copy


def pcm(*items: list[Any]) -> np.ndarray:
    return np.frombuffer(b"".join(map(sound, items)), "<i2").astype(int)


@pytest.fixture(scope="module")
def server() -> Iterator[Serve]:
    with Serve(before=HASTY, slots=6, max_lead_ms=400) as running:
        yield running
        assert not running.faults


def test_a_client_forks_and_both_go_on(server: Serve) -> None:
    @on_loop
    async def call() -> None:
        async with await connect(server.url) as client:
            await client.start(HELLO, seed=5)
            whole = await hear(client)
            await client.hang_up()
        client = await connect(server.url)
        await client.start(HELLO, seed=5)
        before = await hear(client, lambda item: client.received_ms >= 1600)
        had = client.received_ms
        more, answer = await forked(client)
        assert had <= answer.audio_ms <= client.received_ms + 80
        copy = await copy_of(server, answer, had)  # as one who has not got what the original got meanwhile
        missed = await hear(copy, Paused)
        assert missed[-1].heard_ms == answer.audio_ms == copy.received_ms
        await copy.inject("[S2] red green blue.", id="x")
        other = await hear(copy, lambda item: isinstance(item, Done) and item.id == "x")
        rest = await hear(client)
        again = await copy_of(server, (await forked(client))[1], client.received_ms)
        await hear(again, Paused)  # of what is said to its end
        assert words([*before, *more, *rest]) == words(whole)
        assert abs(pcm(before, more, rest) - pcm(whole)).max() <= 1
        assert abs(pcm(before, missed) - pcm(whole)[: answer.audio_ms * 24]).max() <= 1
        assert words(other) == ["red", "green", "blue"]
        assert other[-1].audio_ms == copy.received_ms
        for each in (client, copy, again):
            await each.hang_up()

    before = server.metric("dia2stream_forks_total")
    call()
    assert server.metric("dia2stream_forks_total") == before + 2
    server.until(lambda: server.metric("dia2stream_slots_taken") == 0)


def test_a_fork_that_cannot_be_had_is_one_clear_error_and_closes_nothing(server: Serve) -> None:
    @on_loop
    async def call() -> None:
        async with await connect(server.url) as client:
            assert (await refusal(client)).code == "no_session"
            await client.start(TEXT, seed=5)
            for _ in range(4):
                await forked(client)
            error = await refusal(client)
            assert (error.code, error.cmd) == ("busy", "fork")
            assert error.message == "4 forks of this conversation wait for a client, of at most 4"
            others = [await connect(server.url) for _ in range(1)]
            await others[0].start("[S1] One.")  # so little that its connection closes at once, though nobody reads it
            error = await refusal(others[0])
            assert "every slot is taken: this server speaks 6 conversations at a time" in error.message
            assert (await hear(client))[-1].audio_ms == client.received_ms
            for each in (client, *others):
                await each.hang_up()

    async def refusal(client: Client) -> Error:
        await client.fork()
        return (await hear(client, Error))[-1]  # type: ignore[no-any-return]

    call()


def test_a_pipe_has_no_place_for_a_fork() -> None:
    given = b'{"cmd": "start", "text": "Hello."}\n{"cmd": "fork"}\n'
    done = ran("pipe", input=given, text=False)
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    [error] = [event for event in told if event["event"] == "error"]
    assert (error["code"], error["cmd"]) == ("bad_command", "fork")
    assert error["message"] == "there is one conversation here: fork is for a server's clients"
    assert told[-1]["event"] == "done"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("folder", marks=pytest.mark.long),
        pytest.param("redis", marks=[needs("redis-server"), pytest.mark.outlives]),
    ],
)
def test_a_fork_outlives_its_server_and_its_original(tmp_path: Path, kind: str) -> None:
    @on_loop
    async def call(journal: str) -> None:
        with Serve(slots=3, journal=journal, max_lead_ms=240) as two:
            with Serve(slots=3, journal=journal, max_lead_ms=240) as one:
                client = await connect(one.url)
                await client.start(HELLO, seed=5)
                before = await hear(client, lambda item: client.received_ms >= 1600)
                more, answer = await forked(client)
                before += more
                copy = await copy_of(one, answer, client.received_ms)
                heard = await hear(copy, Paused)
                await copy.resume()
                heard += await hear(copy, lambda item: copy.received_ms >= 2400)
                await client.hang_up()  # deletes the original
                one.process.kill()
            other = await copy_of(two, answer, copy.received_ms)
            heard += await hear(other, Paused)
            await other.resume()
            heard += await hear(other)
            assert other.received_ms == heard[-1].audio_ms
            assert words(before)[: len(words(before))] + words(heard) == WORDS.split() * 2
            whole = await connect(two.url)
            await whole.start(HELLO, seed=5)
            known = pcm(await hear(whole))
            assert abs(pcm(heard) - known[-len(pcm(heard)) :]).max() <= 1
            assert two.metric("dia2stream_take_overs_total") == 1
            await other.hang_up()
            await whole.hang_up()

    if kind == "folder":
        call(str(tmp_path / "journal"))
    else:
        with redis_running(tmp_path) as (url, _):
            call(url)


def test_a_fork_has_a_record_of_its_own_which_can_be_replayed(tmp_path: Path) -> None:
    folder, heard = tmp_path / "records", b""

    @on_loop
    async def call() -> None:
        nonlocal heard
        client = await connect(server.url)
        await client.start(TEXT, seed=5)
        heard = sound(await hear(client, lambda item: client.received_ms >= 1200))
        items, answer = await forked(client)
        copy = await copy_of(server, answer, client.received_ms)
        heard += sound(items) + sound(await hear(copy, Paused))
        await copy.listen(SOUND, sample_rate=8000)
        await copy.inject("[S1] red green blue.")
        heard += sound(await hear(copy))
        await client.hang_up()
        await copy.hang_up()

    with Serve(slots=2, record=folder) as server:
        call()
        assert server.stop() == 0
    paths = sorted(folder.glob("*.dia2rec"))
    path = next(path for path in paths if b"red green" in path.read_bytes())
    assert len(paths) == 2
    again, said = replayed(path, tmp_path / "again.wav")
    assert "steps drew the same" in said
    assert abs(again.astype(int) - np.frombuffer(heard, "<i2")).max() <= 1
