"""The engine: slots, failures, what it tells of its work, several conversations at once, and an end from any state."""

import asyncio
import gc
import re
import textwrap
import threading
import time
import weakref
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import GOLDENS
from conversations import golden, toy_voice
from engines import HELLO, LONG, Observing, ToyEngine, alone, audio, eventually, full, running, spoken, take_until
from models import checkpoint
from piping import PATIENCE

import dia2stream.engine.engine
from dia2.checkpoint.load import LoadOptions, load_checkpoint
from dia2stream.conversation.conversation import QUEUE_FRAMES, Conversation
from dia2stream.engine.engine import Engine
from dia2stream.engine.observer import StepReport
from dia2stream.engine.session import Session
from dia2stream.engine.warm_up import speak_in_all
from dia2stream.errors import CommandError, EngineError
from dia2stream.items import Cut, Frame, Item
from dia2stream.options import ModelOptions, SpeechOptions
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    Error,
    Inject,
    Pause,
    Paused,
    Reset,
    Resume,
    Resumed,
    Start,
    Started,
    WordEvent,
)

# ---- Slots ----


def test_a_second_client_is_refused_at_once_while_the_first_one_speaks(engine: ToyEngine) -> None:
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        with pytest.raises(CommandError, match="holds 1") as caught:
            engine.conversation()
        assert caught.value.code == "busy"
        engine.toy.gate.set()


def test_a_slot_is_free_again_when_its_session_is_closed(engine: ToyEngine) -> None:
    for _ in range(3):
        with engine.conversation() as session:
            assert engine.free == 0
            session.submit(Start(LONG))
        assert session.released
        assert engine.free == 1
    session = engine.conversation()
    session.close()
    session.close()
    eventually(lambda: engine.free == 1)


def test_a_slot_that_was_taken_again_is_not_freed_by_its_old_session(engine: ToyEngine) -> None:
    old = engine.conversation()
    with old:
        pass
    with engine.conversation() as session:
        old.close()
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
        assert engine.free == 0


