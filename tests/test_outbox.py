"""What waits to leave: order, holding back, taking back, pace, and two threads that pull at it."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.conversation.outbox import MAX_ANSWER_BYTES, Outbox
from dia2stream.conversation.pace import Pace
from dia2stream.items import FRAME_MS, Cut, FirstFrame, Frame, Item
from dia2stream.protocol.fields import HeardWord
from dia2stream.protocol.messages import Done, Paused, Resumed, WordEvent
from dia2stream.protocol.sizes import size_of

PAUSED, WORD = Paused(0, "", ""), WordEvent("a", "hello", "S1", 0)


def frame(number: float = 0.0) -> Frame:
    return Frame(np.full(3, number, np.float32))


def filled(*items: Item, max_lead_ms: float | None = None) -> Outbox:
    outbox = Outbox(4, max_lead_ms)
    outbox.put(*items)
    return outbox


def taken(outbox: Outbox, now: float = 0.0) -> list[Item]:
    items: list[Item] = []
    while (item := outbox.take(now)) is not None and not isinstance(item, float):
        items.append(item)
    return items


def test_items_leave_in_the_order_they_came_and_answers_before_all() -> None:
    first, second = frame(1), frame(2)
    outbox = filled(WORD, first, second, Done("a", 160))
    outbox.answer(PAUSED)
    assert taken(outbox) == [PAUSED, WORD, first, second, Done("a", 160)]
    assert outbox.empty
    assert not outbox.ready


def test_a_frame_leaves_behind_the_events_that_were_queued_with_it() -> None:
    first, second = frame(1), frame(2)
    outbox = filled(first)
    outbox.put_frame(second, [WORD, Done("a", 80)])
    assert (outbox.waiting, outbox.events) == (2, 2)
    assert taken(outbox) == [first, WORD, Done("a", 80), second]
    assert (outbox.waiting, outbox.sent) == (0, 2)


def test_the_clock_counts_frames_that_left_and_frames_that_wait() -> None:
    outbox = filled(WORD, frame(), frame())
    assert (outbox.clock_ms, outbox.sent, outbox.waiting) == (160, 0, 2)
    outbox.take(0)
    outbox.take(0)
    assert (outbox.clock_ms, outbox.sent, outbox.waiting) == (160, 1, 1)


def test_it_is_full_at_its_capacity_and_events_take_no_room() -> None:
    outbox = filled(*[frame()] * 3, *[WORD] * 9)
    assert outbox.waiting < outbox.capacity
    assert outbox.events == 9
    outbox.put(frame())
    assert outbox.waiting == outbox.capacity
    outbox.take(0)
    assert outbox.waiting < outbox.capacity


def test_nothing_but_answers_leaves_while_it_is_held() -> None:
    outbox = filled(WORD, frame())
    outbox.hold(0)
    assert outbox.take(0) is None
    assert not outbox.ready
    outbox.answer(PAUSED)
    assert outbox.ready
    assert taken(outbox) == [PAUSED]
    outbox.release()
    assert [type(item) for item in taken(outbox)] == [WordEvent, Frame]


def test_one_who_cannot_send_audio_gets_the_answers_alone() -> None:
    outbox = filled(frame())
    outbox.answer(PAUSED)
    assert outbox.take(0, answers_only=True) == PAUSED
    assert outbox.take(0, answers_only=True) is None
    assert outbox.sent == 0


def test_a_cut_forgets_what_was_not_sent_and_keeps_the_clock() -> None:
    outbox = filled(WORD, frame(), WORD, frame(), Done("a", 160))
    outbox.take(0)
    outbox.take(0)
    outbox.hold(0)
    outbox.cut()
    assert (outbox.sent, outbox.waiting, outbox.clock_ms) == (1, 0, 80)
    assert taken(outbox) == [Cut()]


def test_a_cut_keeps_the_end_of_what_was_sent_to_its_last_sample() -> None:
    outbox = filled(frame(), Done("a", 80), WORD, frame(), Done("b", 160))
    outbox.take(0)
    outbox.cut()
    outbox.put(Done("c", 80))
    outbox.cut()
    assert taken(outbox) == [Done("a", 80), Done("c", 80), Cut()]


def test_a_restart_keeps_answers_and_nothing_else() -> None:
    outbox = filled(frame(), frame(), Done("a", 160))
    outbox.take(0)
    outbox.hold(0)
    outbox.answer(PAUSED)
    outbox.restart()
    assert (outbox.sent, outbox.waiting, outbox.clock_ms) == (0, 0, 0)
    assert taken(outbox) == [PAUSED]
    outbox.put(WORD)
    assert taken(outbox) == [WORD]


def test_answers_that_die_with_their_server_take_no_room_at_the_next_one() -> None:
    """Else the commands of a client whose conversation was taken over were read more slowly, or not at all."""
    outbox = filled(frame())
    outbox.answer(Paused(0, "said " * 1000, "", ()))
    outbox.go_on_from(0, [])
    assert (outbox.answers, outbox.answer_bytes) == (0, 0)


def test_answers_that_nobody_reads_are_dropped_when_there_are_too_many() -> None:
    outbox = Outbox(4, None)
    long = Paused(0, "", "x" * 100_000, tuple(HeardWord("a", 0, 1, True) for _ in range(1000)))
    for event in (PAUSED, long):
        size = size_of(event)
        fit = -(-MAX_ANSWER_BYTES // size)
        before = outbox.dropped
        for _ in range(fit + 7):
            outbox.answer(event)
        assert outbox.dropped == before + 7
        assert outbox.answers == fit
        assert outbox.answer_bytes == fit * size
        assert len(taken(outbox)) == fit
        assert outbox.answer_bytes == 0


def test_sending_stays_within_the_lead_and_then_goes_at_the_speed_of_playback() -> None:
    outbox = filled(*[frame()] * 20, max_lead_ms=400)
    assert len(taken(outbox, now=100.0)) == 5
    assert outbox.take(100.0) == pytest.approx(0.08)
    assert outbox.take(100.07) == pytest.approx(0.01)
    assert len(taken(outbox, now=100.0801)) == 1
    assert len(taken(outbox, now=100.4001)) == 4
    assert outbox.lead_ms(100.6) == pytest.approx(10 * 80 - 600)


def test_a_listener_with_nothing_to_play_gains_no_time_by_waiting() -> None:
    outbox = filled(*[frame()] * 3, max_lead_ms=240)
    assert len(taken(outbox, now=0.0)) == 3
    outbox.put(*[frame()] * 10)
    assert len(taken(outbox, now=1000.0)) == 3


def test_time_stands_still_for_the_listener_while_it_is_held() -> None:
    outbox = filled(*[frame()] * 20, max_lead_ms=400)
    taken(outbox, now=0.0)
    outbox.hold(0.2)
    outbox.hold(5.0)
    outbox.release()
    assert len(taken(outbox, now=1000.0)) == 2  # what was played before the pause


def test_after_a_cut_the_listener_has_nothing_left_to_play() -> None:
    outbox = filled(*[frame()] * 20, max_lead_ms=400)
    taken(outbox, now=0.0)
    outbox.hold(0.0)
    outbox.cut()
    outbox.put(*[frame()] * 20)
    assert [type(item) for item in taken(outbox, now=0.0)] == [Cut, *[Frame] * 5]


def test_the_latency_of_a_first_frame_is_told_when_the_frame_can_leave() -> None:
    outbox = filled(*[frame()] * 5, Done("a", 400), FirstFrame("b", 0.0), WORD, frame(), max_lead_ms=400)
    assert taken(outbox, now=0.0)[-1] == Done("a", 400)
    assert outbox.take(0.0) == pytest.approx(0.08)
    assert [type(item) for item in taken(outbox, now=0.081)] == [FirstFrame, WordEvent, Frame]


def test_without_a_lead_nothing_ever_waits() -> None:
    assert len(taken(filled(*[frame()] * 99))) == 99


@given(st.lists(st.floats(0, 0.5), max_size=40), st.integers(80, 1000))
def test_the_lead_is_never_exceeded_and_never_wasted(waits: list[float], lead_ms: int) -> None:
    outbox, now, played = filled(*[frame()] * 500, max_lead_ms=lead_ms), 0.0, 0.0
    for wait in [0.0, *waits]:
        now += wait
        played = min(outbox.sent * FRAME_MS, played + wait * 1000)
        taken(outbox, now)
        assert -1e-6 <= played + lead_ms - outbox.sent * FRAME_MS <= FRAME_MS + 1e-6


def test_pace_only_looks_when_it_is_asked_for_the_lead() -> None:
    pace = Pace(400)
    pace.wait(0, 0.0)
    assert [pace.lead_ms(400, at) for at in (0.1, 0.3, 0.1)] == pytest.approx([300, 100, 300])
    assert pace.played_ms(400, 0.2) == pytest.approx(200)


def in_threads(*jobs: Callable[[], object]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_word_tells_its_time_however_the_reader_pulls_meanwhile() -> None:
    outbox, count = Outbox(10**9, None), 20_000
    clocks: list[int] = []
    got: list[Item] = []

    def put() -> None:
        for number in range(count):
            clocks.append(outbox.clock_ms)
            outbox.put(frame(number))

    def take() -> None:
        while len(got) < count:
            item = outbox.take(0)
            if isinstance(item, Frame):
                got.append(item)

    in_threads(put, take)
    assert clocks == [number * FRAME_MS for number in range(count)]
    assert [int(item.pcm[0]) for item in got if isinstance(item, Frame)] == list(range(count))


def test_no_frame_leaves_between_paused_and_resumed_whatever_the_reader_does() -> None:
    outbox, rounds = Outbox(10**9, None), 2000
    got: list[Item] = []
    over = threading.Event()

    def command() -> None:
        for number in range(rounds):
            outbox.put(frame(number))
            outbox.hold(0)
            outbox.answer(PAUSED)
            if number % 3 == 0:
                outbox.cut()
            else:
                outbox.answer(Resumed())
                outbox.release()
        over.set()

    def take() -> None:
        while not (over.is_set() and outbox.empty):
            item = outbox.take(0)
            if item is not None and not isinstance(item, float):
                got.append(item)

    in_threads(command, take)
    held = False
    for item in got:
        held = isinstance(item, Paused) or (held and not isinstance(item, Resumed | Cut))
        assert not (held and isinstance(item, Frame))
