"""A conversation is computed again from its record, wherever that ends, and goes on as if nothing had been."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conversations import HELLO, SILENT, Memory, Rig, assert_same_memory, scripts, toy, toy_voice
from hypothesis import given, settings
from hypothesis import strategies as st
from taping import TapedRig, revived, speaker

from dia2.checkpoint.corrections import Corrections
from dia2stream.errors import CommandError, RecordError
from dia2stream.journal import rerun
from dia2stream.journal.record import CommandEntry, EarEntry, StepsEntry, read_record
from dia2stream.journal.revived import Revived
from dia2stream.protocol.messages import (
    Commit,
    Discard,
    End,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Reset,
    Resume,
    Resumed,
    Start,
)

SOUND = np.random.default_rng(0).integers(-9000, 9000, 24000).astype("<i2")


def frames(rig: Rig) -> list[bytes]:
    return [told for told in rig.told if isinstance(told, bytes)]


@pytest.mark.parametrize("sent", [0, 1, 7, 30])
def test_a_conversation_goes_on_from_its_record_as_if_nothing_had_been(sent: int) -> None:
    rig = TapedRig().do(Start(HELLO))
    rig.run_until_sent(sent)
    other = revived(rig.record(), rig, sent)
    assert other.revival.behind == 0
    other.do(Resume()).run()
    assert frames(rig) + frames(other) == frames(toy().say(HELLO))


@pytest.mark.parametrize("received", [10, 22, 40])
def test_a_client_gets_what_it_has_not_received_and_nothing_twice(received: int) -> None:
    """Also where it has more than was written down."""
    rig = TapedRig().do(Start(HELLO))
    rig.run_until_sent(22)
    record = rig.record()
    rig.run_until_sent(40)
    other = revived(record, rig, received).catch_up()
    other.do(Resume()).run()
    assert frames(other) == frames(toy().say(HELLO))[received:]


def test_a_pause_that_is_long_over_is_not_told_again_behind_a_resume() -> None:
    rig = TapedRig().do(Start(HELLO))
    rig.run_until_sent(12)
    rig.do(Pause(), Resume())
    rig.run_until_sent(20)
    other = revived(rig.record(), rig, 12)
    other.do(Resume()).run()
    assert other.of(Paused, Resumed) == [Resumed()]
    assert frames(rig)[:12] + frames(other) == frames(toy().say(HELLO))


def test_the_default_voice_is_the_server_s_also_where_the_conversation_had_another_one() -> None:
    voices = {"one": toy_voice(), "two": toy_voice(20, seed=1)}
    rig = TapedRig(voices=voices).do(Start("Hello.", voice="two")).run()
    other = Revived(rig.record(), replace(speaker(rig), voices=voices))
    assert list(other.conversation.voices) == ["one", "two"]


@st.composite
def plans(draw: Any) -> list[Any]:
    """Commands, and numbers of steps between them."""
    text = scripts.map(lambda said: said or "Hi")
    pieces = st.integers(1, 12).map(lambda k: Listen(SOUND[: 1920 * k].tobytes(), "so I said"))  # type: ignore[arg-type]
    prepared = st.one_of(
        st.builds(Prepare, text, st.just("p"), st.booleans()),
        st.builds(Inject, text, st.just("p"), st.booleans()),
        st.sampled_from([Commit("p"), Commit("p"), Discard("p"), End("p")]),
    )
    any_command = st.one_of(
        st.builds(Inject, text, final=st.booleans()),
        st.builds(Pause, st.one_of(st.none(), st.integers(0, 12000))),
        st.just(Resume()),
        st.just(End()),
        pieces,
        prepared,
        prepared,
    )
    start = draw(st.builds(Start, text, final=st.booleans(), seed=st.integers(0, 9)))
    rest = draw(st.lists(st.one_of(st.integers(1, 60), any_command, any_command), max_size=12))
    return [start, *rest]


def carry_out(rig: Rig, plan: list[Any], heard: bool = False) -> None:
    """heard: the numbers in the plan are of frames that are sent, not of steps."""
    for part in plan:
        if isinstance(part, int) and heard:
            until = rig.sent + part
            while rig.sent < until and (rig.take(1) or rig.step()):
                pass
        elif isinstance(part, int):
            for _ in range(part):
                rig.step()
                rig.take(part % 3)
        else:
            try:
                rig.do(part)
            except CommandError:
                continue


@settings(max_examples=40, deadline=None)
@given(
    plan=plans(),
    more=st.integers(0, 30),
    after=plans(),
    ahead=st.sampled_from([0, 2]),
    voiced=st.booleans(),
    corrections=st.sampled_from([Corrections(), SILENT]),
)
def test_whatever_was_done_the_other_stands_where_the_first_one_stood(
    plan: list[Any], more: int, after: list[Any], ahead: int, voiced: bool, corrections: Corrections
) -> None:
    voices = {"a": toy_voice()} if voiced else {}
    rig = TapedRig(limit=100, ahead=ahead, voices=voices, corrections=corrections)
    carry_out(rig, [*plan, Discard("p")])  # what is prepared and not committed is not written down
    record = rig.record()
    for _ in range(more):  # what was not written down any more
        rig.step()
        rig.take(1)
    rig.batch.settle()
    other = revived(record, rig, rig.sent).catch_up()
    rig.conversation.stand_still(rig.now)
    assert other.sent == rig.sent
    assert other.conversation.heard_ms == rig.conversation.heard_ms
    while rig.conversation.take(rig.now, answers_only=True):
        pass  # answers that nobody has read die with their server
    rig.items.clear()
    for one in (rig, other):
        carry_out(one, [Resume()])
        while one.step():
            pass  # where a turn goes on whose words have ended depends on how much of the silence behind it is made
        carry_out(one, [5, *after[1:], Resume(), End()], heard=True)
        one.run()
    twice = len(other.told) - len(rig.told)  # events just ahead of the first frame may be told twice
    assert other.told[twice:] == rig.told
    assert not any(isinstance(told, bytes) for told in other.told[:twice])
    assert other.of(Paused) == rig.of(Paused)
    rig.context.run_due()
    other.context.run_due()
    assert_same_memory(Memory(other), Memory(rig))


@pytest.mark.parametrize("uptime", [0.0, 3600.0, 1e7])
def test_it_goes_on_whatever_the_clock_of_the_machine_says(uptime: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on one that was started a moment ago: its monotonic clock begins there."""
    rig = TapedRig().do(Start(HELLO))
    rig.run_until_sent(12)
    rig.do(Pause(), Resume())
    rig.run_until_sent(20)
    rig.stand_still()
    record = rig.record()
    monkeypatch.setattr(rerun.time, "monotonic", lambda: uptime)
    other = Revived(record, speaker(rig), 20, max_lead_ms=400)
    assert (other.behind, other.conversation.outbox.sent) == (0, 20)


