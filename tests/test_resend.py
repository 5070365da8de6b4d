"""What is kept of what was sent."""

import numpy as np

from dia2stream.items import Cut, Frame
from dia2stream.protocol.messages import WordEvent
from dia2stream.server.resend import KEPT_FRAMES, SILENCE, Sent


def test_what_was_sent_is_kept_for_a_while_and_past_a_cut_as_silence():
    sent = Sent()
    items = [Frame(pcm=None), WordEvent("a", "one", "S1", 80), Frame(pcm=None), Frame(pcm=None)]
    for item in items:
        sent.add(item)
    assert sent.since(0) == items
    assert sent.since(80) == items[1:]
    assert sent.since(239.99) == []
    sent.cut()
    assert sent.since(80) == [SILENCE, SILENCE, Cut()]
    after = WordEvent("b", "two", "S1", 240)
    sent.add(after)
    assert sent.since(160) == [SILENCE, Cut(), after]
    assert sent.kept_from_ms == 0
    for _ in range(2 * KEPT_FRAMES):
        sent.add(Frame(pcm=None))
    assert len(sent.since(0)) == len(sent.since(sent.kept_from_ms)) == KEPT_FRAMES
    assert sent.kept_from_ms == (3 + KEPT_FRAMES) * 80


def test_an_encoder_is_led_in_by_the_frame_before_unless_the_sound_begins_there():
    sent, frames = Sent(), [Frame(np.full(1920, n, np.float32)) for n in range(4)]
    assert sent.lead_in(0) == []
    for frame in frames[:2]:
        sent.add(frame)
    assert [sent.lead_in(ms) for ms in (0, 80, 160)] == [[], [frames[0]], [frames[1]]]
    sent.cut()
    assert sent.lead_in(160) == []
    assert sent.lead_in(80) == [SILENCE]
    sent.add(frames[2])
    assert sent.lead_in(240) == [frames[2]]
    for _ in range(2 * KEPT_FRAMES):
        sent.add(frames[3])
    assert (
        sent.lead_in(0) == sent.lead_in(sent.kept_from_ms) == [frames[3]]
    )  # who comes back after too long gets what is kept
