"""Where a listener is, from when playing began and stopped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.plugins.playback import Playback


def test_nothing_is_played_before_it_begins():
    playback = Playback()
    assert not playback.playing
    assert playback.position_ms(now=7.0, received_ms=500) == 0


def test_a_listener_plays_in_real_time_but_not_what_has_not_come():
    playback = Playback()
    playback.started(now=10.0)
    assert playback.position_ms(now=10.4, received_ms=2000) == pytest.approx(400)
    assert playback.position_ms(now=19.0, received_ms=2000) == 2000


def test_all_that_came_was_played_when_playing_stops_and_the_next_goes_on_from_there():
    playback = Playback()
    playback.started(now=10.0)
    playback.stopped(received_ms=2000)
    assert not playback.playing
    assert playback.position_ms(now=50.0, received_ms=2000) == 2000
    playback.started(now=60.0)
    assert playback.position_ms(now=60.1, received_ms=3000) == pytest.approx(2100)


def test_after_an_interruption_the_next_sound_begins_where_it_stands_on_the_clock():
    playback = Playback()
    playback.started(now=10.0)
    playback.interrupted(position_ms=300)
    assert playback.position_ms(now=20.0, received_ms=2000) == 300
    playback.started(now=21.0, at_ms=2000)  # what was thrown away is skipped
    assert playback.position_ms(now=21.2, received_ms=4000) == pytest.approx(2200)


@given(st.lists(st.tuples(st.sampled_from(["start", "stop", "cut"]), st.floats(0, 5), st.floats(0, 3000)), max_size=12))
def test_a_listener_has_never_heard_more_than_came(steps):
    playback, now, received = Playback(), 0.0, 0.0
    for what, seconds, more in steps:
        now, received = now + seconds, received + more
        if what == "start":
            playback.started(now)
        elif what == "stop":
            playback.stopped(received)
        else:
            playback.interrupted(playback.position_ms(now, received))
        assert 0 <= playback.position_ms(now + 1, received) <= received
