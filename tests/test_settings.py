"""What a conversation is sampled with: the start command's fields, then the options, then the checkpoint's defaults."""

from dataclasses import asdict, fields

from dia2.checkpoint.sampling_defaults import RANGES
from dia2.model.sampling import SamplingConfig, SamplingDefaults, SlotSettings
from dia2stream.conversation.settings import sampling_of, settled, slot_settings
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import FIELDS
from dia2stream.protocol.messages import Start

CHECKPOINT = SamplingDefaults(cfg_scale=2.0, audio_temperature=0.3, audio_top_k=9)


def test_without_options_the_checkpoint_says_all():
    assert slot_settings(Start("Hello."), settled(SpeechOptions(), CHECKPOINT)) == SlotSettings(
        2.0, 50, SamplingConfig(0.7, 50), SamplingConfig(0.3, 9)
    )


def test_options_go_before_the_checkpoint_and_the_start_command_before_both():
    options = settled(SpeechOptions(audio_temperature=0.6, cfg_scale=1.5), CHECKPOINT)
    chosen = slot_settings(Start("Hello.", cfg_scale=4.0), options)
    assert chosen == SlotSettings(4.0, 50, SamplingConfig(0.7, 50), SamplingConfig(0.6, 9))


def test_an_option_of_0_is_no_missing_one():
    options = settled(SpeechOptions(audio_temperature=0.0, cfg_filter_k=0), CHECKPOINT)
    assert (options.audio_temperature, options.cfg_filter_k) == (0.0, 0)
    assert slot_settings(Start("Hello.", audio_temperature=0.0), settled(SpeechOptions(), CHECKPOINT)).audio == (
        SamplingConfig(0.0, 9)
    )


def test_what_is_settled_stays_as_it_is_and_can_be_told():
    options = settled(SpeechOptions(seed=3), CHECKPOINT)
    assert settled(options, SamplingDefaults()) == options
    assert options.seed == 3
    assert sampling_of(options) == asdict(CHECKPOINT)


def test_a_checkpoint_that_says_nothing_is_sampled_as_ever():
    assert slot_settings(Start("Hello."), settled(SpeechOptions(), SamplingDefaults())) == SlotSettings()


def test_a_manifest_is_held_to_the_ranges_of_the_start_command():
    assert list(RANGES) == [field.name for field in fields(SamplingDefaults)]
    assert {name: (FIELDS[name].low, FIELDS[name].high) for name in RANGES} == RANGES