def test_a_slot_is_free_at_once_whatever_others_have_asked_for(
    pair: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[Conversation] = []

    def handle(conversation: Conversation, command: Command, arrived: float) -> None:
        handled.append(conversation)
        time.sleep(0.005)

    monkeypatch.setattr(Conversation, "handle", handle)
    with pair.conversation() as other:
        leaving = pair.conversation()
        for session in (other, leaving):
            for _ in range(200):
                session.submit(Resume())
        leaving.close()
        eventually(lambda: leaving.released)
        assert len(handled) < 300
        eventually(lambda: handled.count(other.conversation) == 200 and leaving.behind == 0)


def test_orders_that_take_long_do_not_keep_others_from_speaking(
    pair: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, steps = Conversation.handle, []

    def handle_slowly(conversation: Conversation, command: Command, arrived: float) -> None:
        if isinstance(command, Resume):
            time.sleep(0.01)
            steps.append(pair.stats.steps)
        else:
            handle(conversation, command, arrived)

    monkeypatch.setattr(Conversation, "handle", handle_slowly)
    with pair.conversation() as flooding:
        with pair.conversation() as speaking:
            speaking.submit(Start(LONG))
            reader = threading.Thread(target=list, args=(speaking,))
            reader.start()
            eventually(lambda: pair.stats.frames)
            for _ in range(100):
                flooding.submit(Resume())
            eventually(lambda: len(steps) == 100)
        reader.join(PATIENCE)
    assert len(set(steps)) > 20  # steps went on all along


def test_nonsense_for_a_slot_costs_no_slot(engine: ToyEngine) -> None:
    for options in ({"queue_frames": 0}, {"max_lead_ms": 20}):
        with pytest.raises(ValueError, match="at least"):
            engine.conversation(**cast(Any, options))
    assert engine.free == 1


def test_the_next_client_of_a_slot_finds_the_voice_there() -> None:
    engine = ToyEngine(slots=2, voices={"clips": toy_voice()})
    try:
        for _ in range(3):
            with engine.conversation() as session:
                spoken(session, Start("Hello."))
        assert engine.toy.prefilled == toy_voice().frames
    finally:
        engine.close()


def test_a_voice_that_leaves_no_room_to_speak_in_is_refused() -> None:
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match="voice clips takes 82 steps"):
        ToyEngine(voices={"clips": toy_voice(frames=41)})
    assert set(threading.enumerate()) <= before
    ToyEngine(voices={"clips": toy_voice(frames=40)}).close()


def test_a_codec_whose_sound_would_be_played_at_another_speed_is_refused() -> None:
    codec = cast(Any, SimpleNamespace(sample_rate=16000, frame_samples=1280))
    with pytest.raises(EngineError, match="makes 1280 samples a frame at 16000 Hz; it must be 1920 at 24000"):
        Engine(replace(checkpoint(GOLDENS / "published-like"), codec=codec))


def test_the_example_of_the_module_runs_as_it_stands() -> None:
    example = textwrap.dedent(re.search(r"\n\n((?:    .*\n|\n)+)", dia2stream.engine.engine.__doc__ or "")[1])  # type: ignore[index]
    load, talk = re.split(r"\n(?=async )", example.strip())
    played: list[Any] = []
    names = {**vars(dia2stream.engine.engine), "play": played.append, "print": lambda *_: None}
    exec(f"{load}\nasync def main():\n{textwrap.indent(talk, '    ')}", names)
    asyncio.run(names["main"]())
    names["engine"].close()
    assert len(played) >= 15  # the example has no seed, so its length is another one each time
    assert {pcm.shape for pcm in played} == {(1920,)}
    assert {pcm.dtype for pcm in played} == {np.dtype(np.float32)}


# ---- Failures ----


@pytest.mark.parametrize("where", ["act", "complete"])
def test_a_model_that_fails_ends_the_conversation_with_one_event_and_leaves_the_engine_usable(
    engine: ToyEngine, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        take_until(session, Frame)
        engine.toy.fail_in = where
        items = list(session)
        assert [item.code for item in items if isinstance(item, Error)] == ["internal"]
        assert isinstance(items[-1], Error)
        session.submit(Start(HELLO))
        assert list(session) == []
    assert "the model is on fire" in caplog.text
    assert engine.stats.failures == 1
    with engine.conversation() as session:
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))


def test_a_command_that_fails_ends_only_its_own_conversation() -> None:
    engine = ToyEngine(slots=2, voices={"clips": toy_voice()})
    try:
        with engine.conversation() as first, engine.conversation() as second:
            first.submit(Start(HELLO))
            take_until(first, Frame)
            engine.toy.fail_in = "prefill"
            second.submit(Start(HELLO))
            assert [item.code for item in second if isinstance(item, Error)] == ["internal"]
            assert isinstance(spoken(first)[-1], Done)
        with engine.conversation(), engine.conversation() as second:
            before = engine.toy.prefilled
            assert isinstance(spoken(second, Start("Hello."))[-1], Done)
            assert engine.toy.prefilled == before + toy_voice().frames  # what failed is not built upon
    finally:
        engine.close()


def test_conversations_of_one_step_fail_together_and_others_go_on(pair: ToyEngine) -> None:
    with pair.conversation() as first, pair.conversation() as second:
        second.submit(Start(HELLO))
        take_until(second, Frame)
        second.submit(Pause())
        take_until(second, Paused)
        first.submit(Start(HELLO))
        take_until(first, Frame)
        pair.toy.fail_in = "act"
        assert [item.code for item in first if isinstance(item, Error)] == ["internal"]
        second.submit(Resume())
        assert isinstance(spoken(second)[-1], Done)


@pytest.mark.parametrize("part", ["prepare", "advance", "complete", "deliver"])
def test_a_failure_of_one_conversations_own_work_ends_that_one_alone(pair: ToyEngine, part: str) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("an event that nobody thought of")

    with pair.conversation() as first, pair.conversation() as second:
        setattr(first.conversation, part, fail)
        first.submit(Start(HELLO))
        assert audio(spoken(second, Start(HELLO))) == alone(Start(HELLO))
        assert [item.code for item in first if isinstance(item, Error)] == ["internal"]
    with pair.conversation() as next_one:
        assert audio(spoken(next_one, Start(HELLO))) == alone(Start(HELLO))
    assert pair.stats.failures == 1
    assert pair.broken is None


