"""Speculation changes no draw: whatever is guessed, all that is said is what single steps say."""

import base64
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from conversations import HELLO, Memory, Rig, ToyEar, assert_same_memory, real, scripts, toy
from engines import Observing
from hypothesis import given, settings
from hypothesis import strategies as st
from models import entry

import dia2stream.engine.engine as engine_module
from dia2.checkpoint.load import BUNDLED, Checkpoint, LoadOptions, load_checkpoint
from dia2.steps.speculation import MOST_COLUMNS, Guess
from dia2.steps.stepper import Stepper
from dia2.text.machine import TextMachine
from dia2stream.engine.costs import H100
from dia2stream.engine.engine import Engine
from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Command, Done, End, Inject, Listen, Pause, Reset, Resume, Start

MACHINE = TextMachine(new_word=2, pad=3, ahead=2)
WORDS = st.lists(
    st.builds(entry, st.lists(st.integers(10, 20), max_size=4), st.just("w"), st.integers(0, 4)), max_size=30
)


@given(
    words=WORDS,
    uniforms=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=16),
    most=st.integers(1, MOST_COLUMNS),
    closed=st.booleans(),
    actions=st.lists(st.integers(0, 1), min_size=16, max_size=16),
)
def test_a_tree_has_the_texts_that_actions_lead_to_and_each_column_sees_its_own_way(
    words: Sequence[Any], uniforms: list[float], most: int, closed: bool, actions: list[int]
) -> None:
    state = MACHINE.start()
    state.append(words)
    before = state.copy()
    tree = Guess(MACHINE, state, 7, (1, 3), uniforms, closed).tree(most)
    assert state == before
    assert 1 <= len(tree) <= most
    assert tree.depth <= len(uniforms)
    for place in range(len(tree)):
        seen = tree.way(place)
        assert (seen[0], seen[-1]) == (0, place)
        assert [tree.depths[each] for each in seen] == list(range(tree.depths[place] + 1))
        assert all(tree.follow(a, tree.texts[b]) == b for a, b in pairwise(seen))
        assert -(2**63) <= tree.signed()[place] < 2**63
        assert [place - back for back in range(place, -1, -1) if tree.signed()[place] >> back & 1] == seen
        assert place == 63 or tree.signed()[place] >> 63 & 1, "all before the tree are seen"
    # Where a tree may be as large as it likes, it has every way.
    place: int | None = 0
    depth = 0
    while place is not None and most == MOST_COLUMNS and depth < 3:
        text = MACHINE.process(state, 7 + depth, actions[depth])
        place, depth = tree.follow(place, text), depth + 1
        waits = state.end_step is None and not MACHINE.may_step(state, closed)
        assert (place is None) == (waits or depth >= len(uniforms))


def test_the_likeliest_columns_come_first() -> None:
    state = MACHINE.start(initial_padding=0)
    state.append([entry([5], "a", 1), entry([6], "b", 1), entry([7], "c", 1)])
    state.restore(state.mark()._replace(padding_budget=6))
    held = Guess(MACHINE, state, 0, (1, 3), [0.1, 0.1, 0.1, 0.9], True).tree(4)
    assert held.texts == [(1, 3), (3, 3), (3, 3), (3, 3)]
    started = Guess(MACHINE, state, 0, (1, 3), [0.9, 0.1, 0.1, 0.9], True).tree(4)
    assert started.texts == [(1, 3), (5, 2), (3, 7), (3, 3)]
    unsure = Guess(MACHINE, state, 0, (1, 3), [0.5, 0.5], True).tree(4)
    assert (unsure.depths, {*unsure.texts}) == ([0, 1, 1], {(1, 3), (3, 3), (5, 2)})


moves = st.one_of(
    st.tuples(st.just("columns"), st.integers(1, 40)),
    st.tuples(st.just("take"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["start", "inject", "inject", "piece", "piece"]), scripts),
    st.tuples(st.just("pause"), st.none() | st.integers(0, 80)),
    st.tuples(st.sampled_from(["end", "resume", "reset"]), st.none()),
    st.tuples(st.just("listen"), st.sampled_from([0.5, 3.0])),
)


