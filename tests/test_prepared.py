"""A prepared reply that is committed is an inject, one that is discarded never was: bit for bit, whatever happens."""

import base64
from typing import Any

import pytest
from conversations import (
    HELLO,
    SILENT,
    Memory,
    Rig,
    ToyEar,
    assert_same_memory,
    paused,
    real,
    scripts,
    stopped_at,
    tiny,
    toy,
    toy_voice,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2.codec.hearing import Hearing
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.protocol.messages import (
    Cancel,
    Command,
    Commit,
    Discard,
    Discarded,
    Done,
    End,
    FirstAudio,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Prepared,
    Reset,
    Resume,
    Start,
    WordEvent,
)

SHORT = "One two three."


def refusal(rig: Rig, command: Command) -> CommandError | None:
    """Hands over a command. The error that it was refused with."""
    try:
        rig.do(command)
    except CommandError as error:
        rig.prepare()
        return error
    return None


def refused(rig: Rig, command: Command) -> CommandError:
    """The same for a command that must be refused."""
    error = refusal(rig, command)
    assert error is not None
    return error


def drafted(rig: Rig) -> int:
    """How many frames of the prepared reply are there."""
    draft = rig.conversation.preparation.draft
    return draft.outbox.waiting if draft else 0


# ---- Any interleaving ----


class Pair:
    """A conversation that prepares its replies, and one in which a commit is an inject and nothing was prepared."""

    def __init__(self, one: Rig, other: Rig) -> None:
        self.one, self.other = one, other
        other.conversation.outbox.capacity = 10**6  # it is stepped as far as the first one, and no further
        self.reply: tuple[str, str, bool] | None = None  # id, text, final
        self.in_pause = False
        self.ids = 0
        self.steps = 0  # that the first one has made and that count
        self.draft: Any = None
        self.drafted = 0  # steps of this draft

    def both(self, command: Command) -> bool:
        """A command that is about no prepared reply. Returns whether it was carried out."""
        errors = [refusal(rig, command) for rig in (self.one, self.other)]
        assert len({error and error.code for error in errors}) == 1
        return errors[0] is None

    def do(self, what: str, value: Any) -> None:
        getattr(self, what)(value)
        self.align()

    def align(self) -> None:
        """The other one makes what the first has made in advance: when an inject comes, the turn is as far."""
        self.one.batch.settle()
        while self.other.steps < self.steps:
            assert self.other.step()
        self.other.batch.settle()
        assert self.other.conversation.step == self.one.conversation.step

    def step(self, count: int) -> None:
        for _ in range(count):
            draft = self.one.conversation.preparation.draft
            if draft is not self.draft:
                self.draft, self.drafted = draft, 0
            if self.one.step():
                self.steps, self.drafted = (self.steps, self.drafted + 1) if draft else (self.steps + 1, 0)

    def take(self, frames: int) -> None:
        """The listeners take so many frames, as far as they are there."""
        self.align()
        for rig in (self.one, self.other):
            until = rig.sent + frames
            while rig.sent < until and rig.take(1):
                pass

    def start(self, text: str) -> None:
        self.ids += 1
        if self.both(Start(text, id=f"u{self.ids}")):
            self.reply = None

    def inject(self, text: str) -> None:
        self.ids += 1
        self.both(Inject(text, id=f"u{self.ids}"))
        self.still_paused()

    def piece(self, text: str) -> None:
        self.both(Inject(text, final=False))
        self.still_paused()

    def end(self, _: None) -> None:
        self.both(End())

    def pause(self, frames: int | None) -> None:
        self.both(Pause(None if frames is None else frames * FRAME_MS + 40))

    def resume(self, _: None) -> None:
        if self.both(Resume()) and self.in_pause:
            self.reply = None
        self.still_paused()

    def reset(self, _: None) -> None:
        if self.both(Reset()):
            self.reply = None

    def listen(self, frames: float) -> None:
        audio = base64.b64encode(bytes(round(frames * 640) * 2)).decode()
        self.both(Listen(audio, sample_rate=8000, final=frames > 5))
        self.still_paused()

    def prepare(self, text: str) -> None:
        self._prepare(text, True)

    def prepare_piece(self, text: str) -> None:
        self._prepare(text, False)

    def _prepare(self, text: str, final: bool) -> None:
        self.ids += 1
        error = refusal(self.one, Prepare(text, f"u{self.ids}", final))
        if error is not None:
            assert error.code == "no_session"
            assert not self.other.conversation.active
            return
        self.reply, self.in_pause = (f"u{self.ids}", text, final), self.one.conversation.paused

    def feed(self, text: str) -> None:
        if self.reply is None or self.reply[2]:
            return
        id, before, _ = self.reply
        self.one.do(Inject(text, id=id, final=False))
        self.reply = id, before + text, False

    def close(self, _: None) -> None:
        if self.reply is not None:
            self.one.do(End(self.reply[0]))
            self.reply = *self.reply[:2], True

    def commit(self, _: None) -> None:
        if self.reply is None:
            assert refused(self.one, Commit("none")).code in ("bad_field", "no_session")
            return
        id, text, final = self.reply
        if self.draft is not None and self.draft is self.one.conversation.preparation.draft:
            self.steps += self.drafted
        self.draft = None
        self.one.do(Commit(id))
        self.other.do(Inject(text, id=id, final=final))
        self.reply = None
        self.still_paused()

    def discard(self, _: None) -> None:
        if self.reply is not None:
            self.one.do(Discard(self.reply[0]))
        self.reply = None

    def still_paused(self) -> None:
        self.in_pause = self.in_pause and self.one.conversation.paused

    def finish(self) -> None:
        """Neither remembers what was not committed, and both go on alike to their ends."""
        self.discard(None)
        self.align()
        if self.one.conversation.active:
            assert_same_memory(Memory(self.one), Memory(self.other))
        for rig in (self.one, self.other):
            for command in (End(), Resume()):
                refusal(rig, command)
            rig.take()
            rig.run()
            assert rig.conversation.idle
        assert told(self.one) == told(self.other)
        assert_same_memory(Memory(self.one), Memory(self.other))


def told(rig: Rig) -> list[Any]:
    """All that a listener gets, in order, and what each pause told; answers go first, so they are told apart."""
    return [*rig.told, *rig.of(Paused)]


moves = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 40)),
    st.tuples(st.just("take"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["inject", "piece", "prepare", "prepare", "prepare_piece", "feed"]), scripts),
    st.tuples(st.just("pause"), st.none() | st.integers(0, 60)),
    st.tuples(st.sampled_from(["end", "resume", "close", "commit", "commit", "discard"]), st.none()),
    st.tuples(st.sampled_from(["reset"]), st.none()) | st.tuples(st.just("start"), scripts),
    st.tuples(st.just("listen"), st.sampled_from([0.5, 3, 7.5, 20])),
)


