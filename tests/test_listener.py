"""How much a client was sent, and how much of that was heard."""

from dia2stream.items import FRAME_MS
from dia2stream.server.dialects.dialect import Standing
from dia2stream.server.dialects.listener import Listener


def sent(frames: int, clock_ms: int = 0) -> Listener:
    """A listener who was sent frames all at once, at 100 s."""
    listener = Listener()
    listener.begin(Standing(begun=clock_ms > 0, clock_ms=clock_ms))
    for _ in range(frames):
        listener.send(100.0)
    return listener


def test_a_listener_plays_what_it_has_in_real_time_and_no_more():
    listener = sent(10)
    assert listener.played_ms(100.0) == 0
    assert listener.played_ms(100.5) == 500
    assert listener.played_ms(107.0) == listener.clock_ms == 10 * FRAME_MS


def test_a_client_counts_from_when_it_came():
    listener = sent(10, clock_ms=4000)
    assert (listener.clock_ms, listener.position_ms) == (4800, 800)
    assert listener.clock_at(300) == 4300
    assert listener.clock_at(9000) == 4800  # what is still to come cannot have been heard


def test_what_was_interrupted_is_not_counted_however_often_it_is_told():
    listener = sent(10)
    listener.stand_still(480)
    assert (listener.position_ms, listener.is_still) == (480, True)
    listener.stand_still(400)  # it was less, says the client
    assert listener.position_ms == 400
    listener.go_on()
    listener.send(101.0)
    assert (listener.clock_ms, listener.position_ms, listener.is_still) == (880, 480, False)
    assert listener.clock_at(480) == 880


def test_a_client_that_threw_away_what_it_had_hears_what_comes_next():
    listener = sent(10)
    listener.drop()
    listener.send(103.0)
    assert listener.played_ms(103.0625) == 862.5


def test_a_new_conversation_begins_at_0():
    listener = sent(10, clock_ms=4000)
    listener.stand_still(4400)
    listener.restart()
    assert (listener.clock_ms, listener.position_ms, listener.played_ms(200.0)) == (0, 0, 0)
