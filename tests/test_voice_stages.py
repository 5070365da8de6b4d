"""From stage to stage of the bundled voice: gates that can fail, parts that travel, and the checkpoint's 8 bits."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dia2.checkpoint.int8 import dequantized

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import average
import bundle
import codec_net
import corpus
import export
import gates
import silence

SOUND_SECONDS = 3


def write_codes(folder: Path, speakers: list[int], frames: int, shards: int = 1) -> None:
    said = [
        corpus.Spoken(speaker, "One two.", [(0, 1), (1, 2)], np.zeros((8, frames), np.uint16)) for speaker in speakers
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        corpus.write_shard(folder / f"{number:04}.npz", said)


def write_speech(folder: Path, levels: tuple[float, float], seconds: tuple[float, float], count: int = 1) -> None:
    """Tones of each speaker at so many dB below full scale, `count` of each, whose words last so long."""
    time = np.arange(SOUND_SECONDS * 16_000) / 16_000
    tones = [np.round(32767 * 10 ** (level / 20) * np.sin(2 * np.pi * 997 * time)).astype(np.int16) for level in levels]
    about = [
        [speaker, "Hello there.", [[0, length / 2], [length / 2, length]]] for speaker, length in enumerate(seconds)
    ]
    np.savez(
        folder / "0000.npz",
        sound=np.concatenate(tones * count),
        ends=np.cumsum([len(t) for t in tones * count]),
        about=json.dumps(about * count),
    )


def test_speech_passes_at_one_level_and_one_pace_only(tmp_path: Path) -> None:
    write_speech(tmp_path, (-15, -15.2), (1.0, 1.02))
    assert list(gates.of_speech(tmp_path)) == []
    write_speech(tmp_path, (-15, -18), (1.0, 1.02))
    assert list(gates.of_speech(tmp_path)) == ["S2 is at -21.0 LUFS, not -18"]
    write_speech(tmp_path, (-15, -15), (1.0, 1.2))
    assert list(gates.of_speech(tmp_path)) == ["S1 says 12.0 letters a second, S2 10.0"]


def test_the_level_of_much_speech_is_measured_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MEASURED", 7.0)
    sizes, measured = [], gates.loudness

    def noted(sound: np.ndarray, rate: int) -> float:
        sizes.append(len(sound) / rate)
        return measured(sound, rate)

    monkeypatch.setattr(gates, "loudness", noted)
    write_speech(tmp_path, (-15, -18), (1.0, 1.0), count=8)
    assert list(gates.of_speech(tmp_path)) == ["S2 is at -21.0 LUFS, not -18"]
    assert sizes == [9, 9, 6] * 2


def test_codes_pass_with_enough_hours_of_both_speakers_only(tmp_path: Path) -> None:
    write_codes(tmp_path / "a", [0, 1, 7], frames=460_000)
    assert list(gates.of_codes(tmp_path / "a")) == []
    write_codes(tmp_path / "b", [0, 0, 1, 7], frames=100_000)
    assert [fault.split(",")[0] for fault in gates.of_codes(tmp_path / "b")] == ["6.7 hours", "S1 has 200000 frames"]


def test_texts_pass_when_there_are_many_and_no_word_is_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "LINES", 30)
    (tmp_path / "texts.txt").write_text("A dog.\n" * 30)
    assert list(gates.of_texts(tmp_path)) == []
    (tmp_path / "texts.txt").write_text("A dog.\n" * 25 + "A cat.\n")
    faults = list(gates.of_texts(tmp_path))
    assert faults == ["26 lines, not 30", "33.3% of the words stand fewer than 20 times, more than 1%"]


def test_a_checkpoint_passes_below_its_size_only(tmp_path: Path) -> None:
    (tmp_path / "mimi").mkdir()
    with (tmp_path / "mimi" / "model.safetensors").open("wb") as file:
        file.truncate(39_900_000)
    assert list(gates.of_checkpoint(tmp_path)) == []
    (tmp_path / "config.json").write_text("x" * 200_000)
    assert list(gates.of_checkpoint(tmp_path)) == ["40.1 MB, more than 40"]


@pytest.mark.parametrize(
    ("wer", "s1", "s2", "faults"), [(6.0, 5.0, 7.0, 0), (8.1, 8.0, 8.2, 1), (6.0, 4.0, 8.0, 1), (20.0, 30.0, 10.0, 2)]
)
def test_words_pass_when_few_are_wrong_for_both_speakers(
    tmp_path: Path, wer: float, s1: float, s2: float, faults: int
) -> None:
    short = {"words": 100, "wer": 50.0, "S1": 0.0, "S2": 100.0}
    lines = [short, {"words": 695, "wer": wer, "S1": s1, "S2": s2}]
    (tmp_path / "judged.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(list(gates.of_words(tmp_path / "judged.json"))) == faults


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({}, None),
        ({"line": -79.9}, "a line of -79.9 dB at 3000 Hz in silence, more than -80"),
        ({"constant": -45.0}, "a constant of -45.0 dB in silence, more than -70"),
        ({"borders": [1.0, 1.6]}, "S2's steps at the borders of frames are 1.6 times those around them, more than 1.5"),
    ],
)
def test_silence_passes_without_a_line_a_constant_and_steps(tmp_path: Path, wrong: dict, fault: str | None) -> None:
    right = {"line": -86.0, "hertz": 3000.0, "constant": -84.0, "borders": [1.1, 0.8]}
    (tmp_path / "silence.json").write_text(json.dumps(right | wrong))
    assert list(gates.of_silence(tmp_path / "silence.json")) == ([] if fault is None else [fault])


def test_a_line_and_a_constant_are_found_in_silence() -> None:
    time = np.arange(2 * silence.WINDOW) / silence.RATE
    line, hertz = silence.loudest_line(10 ** (-70 / 20) * np.sin(2 * np.pi * 3000 * time) + 0.01)
    assert (round(line, 1), hertz) == (-70.0, 3000.0)
    noise = np.random.default_rng(0).normal(size=40 * silence.FRAME)
    found = silence.measured([[noise], [noise]], [np.full(silence.WINDOW, 0.01)])
    assert found["constant"] == -40.0
    assert found["line"] < -150


def test_a_step_at_the_borders_of_frames_is_found() -> None:
    generator = np.random.default_rng(0)
    sounds = [generator.normal(size=200 * silence.FRAME + 77) for _ in range(2)]
    for border in range(silence.FRAME, len(sounds[1]), silence.FRAME):
        sounds[1][border:] += 5
    found = silence.measured([[sounds[0]], [sounds[1]]], [np.zeros(silence.WINDOW)])
    assert 0.8 < found["borders"][0] < 1.2
    assert found["borders"][1] > 3
    assert found["at"][1] == 0


def test_silence_is_exported_as_zero() -> None:
    net = codec_net.CodecNet(codec_net.new_weights(1))
    codes = torch.arange(8)
    held = codes[None, :, None].expand(-1, -1, export.STEADY)
    net.get(export.LAST_BIAS).data.add_(0.01)

    def constant(net: codec_net.CodecNet) -> float:
        with torch.no_grad():
            return float(net.decode(net.dequantize(held))[0, -codec_net.FRAME :].mean())

    assert abs(constant(net)) > 1e-3
    before = {name: tensor.half() for name, tensor in net.weights().items() if "codebook" not in name}
    made = export.grounded(net, codes)
    assert abs(constant(made)) < 1e-5
    after = made.weights()
    assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor.float())] == [
        export.LAST_BIAS
    ]


def test_a_gate_that_does_not_pass_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("A dog.\n")
    monkeypatch.setattr(sys, "argv", ["gates.py", "texts", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        gates.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("gate texts: 1 lines, not 500000\n")


def write_made(made: Path, system: Path, shards: int = 9) -> None:
    """A folder of `make`, and the system's libraries."""
    write_codes(made / "codes", [0, 1], frames=20_000, shards=shards)
    np.save(made / "codes" / "silence.npy", np.zeros((8, 4), np.uint16))
    for folder in ("tokenizer", "codec", "texts"):
        (made / folder).mkdir()
    (made / "tokenizer" / "tokenizer.json").write_text("{}")
    (made / "texts" / "texts.txt").write_text("A dog.\n" * 30)
    tensors = {"conv": torch.full((4,), 1 / 3), "book.codebook.embed_sum": torch.full((4,), 1 / 3)}
    for name in ("encoder", "decoder", "analysis"):
        save_file(tensors, made / "codec" / f"{name}.safetensors")
    system.mkdir()
    for name in (*(f"{library}.so.1" for library in bundle.LIBRARIES), "libasound.so.2"):
        (system / name).write_bytes(b"library")


