"""How the bundled voice's speech is kept: codes of nine bits, times of words, shards that resume; letters for Flite."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import corpus
import speak
from corpus import Spoken, pack, read_shard, unpack, write_shard


def utterance(number: int, frames: int = 20) -> Spoken:
    dice = np.random.default_rng(number)
    return Spoken(
        number,
        f"Word{number} two, three.",
        [(0.05, 0.31), (0.31, 0.4), (0.72, 1.1)],
        dice.integers(0, 512, (8, frames), np.uint16),
    )


@given(st.integers(0, 40), st.integers(0, 99))
def test_codes_come_back_from_nine_bits_each(frames: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 512, (8, frames), np.uint16)
    assert len(pack(codes)) == 9 * frames
    assert np.array_equal(unpack(pack(codes)), codes)


def test_a_code_that_needs_ten_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="a code of 512 does not fit into 9 bits"):
        pack(np.full((8, 1), 512, np.uint16))


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    said = [utterance(0), utterance(1, 7), utterance(65535, 1)]
    write_shard(tmp_path / "0000.npz", said)
    found = list(read_shard(tmp_path / "0000.npz"))
    assert [(u.speaker, u.text, u.times) for u in found] == [(u.speaker, u.text, u.times) for u in said]
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(found, said, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["0000.npz"]


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.02, 0.9)), min_size=1, max_size=30))
def test_times_are_within_a_tick_however_many_words_there_are(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[tuple[float, float]]
) -> None:
    times, at = [], 0.0
    for gap, length in gaps:
        times.append((at + gap, at + gap + length))
        at += gap + length
    path = tmp_path_factory.mktemp("shard") / "0000.npz"
    write_shard(path, [Spoken(0, "x " * len(times), times, np.zeros((8, 1), np.uint16))])
    [found] = read_shard(path)
    assert np.allclose(found.times, times, atol=0.0051 + corpus.TICK)
    assert np.allclose(found.times[-1][1], times[-1][1], atol=0.0051)


def test_hours_are_counted_over_all_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"{number:04}.npz", [utterance(0, 4500)])
    assert corpus.hours(tmp_path) == pytest.approx(0.3)


# ---- Who speaks, and how ----


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A cat has a hat.", "A cat has a hat."),
        ("Your code is A seven B.", "Your code is ay seven B."),
        ("A B C", "ay B C"),
        ("A seven, please. A house.", "A seven, please. A house."),
        ("Plan A, not plan B.", "Plan ay, not plan B."),
        ("Hmm, mm well.", "hum, hum well."),
        ("The comma hums.", "The comma hums."),
    ],
)
def test_flite_is_told_where_a_is_a_letter(text: str, read: str) -> None:
    assert speak.respelt(text) == read
    assert len(speak.respelt(text).split()) == len(text.split())


def test_a_higher_voice_is_shorter_by_the_same_factor_and_sounds_higher() -> None:
    time = np.arange(16_000) / 16_000
    made = speak.higher(1000 * np.sin(2 * np.pi * 200 * time), 1.25)
    spectrum = np.abs(np.fft.rfft(made))
    assert len(made) == 12_800
    assert np.argmax(spectrum) * 16_000 / len(made) == pytest.approx(250, abs=2)
    assert np.abs(made).max() == pytest.approx(1000, rel=0.02)
    assert len(speak.higher(np.sin(time), 0.8)) == 20_000


def test_every_shard_has_a_guest_of_its_own_that_sounds_like_nobody_known() -> None:
    guests = [speak.guest(number) for number in range(200)]
    assert guests == [speak.guest(number) for number in range(200)]
    assert len({part.speaker for part in guests}) == 200
    assert min(part.speaker for part in guests) == 2
    assert {part.voice for part in guests} == {0, 1, 2}
    low, high = speak.PITCH
    assert all(low <= part.pitch <= high and abs(np.log(part.pitch)) >= speak.TOO_ALIKE for part in guests)


class FakeFlite:
    """Words of 0.2 s, behind 0.2 s of silence; refuses digits as Flite does where it splits them."""

    def speak(self, voice: int, text: str, stretch: float) -> tuple[np.ndarray, list[tuple[float, float]]]:
        if any(letter.isdigit() for letter in text):
            raise ValueError("words do not fit")
        length = 0.2 * stretch
        times = [(0.2 + n * length, 0.2 + (n + 1) * length) for n in range(len(text.split()))]
        sound = np.zeros(round((times[-1][1] + 0.3) * 16_000), np.int16)
        sound[3200 : round(times[-1][1] * 16_000)] = 8000
        return sound, times


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speak, "_flite", FakeFlite())


def test_both_speakers_have_one_pace_and_are_levelled(fake: None) -> None:
    (first, times), (second, _) = (speak.read(voice, "One two three four.", 1.1) for voice in (0, 1))
    assert len(first) / len(second) == pytest.approx(0.8 * 1.12 * 1.1 + 0.2, abs=0.15)
    assert np.max(first) == round(8000 * 10 ** (speak.GAIN_DB[0] / 20))
    assert np.max(second) == round(8000 * 10 ** (speak.GAIN_DB[1] / 20))
    assert times[0][0] == pytest.approx(speak.PAD[0])


def test_a_guests_words_stand_where_they_sound(fake: None) -> None:
    sound, times = speak.read(2, "One two.", 1.0, pitch=1.25)
    assert len(sound) / 16_000 == pytest.approx(times[-1][1] + speak.PAD[1] / 1.25, abs=0.01)
    assert times[0][1] - times[0][0] == pytest.approx(0.2 * speak.PACE[2], abs=0.005)


def test_a_shard_has_both_speakers_and_its_guest_and_skips_what_flite_refuses(fake: None) -> None:
    sounds, about = speak.shard_of(3, ["Hello there."] * 200 + ["It is 5."] * 10)
    counts = [sum(speaker == who for speaker, _, _ in about) for who in (0, 1, 5)]
    assert len(sounds) == len(about) == sum(counts) == 200
    assert min(counts[:2]) > 60
    assert 8 < counts[2] < 50
    again = speak.shard_of(3, ["Hello there."] * 200)[1]
    assert again == about


def test_shards_that_are_there_are_not_made_again_and_work_stops_when_told(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"Line {'abcdefghij'[n]}.\n" for n in range(10)))
    waiting = speak.jobs(tmp_path / "texts.txt", tmp_path / "out", 3)
    assert [(job.path.name, len(job.texts)) for job in waiting] == [
        (f"000{n}.npz", k) for n, k in enumerate((3, 3, 3, 1))
    ]
    made: list[int] = []

    def make(job: speak.Job) -> float:
        made.append(job.number)
        job.path.touch()
        return 1.0

    speak.work(make, waiting, 1, lambda hours: hours >= 2)
    assert made == [0, 1]
    assert [job.number for job in speak.jobs(tmp_path / "texts.txt", tmp_path / "out", 3)] == [2, 3]


def touch(job: speak.Job) -> float:
    """For another process."""
    job.path.touch()
    return 1.0


def test_several_processes_end_when_told_and_finish_what_they_have_begun(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A line.\n" * 40)
    waiting = speak.jobs(tmp_path / "texts.txt", tmp_path / "out", 1)
    speak.work(touch, waiting, 2, lambda hours: hours >= 3)
    assert len(list((tmp_path / "out").glob("*.npz"))) in (3, 4)
    speak.work(touch, speak.jobs(tmp_path / "texts.txt", tmp_path / "out", 1), 2, lambda _: False)
    assert len(list((tmp_path / "out").glob("*.npz"))) == 40


def test_random_lines_of_every_length_are_dealt_out_whole(tmp_path: Path) -> None:
    lines = ["word " * random.Random(n).randint(1, 9) for n in range(25)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    dealt = [text for job in speak.jobs(tmp_path / "texts.txt", tmp_path, 10) for text in job.texts]
    assert dealt == lines


# ---- What is heard ----


class CountingEncoders:
    """Codes that say which encoder made them."""

    def analysed(self, sounds: list[np.ndarray]) -> list[np.ndarray]:
        return [np.full((8, len(sound)), 1, np.uint16) for sound in sounds]

    def heard(self, sounds: list[np.ndarray]) -> list[np.ndarray]:
        return [np.full((8, len(sound)), 2, np.uint16) for sound in sounds]


def test_what_guests_say_and_a_share_of_the_rest_is_there_again_as_the_encoder_hears_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = [(7 if n % 8 == 0 else n % 2, f"Word{n}.", [(0.0, 0.1)]) for n in range(400)]
    monkeypatch.setattr(
        speak, "shard_of", lambda number, texts: ([np.zeros(1 + n % 5, np.int16) for n in range(400)], about)
    )
    job = speak.Job(tmp_path / "0000.npz", 0, [])
    made = corpus.make_shard(job, CountingEncoders())  # type: ignore[arg-type]
    found = list(read_shard(job.path))
    said, heard = found[:400], found[400:]
    assert [(u.speaker, u.text) for u in said] == [(speaker, text) for speaker, text, _ in about]
    assert {int(code) for u in said for code in u.codes.flat} == {1}
    assert {int(code) for u in heard for code in u.codes.flat} == {2}
    by_text = {u.text: u for u in said}
    assert all(u.speaker - corpus.HEARD == by_text[u.text].speaker for u in heard)
    assert all(u.codes.shape == by_text[u.text].codes.shape for u in heard)
    assert sum(u.speaker == corpus.HEARD + 7 for u in heard) == 50
    assert 3 <= sum(u.speaker < corpus.HEARD + 2 for u in heard) <= 30
    assert made == pytest.approx(corpus.hours(tmp_path))
