"""Pauses: resuming changes nothing, and `paused` tells what was heard."""

from pathlib import Path

import pytest
from conversations import HELLO, golden, paused, report, toy

from dia2stream.conversation.outbox import Outbox
from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Done, End, Inject, Pause, Paused, Resume, Resumed, Start, WordEvent

# ---- Pause and resume ----


def test_a_pause_at_any_frame_changes_nothing() -> None:
    whole, rig = toy().say(HELLO), toy().do(Start(HELLO))
    rig.take()
    while rig.step():
        rig.do(Pause())
        assert [type(item) for item in rig.take()] == [Paused]
        assert not rig.can_step()
        assert rig.take() == []
        rig.do(Resume())
        assert isinstance(rig.take()[0], Resumed)
    assert rig.told == whole.told


def test_a_pause_at_any_frame_of_the_real_model_changes_nothing(goldens: Path) -> None:
    whole = golden(goldens).say(HELLO[:30])
    rig = golden(goldens).do(Start(HELLO[:30]))
    while rig.step():
        rig.do(Pause(), Resume()).take()
    assert rig.told == whole.told


def test_a_pause_with_what_was_played_changes_nothing_if_it_is_resumed() -> None:
    whole, rig = toy().say(HELLO), toy().do(Start(HELLO))
    for played in (0, 10**9, 500, 1):
        rig.run(10).do(Pause(played), Pause(played / 2), Resume())
    assert rig.run().told == whole.told


def test_text_may_be_closed_while_it_is_paused() -> None:
    rig = toy().do(Start("One two three four", final=False)).run().do(Pause(), End())
    assert rig.run().steps < 20
    assert rig.do(Resume()).run().told == toy().say("One two three four").told


class Strict(Outbox):
    """Lets frames go on only when the listener has been told so."""

    def release(self) -> None:
        assert self.answers, "a frame may leave ahead of resumed"
        super().release()


def test_resumed_is_told_before_anything_can_leave() -> None:
    rig = toy()
    rig.conversation.outbox = Strict(25, None)
    rig.do(Start("One.")).run(20).do(Pause()).take()
    rig.do(Resume())


def test_resume_needs_a_pause() -> None:
    rig = toy().do(Start("One."))
    with pytest.raises(CommandError) as caught:
        rig.do(Resume())
    assert caught.value.code == "not_paused"
    with pytest.raises(CommandError):
        rig.do(Pause(), Resume(), Resume())


# ---- What was heard ----


def test_paused_tells_what_was_heard_and_half_a_word_is_a_word_heard() -> None:
    text = "One two three four five six."
    whole = toy().say(text)
    words = [(word.word, word.start_ms) for word in whole.of(WordEvent)]
    ends = [start for _, start in words[1:]] + [80 * (whole.context.state.end_step or 0)]
    rig = toy().do(Start(text))
    for sent in (3, 17, len(whole.frames)):
        rig.run_until_sent(sent)
        for played in range(0, sent * 80 + 200, 20):
            told = paused(rig, played)
            heard = min(played, sent * 80)
            spoken = [w for (w, start), end in zip(words, ends, strict=True) if heard >= (start + end) / 2]
            assert report(told) == (heard, " ".join(spoken), " ".join(text.split()[len(spoken) :]))
        assert paused(rig).heard_ms == sent * 80
        rig.do(Resume())


def test_a_word_before_a_break_ends_where_the_break_begins() -> None:
    rig = toy().do(Start('Supercalifragilistic <break time="2s"/> word.')).run_until_sent(30)
    broke = next(taken.step for taken in rig.conversation.words.sounded if not taken.word.tokens)
    assert paused(rig, broke * 40).spoken == "Supercalifragilistic"
    assert paused(rig, broke * 40 - 1).spoken == ""
    assert paused(rig, 30 * 80).pending == "word."


def test_pending_has_all_that_was_not_heard_down_to_the_beginning_of_a_word() -> None:
    rig = toy().do(Start("One two three", final=False), Inject(" four fi", final=False)).run()
    assert report(paused(rig, 0)) == (0, "", "One two three four fi")


def test_paused_is_about_the_turn_that_was_heard() -> None:
    rig = toy().say("One two.").do(Inject("Three four.")).run()
    turn = rig.of(Done)[0].audio_ms
    assert report(paused(rig)) == (rig.sent * 80, "Three four.", "")
    assert paused(rig, turn).spoken == ""
    assert report(paused(rig, turn - 80)) == (turn - 80, "One two.", "Three four.")
    assert report(paused(rig, 0)) == (0, "", "One two. Three four.")


def test_after_an_interruption_the_report_begins_anew() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(1200), Inject("Well then, good."))
    assert report(paused(rig)) == (30 * 80, "", "Well then, good.")
    rig.do(Resume()).run()
    assert paused(rig).spoken == "Well then, good."