def play(pair: Pair, plan: list[tuple[str, Any]]) -> None:
    for what, value in plan:
        pair.do(what, value)
    pair.finish()


def toys(limit: int, ahead: int, queue: int, with_voice: bool, is_told_of_silence: bool) -> Pair:
    about: dict[str, Any] = {"voices": {"clips": toy_voice()} if with_voice else {}}
    if is_told_of_silence:
        about["corrections"] = SILENT
    one, other = (toy(limit=limit, ahead=ahead, queue_frames=queue, ear=ToyEar(), **about) for _ in range(2))
    return Pair(one, other)


plans = given(
    st.lists(moves, max_size=25),
    st.sampled_from([100, 160, 400]),
    st.integers(0, 2),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=120)
@plans
def test_a_commit_is_an_inject_and_a_discard_never_was(
    plan: list[tuple[str, Any]], limit: int, ahead: int, queue: int, with_voice: bool, is_told_of_silence: bool
) -> None:
    play(toys(limit, ahead, queue, with_voice, is_told_of_silence), [("start", HELLO), *plan])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=3000)
@plans
def test_a_commit_is_an_inject_at_length(
    plan: list[tuple[str, Any]], limit: int, ahead: int, queue: int, with_voice: bool, is_told_of_silence: bool
) -> None:
    play(toys(limit, ahead, queue, with_voice, is_told_of_silence), plan)