def test_parts_have_every_shard_once_and_keep_to_their_size(tmp_path: Path) -> None:
    made, system = tmp_path / "made", tmp_path / "system"
    write_made(made, system)
    shard = (made / "codes" / "0000.npz").stat().st_size
    most = bundle.size(bundle.bundle(made, tmp_path / "all", 10**9, bundle.Basis(20, system=system))[0]) - 3 * shard
    parts = bundle.bundle(made, tmp_path / "out", most, bundle.Basis(20, system=system))
    assert all(bundle.size(part) <= most for part in parts)
    names = [path.name for part in parts for path in corpus.shards(part / "codes")]
    assert sorted(names) == [f"{n:04}.npz" for n in range(9)]
    assert len(parts) > 1
    assert all((part / "tokenizer" / "tokenizer.json").exists() for part in parts)
    assert all((part / "codes" / "silence.npy").exists() for part in parts)
    with pytest.raises(FileExistsError):
        bundle.bundle(made, tmp_path / "out", most, bundle.Basis(20, system=system))


def test_the_first_part_has_all_that_codes_are_made_of(tmp_path: Path) -> None:
    write_made(tmp_path / "made", tmp_path / "system")
    part = bundle.bundle(tmp_path / "made", tmp_path / "out", 10**9, bundle.Basis(20, system=tmp_path / "system"))[0]
    bundle.unpack(part)
    assert (part / "tokenizer" / "tokenizer.json").exists()
    assert (part / "codes" / "silence.npy").exists()
    assert (part / "first-shard").read_text() == "9\n"  # 0 to 8 are sent
    assert (part / "texts.txt").read_text() == "A dog.\n" * 20
    assert {path.read_bytes() for path in (part / "flite").iterdir()} == {b"library"}
    for name in ("encoder", "decoder"):
        half = load_file(part / "codec" / f"{name}.safetensors")
        assert (half["conv"].dtype, half["book.codebook.embed_sum"].dtype) == (torch.float16, torch.float32)


