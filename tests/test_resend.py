"""What is kept of what was sent."""

from dia2stream.protocol.messages import (
    WordEvent,
)


def test_what_was_sent_is_kept_for_a_while_and_past_a_cut_as_silence():
    from dia2stream.items import Frame
    from dia2stream.server.resend import KEPT_FRAMES, SILENCE, Sent

    sent = Sent()
    items = [Frame(pcm=None), WordEvent("a", "one", "S1", 80), Frame(pcm=None), Frame(pcm=None)]
    for item in items:
        sent.add(item)
    assert sent.since(0) == items
    assert sent.since(80) == items[1:]
    assert sent.since(239.99) == []
    sent.cut()
    assert sent.since(80) == [SILENCE, SILENCE]
    after = WordEvent("b", "two", "S1", 240)
    sent.add(after)
    assert sent.since(160) == [SILENCE, after]
    assert sent.kept_from_ms == 0
    for _ in range(2 * KEPT_FRAMES):
        sent.add(Frame(pcm=None))
    assert len(sent.since(0)) == len(sent.since(sent.kept_from_ms)) == KEPT_FRAMES
    assert sent.kept_from_ms == (3 + KEPT_FRAMES) * 80