short_moves = st.one_of(
    st.tuples(st.just("step"), st.integers(5, 40)),
    st.tuples(st.just("take"), st.integers(1, 30)),
    st.tuples(
        st.sampled_from(["prepare", "prepare_piece", "feed", "inject"]), st.sampled_from(["Yes. ", "[S2] No, not"])
    ),
    st.tuples(st.just("pause"), st.none() | st.integers(0, 25)),
    st.tuples(st.sampled_from(["resume", "close", "commit", "commit", "discard"]), st.none()),
    st.tuples(st.just("listen"), st.sampled_from([0.5, 6])),
)


def tinies() -> Pair:
    return Pair(*(real(tiny(), ear=Hearing(tiny().codec).slot(0)) for _ in range(2)))


@settings(max_examples=6, deadline=None)
@given(st.lists(short_moves, min_size=3, max_size=9))
def test_also_with_a_model_and_its_codec_to_the_last_bit(plan: list[tuple[str, Any]]) -> None:
    play(tinies(), [("start", "Hello there."), ("step", 60), ("take", 40), *plan])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=150, deadline=None)
@given(st.lists(short_moves, min_size=3, max_size=14))
def test_also_with_a_model_at_length(plan: list[tuple[str, Any]]) -> None:
    play(tinies(), [("start", "Hello there."), *plan])


# ---- What is told, and when ----


def test_nothing_of_a_prepared_reply_is_told_before_the_commit_but_that_it_is_there():
    rig = toy().say(SHORT)
    told_before = list(rig.items)
    rig.do(Prepare("Four five six.", "b")).run()
    assert rig.items == [*told_before, Prepared("b", 0.0)]
    assert drafted(rig) > 0
    rig.do(Commit("b")).run()
    assert rig.words == ["One", "two", "three.", "Four", "five", "six."]
    assert [done.id for done in rig.of(Done)] == ["1", "b"]


def test_a_commit_finds_its_first_frame_made_and_its_latency_counts_from_there():
    rig = toy().say(SHORT)
    rig.do(Prepare("Four five six.", "b")).run()
    steps, rig.now = rig.steps, 7.0
    rig.do(Commit("b"))
    rig.now = 7.25
    rig.take()
    assert rig.steps == steps
    first = rig.of(FirstAudio)[-1]
    assert (first.id, first.latency_ms, first.words_ms) == ("b", 250, None)


def test_a_reply_is_made_as_far_ahead_as_any_other_and_no_further():
    rig = toy(limit=400, queue_frames=10).say(SHORT)
    rig.do(Prepare(HELLO, "b")).run()
    assert drafted(rig) == 10


def test_text_that_comes_behind_goes_on_being_made():
    rig = toy(limit=400).say(SHORT)
    rig.do(Prepare("Please wait while I look for", "b", final=False)).run()
    made = drafted(rig)
    rig.do(Inject(" the right answer", id="b", final=False)).run()
    assert drafted(rig) > made > 0
    rig.do(Commit("b"), Inject(" here.", id="b")).run()
    assert rig.words[3:] == ["Please", "wait", "while", "I", "look", "for", "the", "right", "answer", "here."]
    assert len(rig.of(Prepared)) == 1


def test_a_reply_that_is_prepared_during_a_turn_is_made_when_the_turn_has_ended():
    rig = toy(limit=400).do(Start(HELLO)).run(5)
    rig.do(Prepare(SHORT, "b"))
    assert not drafted(rig)
    rig.run()
    assert drafted(rig) > 0
    assert rig.of(Prepared) == [Prepared("b", 0.0)]