def test_a_conversation_may_be_taken_over_again_and_again() -> None:
    rig: Any = TapedRig().do(Start(HELLO))
    rig.run_until_sent(12)
    heard = frames(rig)
    data = rig.write()
    for received in (10, 25, 33):
        record = read_record(data)
        assert not record.torn
        other = revived(record, rig, received, writes=True).catch_up()
        other.do(Resume())
        other.run_until_sent(received + 6)
        other.batch.settle()
        data += b"".join(part for part in other.tape.take() if part is not None)
        other.run_until_sent(received + 20)  # which nobody writes down
        heard = heard[:received] + frames(other)
    assert heard == frames(toy().say(HELLO))[: len(heard)]


def test_what_is_heard_after_a_take_over_is_written_down_too() -> None:
    """Its sound is in no record, so who goes on next needs its codes."""
    rig = TapedRig().do(Start("One two."))
    rig.run()
    data = rig.write()
    other = revived(read_record(data), rig, rig.sent, writes=True)
    other.do(Resume(), Listen(SOUND.tobytes(), "so I said"))  # type: ignore[arg-type]
    other.batch.settle()
    assert other.tape is not None
    data += b"".join(part for part in other.tape.take() if isinstance(part, bytes))
    third = revived(read_record(data), rig, rig.sent)
    assert any(isinstance(entry, EarEntry) for entry in read_record(data).entries)
    for one in (other, third):
        one.do(Inject("Yes I know")).run()
    assert frames(third) == frames(other)
    assert_same_memory(Memory(third), Memory(other))


def test_a_reset_leaves_nothing_and_a_start_begins_a_new_record() -> None:
    rig = TapedRig().do(Start(HELLO))
    rig.run(20)
    assert rig.write()
    assert rig.do(Reset()).write() == b""
    rig.do(Start("[S1] Anew.", seed=3))
    entries = rig.record().entries
    assert [e.command["text"] for e in entries if isinstance(e, CommandEntry)] == ["[S1] Anew."]


def test_a_record_of_another_model_or_that_does_not_compute_again_is_one_clear_error() -> None:
    rig = TapedRig().do(Start(HELLO))
    rig.run(30)
    record = rig.record()
    with pytest.raises(RecordError, match=r"another model, toy \(toy\); this one is other"):
        Revived(record, speaker(rig, "other"))
    entries = list(record.entries)
    at = next(n for n, entry in enumerate(entries) if isinstance(entry, StepsEntry))
    entries[at] = replace(entries[at], step=3)  # type: ignore[type-var]
    with pytest.raises(RecordError, match="the number of a step does not compute again: 0 where the record has 3"):
        revived(replace(record, entries=tuple(entries)), rig)


def test_a_committed_reply_is_written_down_with_what_its_draft_has_drawn_and_no_other_is() -> None:
    rig = TapedRig(limit=400).do(Start("[S1] One two three.")).run()
    rig.do(Prepare("Never heard.", "a")).run().do(Prepare("[S2] Yes of course.", "b")).run()
    before = rig.record().entries
    assert b"Never" not in rig.write()
    assert b"course" not in rig.write()
    rig.do(Commit("b"))
    drawn = rig.record().entries[len(before) :]
    assert [entry.command["cmd"] for entry in drawn if isinstance(entry, CommandEntry)] == ["inject"]
    assert sum(len(entry.actions) for entry in drawn if isinstance(entry, StepsEntry)) > 10
    rig.run_until_sent(rig.sent + 3)
    other = revived(rig.record(), rig, rig.sent)
    heard = frames(rig)
    other.do(Resume()).run()
    plain = toy(limit=400).say("[S1] One two three.").do(Inject("[S2] Yes of course.", id="b")).run()
    assert heard + frames(other) == frames(plain)