def test_a_thread_that_ends_by_itself_makes_the_engine_broken(engine: ToyEngine) -> None:
    def fail() -> bool:
        raise MemoryError("no room left")

    session = engine.conversation()
    engine.thread._carry_out_orders = fail  # type: ignore[method-assign]
    session.submit(Start(HELLO))
    assert [item.code for item in session if isinstance(item, Error)] == ["internal"]
    assert session.released
    with pytest.raises(EngineError, match="thread has ended: no room left"):
        engine.conversation()


def test_a_callback_that_fails_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Observing):
        def stepped(self, step: StepReport) -> None:
            raise RuntimeError("nobody is interested")

    engine = ToyEngine(observers=[Failing()])
    try:
        with engine.conversation() as session:
            assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
    finally:
        engine.close()
    assert "nobody is interested" in caplog.text


def test_every_step_is_told_with_the_frames_it_made() -> None:
    told = Observing()
    engine = ToyEngine(observers=[told])
    try:
        with engine.conversation() as session:
            items = spoken(session, Start(HELLO))
    finally:
        engine.close()
    frames = sum(isinstance(item, Frame) for item in items)
    assert sum(step.frames for step in told.steps) == frames == engine.stats.frames
    assert len(told.steps) == engine.stats.steps
    assert all(step.seconds >= step.device_seconds >= 0 for step in told.steps)


def test_a_step_tells_for_how_many_conversations_each_part_of_the_model_ran() -> None:
    told = Observing()
    engine = ToyEngine(slots=2, observers=[told])
    try:
        with engine.conversation() as session, engine.conversation():
            spoken(session, Start(HELLO))
    finally:
        engine.close()
    # The toy's codebooks are 4, 6, 6, 6 and 6 steps late: codes of the depformer are due from the sixth step on.
    assert [step.depformer_rows for step in told.steps[:7]] == [0] * 5 + [1] * 2
    assert [step.frames for step in told.steps[:7]] == [0] * 5 + [1] * 2
    assert {step.backbone_rows for step in told.steps} == {1}