def test_a_part_for_what_is_bundled_has_the_analysis_alone(tmp_path: Path) -> None:
    write_made(tmp_path / "made", tmp_path / "system")
    basis = bundle.Basis(20, codec=False, system=tmp_path / "system")
    part = bundle.bundle(tmp_path / "made", tmp_path / "out", 10**9, basis)[0]
    assert [path.name for path in (part / "codec").iterdir()] == ["analysis.safetensors"]


def test_a_part_that_can_hold_nothing_is_refused(tmp_path: Path) -> None:
    write_made(tmp_path / "made", tmp_path / "system", shards=1)
    (tmp_path / "made" / "tokenizer" / "tokenizer.json").write_text("{}" * 100_000)
    shard = (tmp_path / "made" / "codes" / "0000.npz").stat().st_size
    for most, fault in ((100, "a shard of "), (shard, "without codes, a part has ")):
        with pytest.raises(ValueError, match=fault):
            bundle.bundle(
                tmp_path / "made", tmp_path / f"out-{most}", most, bundle.Basis(20, system=tmp_path / "system")
            )


def test_matrices_are_exported_in_8_bits_and_the_rest_in_float16() -> None:
    weights = {"layer": torch.randn(3, 5, 64), "norm": torch.randn(64), "narrow": torch.randn(4, 8)}
    found = export.small(weights)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "layer": torch.int8,
        "layer.scale": torch.float32,
        "norm": torch.float16,
        "narrow": torch.float16,
    }
    apart = (dequantized(found["layer"], found["layer.scale"]) - weights["layer"]).norm()
    assert apart < 0.01 * weights["layer"].norm()


# ---- Models that learnt from a common beginning ----


def test_models_are_averaged_by_their_shares_from_files_parts_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{"layer": torch.full((4, 64), value), "norm": torch.full((8,), value)} for value in (1.0, 2.0, 6.0)]
    save_file(models[0], tmp_path / "whole.safetensors")
    average.lm_net.save_parts(models[1], tmp_path / "parts", most=(1 << 16) + 520)
    (tmp_path / "checkpoint").mkdir()
    save_file(export.small(models[2]), tmp_path / "checkpoint" / "model.safetensors")
    assert len(list((tmp_path / "parts").iterdir())) == 2
    paths = [str(tmp_path / name) for name in ("out.safetensors", "whole.safetensors", "parts", "checkpoint")]
    for shares, expected in (([], 3.0), (["--shares", "2", "1", "1"], 2.5)):
        monkeypatch.setattr(sys, "argv", ["average.py", *paths, *shares])
        average.main()
        found = load_file(tmp_path / "out.safetensors")
        assert {name: tensor.shape for name, tensor in found.items()} == {"layer": (4, 64), "norm": (8,)}
        assert all(torch.allclose(tensor, torch.full_like(tensor, expected), rtol=0.01) for tensor in found.values())


def test_models_of_other_tensors_and_missing_shares_are_refused() -> None:
    one, other = {"a": torch.zeros(1)}, {"b": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"not the same tensors: \['a', 'b'\]"):
        average.average([one, other], [1, 1])
    with pytest.raises(ValueError, match="1 shares for 2 models"):
        average.average([one, one], [1])
