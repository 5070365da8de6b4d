"""The text stream machine: the goldens' rows, going back, and waiting for text that would change a step."""

import copy
from collections import deque
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from models import cases, checkpoint, entry

from dia2.text.machine import MAX_PADDING, TextMachine, TextState
from dia2.text.script import Entry

NEW_WORD, PAD = 2, 3

words = st.builds(
    entry, st.lists(st.integers(10, 400), min_size=1, max_size=3), st.sampled_from(["word", "end."]), st.integers(0, 4)
)
breaks = st.builds(entry, st.just([]), st.just(""), st.integers(1, 4))
scripts = st.lists(words | breaks, max_size=8)
machines = st.builds(
    TextMachine, st.just(NEW_WORD), st.just(PAD), st.integers(0, 3), st.integers(1, 7), st.integers(0, 4)
)
actions = st.sampled_from([0, 1, NEW_WORD, PAD, 9])


def started(machine: TextMachine, script: list[Entry], initial_padding: int = 0) -> TextState:
    state = machine.start(initial_padding)
    state.append(script)
    return state


def outcome(machine: TextMachine, state: TextState, step: int, action: int, later: list[Entry]) -> tuple[object, ...]:
    """All that a step does, had `later` been appended before it."""
    state = copy.deepcopy(state)
    state.queue.extend(later)
    return machine.process(state, step, action), state.mark(), state.taken


def test_rows_are_those_of_the_goldens(goldens: Path) -> None:
    for case in cases(goldens)["text_stream"]:
        machine = TextMachine(NEW_WORD, PAD, case["second_stream_ahead"], case["max_padding"])
        state = started(machine, [entry(*raw) for raw in case["entries"]], case["initial_padding"])
        appended = {step: entry(*raw) for step, raw in case["appended"]}
        rows = []
        for step, (action, forced, *_) in enumerate(case["rows"]):
            if step in appended:
                state.append([appended[step]])
            tokens = machine.process(state, step, action, forced=bool(forced))
            took = sum(at == step for at, _ in state.taken)
            rows.append([action, forced, *tokens, took, -1 if state.end_step is None else state.end_step])
        assert rows == case["rows"]


def test_the_machine_of_a_checkpoint_has_its_ids_and_lookahead(goldens: Path) -> None:
    data = checkpoint(goldens).config.data
    assert TextMachine.of(data) == TextMachine(NEW_WORD, PAD, data.second_stream_ahead, MAX_PADDING)


def test_the_transcript_has_words_and_the_steps_that_took_them_but_no_breaks() -> None:
    machine = TextMachine(NEW_WORD, PAD, ahead=1)
    state = started(machine, [entry([10, 11], "one", 2), entry([], "", 3), entry([12], "two", 1)])
    for step in range(8):
        machine.process(state, step, action=1)
    assert [step for step, _ in state.taken] == [0, 3, 6]
    assert state.transcript == [("one", 0), ("two", 6)]
    assert state.end_step is None


def test_an_action_of_0_holds_and_1_begins_a_word_whatever_the_text_ids_are() -> None:
    machine = TextMachine(new_word=0, pad=1, ahead=0)
    state = started(machine, [entry([10], "one", 0)], initial_padding=0)
    assert [machine.process(state, 0, action, forced=True) for action in (0, 1, 0)] == [(1, 1), (0, 0), (10, 10)]


def test_a_second_stream_shows_the_word_ahead() -> None:
    machine = TextMachine(NEW_WORD, PAD, ahead=2)
    state = started(machine, [entry([10], "a", 0), entry([], "", 1), entry([11], "b", 0), entry([12], "c", 0)])
    assert [machine.process(state, step, action=1) for step in range(5)] == [
        (10, NEW_WORD),
        (PAD, 12),  # the break
        (11, NEW_WORD),
        (12, NEW_WORD),
        (PAD, NEW_WORD),  # the end
    ]
    assert state.end_step == 4


def test_a_model_that_always_holds_may_pause_longer_behind_a_stop_but_not_before_a_break_or_the_end() -> None:
    script = [entry([10], "a", 0), entry([11], "b.", 0), entry([12], 'c,"', 0), entry([13], "d.", 0)]
    script += [entry([], "", 2), entry([14], "e?", 0)]
    for pause, steps in ((0, [0, 7, 14, 21, 28, 30]), (5, [0, 7, 19, 31, 38, 40])):
        machine = TextMachine(NEW_WORD, PAD, ahead=1, pause_padding=pause)
        state = started(machine, script)
        for step in range(60):
            machine.process(state, step, action=0)
        assert [step for step, _ in state.taken] == steps
        assert state.end_step == steps[-1] + MAX_PADDING + 1


def test_a_model_may_take_a_word_in_each_step_of_a_longer_pause() -> None:
    machine = TextMachine(NEW_WORD, PAD, ahead=0, pause_padding=5)
    state = started(machine, [entry([10], "a.", 0), entry([11], "b", 0)])
    free = []
    for step in range(10):
        free.append(machine.is_free(state))
        machine.process(state, step, action=int(step == 9))
    assert free == [False, False, *[True] * 8]
    assert state.transcript == [("a.", 0), ("b", 9)]