def test_lead_in_steps_wake_no_reader(engine: ToyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    notify = Session.notify

    def counted(session: Session) -> None:
        steps.append(engine.toy.acts)
        notify(session)

    with engine.conversation() as session:
        monkeypatch.setattr(Session, "notify", counted)
        engine.toy.gate.clear()
        session.submit(Start(HELLO))
        while not isinstance(session.next(), Started):  # what waits to be taken would be a reason to wake it
            pass
        engine.toy.gate.set()
        while not isinstance(session.next(), Frame):
            pass
    # When the order is carried out, when the first frame is there, which the toy's sixth step makes, and from then on.
    assert steps[0] == 0
    assert [step for step in steps if 0 < step < 6] == []


def test_an_engine_with_nothing_left_to_do_says_so() -> None:
    told = Observing()
    engine = ToyEngine(observers=[told])
    try:
        with engine.conversation() as session:
            session.submit(Start(HELLO))
            take_until(session, Done)
            eventually(lambda: not engine.has_work)
            rests, steps = told.rests, len(told.steps)
            assert rests > 0
            session.submit(Start(HELLO))
            take_until(session, Done)
            eventually(lambda: told.rests > rests)
            assert len(told.steps) == 2 * steps
    finally:
        engine.close()


# ---- Several at once ----


def test_two_conversations_at_once_each_sound_as_alone(pair: ToyEngine) -> None:
    texts = [HELLO, "[S2] Something else, and [S1] longer than that, in another voice altogether."]
    with pair.conversation() as first, pair.conversation(queue_frames=2) as second:
        got: list[bytes] = [b"", b""]

        def talk(number: int, session: Session) -> None:
            got[number] = audio(spoken(session, Start(texts[number], seed=number)))

        threads = [threading.Thread(target=talk, args=(n, s)) for n, s in enumerate((first, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert got == [alone(Start(text, seed=number)) for number, text in enumerate(texts)]


def test_a_stuck_reader_holds_up_nobody_else(pair: ToyEngine) -> None:
    with pair.conversation() as stuck, pair.conversation() as session:
        stuck.submit(Start(LONG))
        eventually(lambda: full(stuck))
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
        stuck.submit(Pause())
        stuck.submit(Resume())
        assert take_until(stuck, Resumed)


def test_the_real_model_warms_up_every_slot_and_speaks_as_alone() -> None:
    loaded = checkpoint(GOLDENS / "every-option")
    told = Observing()
    engine = Engine(loaded, slots=2, speech=SpeechOptions(seed=3), observers=[told])
    try:
        engine.warm_up()
        assert engine.free == 2
        assert told.steps
        with engine.conversation() as first, engine.conversation() as second:
            second.submit(Start("[S1] Hello there."))
            second.finish()
            one = spoken(first, Start("[S2] Good day to you."))
            two = list(second)
    finally:
        engine.close()
    for items, text in ((one, "[S2] Good day to you."), (two, "[S1] Hello there.")):
        rig = golden(GOLDENS / "every-option", SpeechOptions(seed=3)).say(text)
        assert [e for e in items if isinstance(e, WordEvent)] == rig.of(WordEvent)
        np.testing.assert_allclose(np.concatenate([f.pcm for f in items if isinstance(f, Frame)]), rig.audio, atol=1e-5)


def test_many_slots_warm_up_in_hardly_more_steps_than_one() -> None:
    """Each of them says more than may wait for a reader, and the reader takes one after the other."""
    alone, together = (_steps_of_a_warm_up(slots) for slots in (1, 8))
    assert together < 1.5 * alone


def _steps_of_a_warm_up(slots: int) -> int:
    told, lent = Observing(), list[Session]()
    with running(slots, observers=[told]) as engine:

        def lend(**options: Any) -> Session:
            lent.append(engine.conversation(**options))
            return lent[-1]

        engine.toy.gate.clear()  # until all are asked to speak
        thread = threading.Thread(target=speak_in_all, args=(SimpleNamespace(conversation=lend), slots, "toy"))
        thread.start()
        eventually(lambda: len(lent) == slots and all(session.behind or session.queued_words for session in lent))
        engine.toy.gate.set()
        thread.join()
    assert sum(step.frames for step in told.steps) > slots * QUEUE_FRAMES
    return len(told.steps)


def test_a_model_that_fails_while_it_warms_up_says_that_it_does_not_run() -> None:
    engine = ToyEngine()
    try:
        engine.toy.fail_in = "act"
        with pytest.raises(EngineError, match="does not run here"):
            engine.warm_up()
    finally:
        engine.close()


def test_a_model_whose_sound_is_not_finite_is_refused_while_it_warms_up() -> None:
    """Weights that are finite one by one, but whose products are not."""
    loaded = load_checkpoint("random:tiny", LoadOptions(device="cpu"))
    for weight in loaded.codec.decoder.parameters():
        weight.data.mul_(1e25)
    engine = Engine(loaded)
    try:
        with pytest.raises(EngineError, match=r"^random:tiny makes sound that is not finite: its weights are damaged$"):
            engine.warm_up()
    finally:
        engine.close()


@pytest.mark.parametrize("seed", range(4))
def test_readers_and_commands_from_many_threads_never_lose_an_event(seed: int) -> None:
    """Each client: reads at its own speed, while another thread sends commands; the answers come in order."""
    engine, random = ToyEngine(slots=3), np.random.default_rng(seed)
    plans = [[int(n) for n in random.integers(0, 7, 25)] for _ in range(3)]
    got: dict[int, list[Item]] = {}

    def command(session: Session, plan: list[int]) -> None:
        made: list[Command] = [Pause(), Resume(), Inject("more words"), Pause(80), Inject("", final=False), End()]
        session.submit(Start(HELLO))
        for number in plan:
            session.submit(made[number] if number < 6 else Start(HELLO, seed=number))
            time.sleep(0.002 * (number % 3))
        session.submit(Resume())
        session.finish()

    def client(number: int) -> None:
        with engine.conversation(queue_frames=3) as session:
            sender = threading.Thread(target=command, args=(session, plans[number]))
            sender.start()
            items = got[number] = []
            for item in session:
                items.append(item)
                if len(items) % 7 == number:
                    time.sleep(0.001)
            sender.join()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    engine.close()
    for number, items in got.items():
        errors = [item for item in items if isinstance(item, Error)]
        assert {error.code for error in errors} <= {"not_paused", "bad_command"}
        # What every start, pause and resume of the plan was answered with.
        kept = [item for item in items if isinstance(item, Started | Paused | Resumed) or item in errors]
        answers = [type(item) for item in kept if not isinstance(item, Error) or item.cmd == "resume"]
        plan = [Started, *[_ANSWERS[n] for n in plans[number] if n in _ANSWERS], (Resumed, Error)]
        assert len(answers) == len(plan)
        assert all(issubclass(answer, cast(Any, planned)) for answer, planned in zip(answers, plan, strict=True))
        _assert_no_frame_while_held(items)


_ANSWERS: dict[int, Any] = {0: Paused, 1: (Resumed, Error), 3: Paused, 6: Started}


def _assert_no_frame_while_held(items: list[Item]) -> None:
    held = False
    for item in items:
        held = (held or isinstance(item, Paused)) and not isinstance(item, Resumed | Started | Cut)
        assert not (held and isinstance(item, Frame))


# ---- The end ----


def test_no_thread_is_left_when_it_is_closed_twice() -> None:
    before = set(threading.enumerate())
    engine = ToyEngine()
    assert set(threading.enumerate()) - before
    engine.close()
    engine.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="closed"):
        engine.conversation()


@pytest.mark.parametrize("state", ["nothing said", "speaking", "paused", "at the gate", "full", "closed"])
def test_it_can_be_closed_in_any_state_and_every_loop_ends(state: str) -> None:
    engine = ToyEngine()
    session = engine.conversation(queue_frames=3)
    items: list[Item] = []
    reader = threading.Thread(target=lambda: items.extend(session))
    if state != "nothing said":
        session.submit(Start(LONG))
        eventually(lambda: full(session))
    if state == "paused":
        session.submit(Pause())
    if state == "at the gate":
        engine.toy.gate.clear()
        session.submit(Reset())
        session.submit(Start(HELLO))
        eventually(lambda: session.conversation.active)
        threading.Timer(0.05, engine.toy.gate.set).start()
    if state == "closed":
        session.close()
    if state != "full":
        reader.start()
    engine.close()
    if state == "full":
        reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert session.released
    session.submit(Start(HELLO))
    session.finish()
    session.close()
    assert list(session) == []


def test_it_can_be_closed_from_its_own_thread() -> None:
    class Closing(Observing):
        def stepped(self, step: StepReport) -> None:
            engine.close()

    engine = ToyEngine(observers=[Closing()])
    with engine.conversation() as session:
        spoken(session, Start(HELLO))
    engine.thread.join(PATIENCE)
    assert not engine.thread.is_alive()


def test_slots_are_taken_and_given_back_while_the_engine_closes() -> None:
    for _ in range(30):
        engine = ToyEngine(slots=3)
        over = threading.Event()

        def come_and_go(engine: ToyEngine = engine, over: threading.Event = over) -> None:
            while not over.is_set():
                try:
                    with engine.conversation() as session:
                        session.submit(Start("Hello."))
                        list(islice(session, 3))
                except CommandError:
                    pass
                except EngineError:
                    over.set()

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        engine.close()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_the_garbage_collector_passes_over_what_is_loaded_until_the_engine_is_closed() -> None:
    engine = Engine.load(ModelOptions(model="random:tiny", device="cpu"), speech=SpeechOptions(seed=0))
    assert gc.get_freeze_count() > 50_000
    model = weakref.ref(engine.checkpoint.backbone)
    engine.close()
    assert gc.get_freeze_count() == 0
    del engine
    gc.collect()
    assert model() is None