def test_a_reply_that_is_committed_during_a_turn_follows_in_it():
    plain = toy(limit=400).do(Start(HELLO)).run(5).do(Inject(SHORT, id="b")).run()
    rig = toy(limit=400).do(Start(HELLO)).run(5).do(Prepare(SHORT, "b"), Commit("b")).run()
    assert rig.told == plain.told


def test_another_reply_takes_the_place_of_the_first():
    rig = toy().say(SHORT).do(Prepare("Four.", "a")).run().do(Prepare("Five.", "b")).run()
    assert rig.of(Prepared, Discarded) == [Prepared("a", 0.0), Discarded("a"), Prepared("b", 0.0)]
    assert refused(rig, Commit("a")).message == "id 'a' is not that of the prepared reply, which is 'b'"
    rig.do(Commit("b")).run()
    assert rig.words[-1] == "Five."


def test_while_paused_a_commit_is_said_instead_of_what_was_not_heard():
    rig = stopped_at(toy().do(Start(HELLO)), 12)
    rig.do(Prepare(SHORT, "b")).run()
    assert rig.conversation.paused
    assert drafted(rig) > 0
    rig.do(Commit("b")).run()
    assert rig.words[-3:] == ["One", "two", "three."]
    assert rig.words[-4] != "seven."


def test_resume_forgets_a_reply_that_was_prepared_in_the_pause():
    rig = stopped_at(toy().do(Start(HELLO)), 12)
    rig.do(Prepare(SHORT, "b")).run().do(Resume()).run()
    assert rig.of(Discarded) == [Discarded("b")]
    assert rig.told == toy().say(HELLO).told


def test_resume_keeps_a_reply_that_was_prepared_before_the_pause():
    rig = toy().say(SHORT).do(Prepare("Four.", "b")).run().do(Pause(), Resume()).run()
    assert not rig.of(Discarded)
    rig.do(Commit("b")).run()
    assert rig.words[-1] == "Four."


def test_a_position_that_changes_has_the_audio_made_anew():
    rig = stopped_at(toy(limit=400).do(Start(HELLO)), 30)
    rig.do(Prepare(SHORT, "b")).run()
    rig.now = 3.0
    paused(rig, played_ms=800)
    rig.now = 3.5
    rig.run()
    assert [event.ready_ms for event in rig.of(Prepared)] == [0.0, 500.0]
    rig.do(Commit("b")).run()
    plain = stopped_at(toy(limit=400).do(Start(HELLO)), 30)
    paused(plain, played_ms=800)
    assert rig.told == plain.do(Inject(SHORT, id="b")).run().told


def test_what_else_is_injected_is_spoken_first_and_the_reply_made_anew_behind_it():
    rig = toy(limit=400).say(SHORT).do(Prepare("Four.", "b")).run().do(Inject("Five.", id="c")).run()
    assert rig.words[-1] == "Five."
    assert len(rig.of(Prepared)) == 2
    rig.do(Commit("b")).run()
    assert rig.words[-1] == "Four."


@pytest.mark.parametrize("command", [Start("Again."), Reset()])
def test_start_and_reset_forget_it(command: Command):
    rig = toy().say(SHORT).do(Prepare("Four.", "b")).run().do(command).run()
    assert rig.of(Discarded) == [Discarded("b")]
    error = refused(rig, Commit("b"))
    assert (error.code, error.cmd) == ("no_session" if command == Reset() else "bad_field", "commit")


def test_a_client_that_is_gone_finds_its_reply_when_it_comes_back():
    rig = toy(limit=400).say(SHORT).do(Prepare("Four.", "b")).run()
    rig.conversation.stand_still(rig.now)
    rig.run()
    rig.conversation.say_where(rig.now)
    rig.run()
    rig.do(Resume(), Commit("b")).run()
    assert rig.words[-1] == "Four."
    assert not rig.of(Discarded)