def carried_out(rig: Rig, what: str, value: Any) -> None:
    """One move of a plan; a command that is refused changes nothing."""
    if what == "columns":
        rig.columns(value)
    elif what == "take":
        rig.take(value)
    else:
        commands: dict[str, Command] = {
            "start": Start(str(value)),
            "inject": Inject(str(value)),
            "piece": Inject(str(value), final=False),
            "end": End(),
            "pause": Pause(value * 80 + 40 if what == "pause" and value is not None else None),
            "resume": Resume(),
            "reset": Reset(),
        }
        if what == "listen":
            commands["listen"] = Listen(base64.b64encode(bytes(round(value * 1920) * 2)).decode(), final=value > 1)
        try:
            rig.do(commands[what])
        except CommandError as error:
            rig.items.append(error)  # type: ignore[arg-type]


def played(rig: Rig, plan: Sequence[tuple[str, Any]]) -> list[str]:
    """Carries out a plan, then lets everything be said. All that was told, errors as they are worded."""
    for what, value in [*plan, ("end", None), ("resume", None)]:
        carried_out(rig, what, value)
    while rig.can_step() or not rig.conversation.outbox.empty:
        rig.columns(1)
        rig.batch.settle()
        rig.take()
    rig.batch.settle()
    rig.context.run_due()
    return [str(item) for item in rig.items]


@settings(max_examples=60)
@given(
    plan=st.lists(moves, max_size=20),
    size=st.integers(3, 64),
    delays=st.sampled_from([(4, 6), (9, 11), (1, 5), (3, 3)]),
)
def test_a_guessing_conversation_tells_what_one_that_steps_tells_whatever_is_asked(
    plan: list[tuple[str, Any]], size: int, delays: tuple[int, ...]
) -> None:
    told, memories = [], []
    for guesses in (0, size):
        rig = toy(limit=120, delays=delays, ear=ToyEar())
        rig.stepper.guesses = guesses  # type: ignore[attr-defined]
        rig.now = 0.0
        told.append(played(rig, [("start", HELLO), *plan]))
        memories.append(Memory(rig))
    assert told[0] == told[1]
    assert_same_memory(*memories)


TEXTS = ["[S1] Your table is booked.", "[S1] Good morning! [S2] Could I speak to Mr. Wilson, please?", "Yes."]


def said(loaded: Checkpoint, defaults: SpeechOptions, *, speculate: bool) -> tuple[Rig, list[int]]:
    """A talk with every kind of start; and how many columns each step ran."""
    rig = real(loaded, defaults, stepper=Stepper(loaded, speculate=speculate))
    ran: list[int] = []

    def run(frames: int = 10**6) -> None:
        while rig.can_step() and rig.sent < frames:
            current = rig.conversation.current
            ran.append(rig.batch.step([current], steps=max(1, current.context.lead_in_left)).columns)
            rig.prepare()
            rig.take()

    for number, text in enumerate(TEXTS):
        rig.do(Inject(text) if number else Start(text))
        run(rig.sent + 9)
        rig.do(Pause(80.0 * (rig.sent - 3)))
        for piece in ("Wait, ", "I have another ", "question about ", "it."):
            rig.do(Inject(piece, final=piece == "it."))
            run(rig.sent + 1)
        run()
    return rig, ran