def test_without_a_second_stream_both_tokens_are_the_same_and_the_end_is_not_shown() -> None:
    machine = TextMachine(NEW_WORD, PAD, ahead=0)
    state = started(machine, [entry([10, 11], "a", 0)])
    tokens = [machine.process(state, step, action=1) for step in range(5)]
    assert tokens == [(t, t) for t in (NEW_WORD, 10, 11, PAD, PAD)]
    assert state.end_step == 3


@given(machines, scripts, st.integers(0, 3))
def test_a_model_that_always_holds_still_speaks_and_ends(
    machine: TextMachine, script: list[Entry], padding: int
) -> None:
    state = started(machine, script, padding)
    step = 0
    while state.end_step is None:
        machine.process(state, step, action=0)
        step += 1
        assert step < 100
    assert [e for _, e in state.taken] == script
    gaps = zip([0, *(at for at, _ in state.taken)], [*(at for at, _ in state.taken), state.end_step], strict=True)
    assert all(b - a <= max(machine.max_padding + machine.pause_padding, 4) + 1 for a, b in gaps)


@given(machines, scripts, scripts, st.lists(actions, min_size=1, max_size=40), st.integers(0, 3))
def test_a_step_that_may_be_taken_is_the_same_whatever_text_follows(
    machine: TextMachine, script: list[Entry], later: list[Entry], drawn: list[int], padding: int
) -> None:
    state = started(machine, script, padding)
    for step, action in enumerate(drawn):
        if machine.may_step(state, closed=False):
            for choice in (0, 1):
                alone = outcome(machine, state, step, choice, [])
                assert outcome(machine, state, step, choice, later) == alone
        assert machine.may_step(state, closed=True)
        machine.process(state, step, action)


@given(machines, scripts, st.lists(actions, min_size=1, max_size=40), st.integers(0, 3))
def test_a_step_that_must_wait_could_come_out_differently(
    machine: TextMachine, script: list[Entry], drawn: list[int], padding: int
) -> None:
    state = started(machine, script, padding)
    later = [entry([500 + i], "later", 0) for i in range(4)]
    for step, action in enumerate(drawn):
        if not machine.may_step(state, closed=False):
            assert outcome(machine, state, step, 1, []) != outcome(machine, state, step, 1, later)
        machine.process(state, step, action)


@given(machines, scripts, st.lists(actions, min_size=60, max_size=60), st.data())
def test_text_that_arrives_in_pieces_gives_the_tokens_of_the_same_text_at_once(
    machine: TextMachine, script: list[Entry], drawn: list[int], data: st.DataObject
) -> None:
    whole, pieces = started(machine, script), machine.start()
    arriving, tokens = deque(script), []
    while len(tokens) < len(drawn):
        if arriving and (not machine.may_step(pieces, closed=False) or data.draw(st.booleans())):
            pieces.append([arriving.popleft()])
        else:
            tokens.append(machine.process(pieces, len(tokens), drawn[len(tokens)]))
    assert tokens == [machine.process(whole, step, action) for step, action in enumerate(drawn)]
    assert (pieces.taken, pieces.end_step) == (whole.taken, whole.end_step)


@given(machines, scripts, st.lists(actions, min_size=1, max_size=40), st.data())
def test_a_marked_step_can_be_gone_back_to(
    machine: TextMachine, script: list[Entry], drawn: list[int], data: st.DataObject
) -> None:
    state = started(machine, script, 1)
    marks, tokens = [], []
    for step, action in enumerate(drawn):
        marks.append((state.mark(), list(state.queue)))
        tokens.append(machine.process(state, step, action))
    end = state.mark()
    back = data.draw(st.integers(0, len(drawn) - 1))
    mark, queue = marks[back]
    state.restore(mark)
    state.queue = deque(queue)
    again = [machine.process(state, step, drawn[step]) for step in range(back, len(drawn))]
    assert again == tokens[back:]
    assert state.mark() == end


def test_more_text_makes_an_ended_stream_go_on() -> None:
    machine = TextMachine(NEW_WORD, PAD, ahead=1)
    state = started(machine, [])
    assert machine.process(state, 0, action=1) == (PAD, NEW_WORD)
    state.append([entry([10], "a", 0)])
    assert state.end_step is None
    assert machine.process(state, 1, action=1) == (10, NEW_WORD)
    assert machine.process(state, 2, action=1) == (PAD, NEW_WORD)
    assert state.end_step == 2


@given(machines, scripts, scripts, st.lists(actions, max_size=25), st.integers(0, 3), st.booleans())
def test_what_is_foreseen_for_an_action_is_what_it_does(
    machine: TextMachine, script: list[Entry], later: list[Entry], before: list[int], padding: int, closed: bool
) -> None:
    state = started(machine, script, padding)
    for step, action in enumerate(before):
        machine.process(state, step, action)
    if not (state.end_step is not None or machine.may_step(state, closed)):
        return
    unchanged = copy.deepcopy(state)
    foreseen = machine.foresee(state, len(before), closed)
    assert state == unchanged
    outcomes = []
    waits = False
    for action in (0, 1):
        after = copy.deepcopy(state)
        outcomes.append(machine.process(after, len(before), action))
        waits |= after.end_step is None and not machine.may_step(after, closed)
    assert foreseen == (None if waits else tuple(outcomes))