def test_the_end_of_all_commands_forgets_it():
    rig = toy().say(SHORT).do(Prepare("Four.", "b")).run()
    rig.conversation.close_text()
    rig.run()
    assert rig.of(Discarded) == [Discarded("b")]
    assert rig.conversation.idle


def test_cancel_with_its_id_is_a_discard():
    rig = toy().say(SHORT).do(Prepare("Four.", "b")).run().do(Cancel("b")).run()
    assert rig.of(Discarded) == [Discarded("b")]
    rig.do(End("b"))  # whoever writes the text need not know what became of it


def test_a_reply_in_another_voice_is_made_when_it_is_committed():
    voices = {"one": toy_voice(), "two": toy_voice(10, seed=1)}
    rig, plain = (toy(limit=400, voices=voices).say(SHORT) for _ in range(2))
    rig.do(Prepare("Four.", "b", voice="two")).run()
    assert not drafted(rig)
    assert not rig.of(Prepared)
    assert rig.do(Commit("b")).run().told == plain.do(Inject("Four.", id="b", voice="two")).run().told


def test_a_context_that_would_have_to_be_rebuilt_is_rebuilt_by_the_commit():
    rig, plain = (toy(limit=100, ear=ToyEar()).say(HELLO) for _ in range(2))
    for each in (rig, plain):
        each.do(Listen(base64.b64encode(bytes(1920 * 2 * 60)).decode()))
    rig.do(Prepare(HELLO, "b")).run()
    assert rig.do(Commit("b")).run().told == plain.do(Inject(HELLO, id="b")).run().told


# ---- Wrong use ----


def test_wrong_use_is_one_clear_line():
    rig = toy()
    for command in (Prepare("a", "b"), Commit("b"), Discard("b")):
        assert refused(rig, command).code == "no_session"
    rig.do(Start("One two", id="open", final=False)).run()
    for command in (Commit("b"), Discard("b")):
        error = refused(rig, command)
        assert (error.code, error.field, error.message) == ("bad_field", "id", "id 'b': no reply is prepared")
    error = refused(rig, Prepare("a", "open"))
    assert error.message == "id 'open' is that of an utterance that is not done; a reply needs one of its own"
    assert refused(rig, Prepare("a", "b", voice="nobody")).field == "voice"
    rig.do(Prepare("a", "b"))
    error = refused(rig, Inject("more", id="b"))
    assert error.message == "id 'b': the text of the prepared reply is complete; commit it, or prepare another"
    rig.do(End("b"))  # complete already: nothing happens


def test_a_prepared_reply_is_bounded():
    rig = toy().say(SHORT).do(Prepare(f"{'a' * 12_000} ", "b", final=False))
    error = refused(rig, Inject("b" * 9_000, id="b"))
    assert error.message == "text: a prepared reply has at most 20000 characters; commit it, then send the rest"
    rig = toy().say(SHORT).do(Prepare("a " * 1_500, "c", final=False))
    assert refused(rig, Inject("b " * 1_500, id="c")).code == "overloaded"
    assert rig.do(Commit("c")).conversation.queued > 1_400


def test_a_reply_that_is_refused_leaves_the_one_before_it():
    rig = toy().say(SHORT).do(Prepare("Four.", "b")).run()
    refused(rig, Prepare("No.", "c", voice="nobody"))
    rig.do(Commit("b")).run()
    assert rig.words[-1] == "Four."


def test_words_of_the_reply_have_their_place_on_the_clock():
    rig = toy(limit=400).say(SHORT).do(Prepare("Four five.", "b")).run().do(Commit("b")).run()
    spoken = rig.of(WordEvent)
    assert spoken[3].id == "b"
    assert spoken[3].start_ms >= rig.of(Done)[0].audio_ms
