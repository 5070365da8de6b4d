"""How loud a conversation is: gains by speaker that never jump, and clipping that is bounded."""

import numpy as np
import pytest
from conversations import Rig, toy, toy_voice
from hypothesis import given
from hypothesis import strategies as st

from dia2.checkpoint.corrections import Corrections
from dia2stream.conversation.level import Gain, Level, amplified, amplified_together, factor
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Inject, Pause, Resume, Start, WordEvent

DUET = "[S1] One two three. [S2] Four five. [S1] Six."
EVEN = (-6.0, 6.0)  # of speakers 1 and 2
EVENED = Corrections(speaker_gain_db=EVEN)


def levelled(gain_db: float = 0.0, **options: object) -> Rig:
    return toy(SpeechOptions(cfg_scale=1.0, seed=7, gain_db=gain_db), **options)


def gains(rig: Rig, plain: Rig) -> list[float]:
    """What the first sample of each frame was multiplied by; 0 where it says nothing or is clipped."""
    pairs = zip(rig.frames, plain.frames, strict=True)
    return [float(one[1] / other[1]) if other[1] and abs(one[1]) < 1 else 0.0 for one, other in pairs]


def test_without_gains_nothing_is_done() -> None:
    level = Level()
    assert level.gain(None, None, False) is level.gain(1, 2, False) is level.gain(2, 2, True) is None
    assert levelled().say(DUET).audio.tobytes() == toy().say(DUET).audio.tobytes()


def test_a_gain_moves_over_where_the_speaker_changes() -> None:
    level = Level(0.0, EVEN)
    assert level.gain(None, 2, False) == (factor(6), factor(6))
    assert level.gain(1, 2, False) == (factor(-6), factor(6))
    assert level.gain(1, 2, True) is None  # a voice has a level of its own
    assert Level(3.0, EVEN).gain(1, 1, True) == (factor(3), factor(3))


def test_amplified_sound_has_no_step_and_stays_within_full_scale() -> None:
    steady, louder = np.full(1920, 0.25, np.float32), Gain(1.0, 2.0)
    ramp = amplified(steady, louder)
    assert (ramp[0], ramp[-1]) == (0.25, 0.5)
    assert np.abs(np.diff(ramp)).max() < 0.001
    loud = amplified(np.array([-3.0, -0.5, 0.5, 3.0], np.float32), Gain(4.0, 4.0))
    assert loud.tolist() == [-1.0, -1.0, 1.0, 1.0]


factors = st.sampled_from([0.5, 1.0, 1.4, factor(6)])
some_gains = st.lists(st.one_of(st.none(), st.builds(Gain, factors, factors)), min_size=1, max_size=6)


@given(some_gains, st.integers(0, 9))
def test_conversations_that_share_a_step_sound_as_loud_as_each_alone_bit_for_bit(
    gains: list[Gain | None], seed: int
) -> None:
    sound = np.random.default_rng(seed).normal(0, 0.6, (len(gains), 240)).astype(np.float32)
    together = amplified_together(sound, gains)
    for row, gain in enumerate(gains):
        alone = np.clip(sound[row], -1.0, 1.0) if gain is None else amplified(sound[row], gain)
        assert together[row].tobytes() == alone.tobytes()
        assert not np.shares_memory(together, sound)


@pytest.mark.parametrize("make", [lambda: levelled(corrections=EVENED), lambda: levelled(6.0, corrections=EVENED)])
def test_each_word_has_the_gain_of_its_speaker(make: object) -> None:
    rig, plain = make().say(DUET), toy().say(DUET)  # type: ignore[operator]
    extra = 6.0 if rig.conversation.defaults.gain_db else 0.0
    starts = [word.start_ms // 80 for word in rig.of(WordEvent)]
    found = gains(rig, plain)
    assert rig.of(WordEvent) == plain.of(WordEvent)
    for word, start in zip(rig.of(WordEvent), starts, strict=True):
        if found[start + 1]:
            assert found[start + 1] == pytest.approx(factor(EVEN[int(word.speaker[1]) - 1] + extra), rel=1e-3)


def test_sound_that_is_made_again_is_as_loud_as_before() -> None:
    whole = levelled(corrections=EVENED).say(DUET)
    rig = levelled(corrections=EVENED).do(Start(DUET)).run_until_sent(14)
    rig.do(Pause(), Resume()).run()
    assert rig.audio.tobytes() == whole.audio.tobytes()
    far, near = (levelled(corrections=EVENED, queue_frames=queue).do(Start(DUET)) for queue in (25, 1))
    for one in (far, near):
        one.run_until_sent(20).do(Pause(18 * 80), Inject("[S1] Oh.")).run()
    assert far.audio.tobytes() == near.audio.tobytes()


def test_in_a_voice_only_the_gain_for_all_counts() -> None:
    voices = {"clips": toy_voice()}
    rig = levelled(corrections=EVENED, voices=voices).say(DUET)
    assert rig.audio.tobytes() == levelled(voices=voices).say(DUET).audio.tobytes()
