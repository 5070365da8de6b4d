"""The manuals' lines for players, as they stand there, into sinks that write down what they would have played."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import soundfile
from conftest import CLIPS
from piping import ENVIRONMENT, PATIENCE, ROOT, put_on_path, ran
from tools import needs

MANUALS = [*(ROOT / "dia2").rglob("README.md"), *(ROOT / "dia2stream").rglob("README.md"), ROOT / "README.md"]
SHOWN = "\n".join(path.read_text(encoding="utf-8") for path in MANUALS)
LINES = dict.fromkeys(re.findall(r"^ {4}(.* \| (ffplay|play|aplay|ffmpeg) .*)$", SHOWN, re.MULTILINE))

ALSA = """
pcm.!default { type file slave.pcm null file %s format raw }
pcm.null { type null }
ctl.!default { type null }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the lines find: a script, a voice, and a `dia2stream` that speaks each time it gets other flags, and the
    next time says the same again. It leaves what it said in the file `said`."""
    folder = tmp_path_factory.mktemp("players")
    put_on_path(folder)
    (folder / "dia2stream").rename(folder / "real")
    (folder / "dia2stream").write_text(f"""#!/bin/bash
set -eo pipefail
kept={folder}/$(tr -c a-z0-9 _ <<<"$*")
if [[ ! -e $kept ]]; then
  {folder}/real "$@" | cat >said
  mv said "$kept"
fi
cp "$kept" said
cat said
""")
    (folder / "dia2stream").chmod(0o755)
    (folder / "script.txt").write_text("[S1] Hello there.\n[S2] Hi!\n")
    clip = ["--speaker-1", str(CLIPS / "flite_slt.flac"), "-o", "ann.voice.safetensors"]
    made = ran("voice", "make", "ann", *clip, cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.parametrize(("line", "player"), [pytest.param(*row, id=row[1], marks=needs(row[1])) for row in LINES])
def test_a_player_plays_every_sample(line, player, folder, tmp_path):
    for name in ("script.txt", "ann.voice.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "asound.conf").write_text(ALSA % (tmp_path / "played"))
    sinks = {
        "SDL_AUDIODRIVER": "disk",
        "SDL_DISKAUDIOFILE": str(tmp_path / "played"),
        "AUDIODRIVER": "alsa",
        "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"),
        "DIA2STREAM_SEED": "5",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=tmp_path,
        env=ENVIRONMENT | sinks,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_bytes()
    samples = said[44:] if said.startswith(b"RIFF") else said
    assert len(samples) % 3840 == 0
    if player == "ffmpeg":
        read, rate = soundfile.read(tmp_path / "speech.flac", dtype="int16")
        assert (read.astype("<i2").tobytes(), rate) == (samples, 24000)
        return
    played = (tmp_path / "played").read_bytes()
    if player == "ffplay":  # plays in real time: it stutters on a busy machine, and drops the end of a buffer
        tenths = [samples[start : start + 480] for start in range(0, len(samples), 480)]
        assert sum(part in played for part in tenths) > 0.9 * len(tenths)
    else:
        assert samples in played