@pytest.mark.parametrize("model", ["random:tiny", pytest.param(BUNDLED, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "defaults", [SpeechOptions(seed=3), SpeechOptions(seed=4, cfg_scale=1.0, text_temperature=0.0)], ids=["", "greedy"]
)
def test_a_model_that_guesses_draws_what_single_steps_draw(model: str, defaults: SpeechOptions) -> None:
    loaded = load_checkpoint(model, LoadOptions(device="cpu", dtype="float32"))
    (stepped, ones), (guessed, ran) = (said(loaded, defaults, speculate=guesses) for guesses in (False, True))
    assert {*ones} == {1}
    assert max(ran) >= 3
    assert sum(ran) == sum(ones), "the same columns in fewer passes"
    assert len(ran) < len(ones)
    assert guessed.told == stepped.told
    assert_same_memory(Memory(guessed), Memory(stepped))


class Wide(Stepper):
    """Guesses for up to four conversations in one pass, as steppers on a GPU do for up to eight."""

    def tree_size(self, slots: int) -> int:
        return 24 if slots <= 4 else 0


def talk(rigs: Sequence[Rig], texts: Sequence[str], heard: Sequence[int]) -> set[int]:
    """Conversations that start, and are interrupted when so many of their frames were heard: steps whoever can.

    Returns how many at once were in passes of several columns.
    """
    together = set()
    for rig, text in zip(rigs, texts, strict=True):
        rig.do(Start(text))
    waiting = dict(zip(rigs, heard, strict=True))
    while active := [rig for rig in rigs if rig.can_step()]:
        starting = [rig for rig in active if rig.context.lead_in_left >= 3]
        steps = min((rig.context.lead_in_left for rig in starting), default=1)
        stepped = [rig.conversation.current for rig in starting or active]
        if rigs[0].batch.step(stepped, steps=steps).columns > 1:
            together.add(len(stepped))
        for rig in rigs:
            rig.prepare()
            rig.take()
            if rig.sent >= waiting.get(rig, rig.sent + 1):
                rig.do(Pause(80.0 * waiting.pop(rig)), Inject("Wait, please."))
    rigs[0].batch.settle()
    for rig in rigs:
        rig.take()
    return together


def test_conversations_that_guess_together_each_say_what_they_say_alone() -> None:
    loaded = load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32"))
    texts, heard = ["[S1] Your table is booked.", "[S2] Good morning!", "Yes.", "[S1] Hello there."], [3, 3, 5, 5]
    seeds = [SpeechOptions(seed=number) for number in range(4)]
    shared = Wide(loaded, slots=4, speculate=True)
    rigs = [real(loaded, seed, stepper=shared, slot=slot) for slot, seed in enumerate(seeds)]
    assert talk(rigs, texts, heard) >= {2, 4}
    for rig, seed, text, frames in zip(rigs, seeds, texts, heard, strict=True):
        alone = real(loaded, seed, stepper=Stepper(loaded))
        assert talk([alone], [text], [frames]) == set()
        assert rig.told == alone.told
        assert_same_memory(Memory(rig), Memory(alone))


class Wider(Stepper):
    """Guesses for up to eight conversations in one pass, with as many columns as steppers on a GPU have for each."""

    def tree_size(self, slots: int) -> int:
        return min(MOST_COLUMNS, 128 // slots // 16 * 16)


def test_an_engine_of_many_slots_that_guesses_draws_for_each_what_it_draws_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, texts = load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32")), TEXTS * 4
    monkeypatch.setattr(engine_module, "make_stepper", lambda *_, **__: (Wider(loaded, 12, speculate=True), "guessed"))
    watch = Observing()
    engine = Engine(loaded, slots=12, observers=[watch])
    # The costs of a GPU: a tree takes two steps.
    engine.thread.plan_with(replace(H100, trees=((1, 0.002), (8, 0.002))))
    drawn = []
    with ExitStack() as stack:
        stack.callback(engine.close)
        sessions = [stack.enter_context(engine.conversation()) for _ in texts]
        for number, (session, text) in enumerate(zip(sessions, texts, strict=True)):
            session.submit(Start(text, seed=number))
            session.finish()
        for session in sessions:
            frames = sum(isinstance(item, Frame) for item in session)
            drawn.append(session.conversation.context.history.frames(0, frames))
    assert max(step.backbone_rows for step in watch.steps if step.columns > 1) > 2
    for number, text in enumerate(texts):
        alone = real(loaded, SpeechOptions(seed=number), stepper=Stepper(loaded)).say(text)
        assert torch.equal(drawn[number], alone.context.history.frames(0, alone.sent)), number


def test_with_one_slot_the_next_turn_is_led_in_by_trees_while_the_turn_before_still_sounds() -> None:
    loaded, watch = load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32")), Observing()
    engine = Engine(loaded, speculate=True, observers=[watch])
    with ExitStack() as stack:
        stack.callback(engine.close)
        session = stack.enter_context(engine.conversation())
        session.submit(Start(TEXTS[0], seed=0))
        while not isinstance(session.next(), Done):
            pass  # its audio is taken as it is made, so most of it has not sounded yet
        before = len(watch.steps)
        session.submit(Inject(TEXTS[1]))
        while not isinstance(session.next(), Frame):
            pass
        lead_in = [step for step in watch.steps[before:] if not step.frames]
    assert sum(step.columns for step in lead_in) > 10
    assert len(lead_in) < 10
