"""A spectrogram for the README: `picture.py SOUND.wav PICTURE.png [--seconds 5]`."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import soundfile

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sound", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    sound, rate = soundfile.read(given.sound, dtype="float32")
    sound = sound[: round(given.seconds * rate)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(sound, 512), 1024)[::120]
    levels = 20 * np.log10(np.abs(np.fft.rfft(windows * np.hanning(1024), axis=1)) + 1e-3).T
    figure, axes = pyplot.subplots(figsize=(9, 2.6), layout="constrained")
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=levels.max() - 70,
        extent=(0, len(sound) / rate, 0, rate / 2000),
    )
    axes.set(ylim=(0, 8), xlabel="s", ylabel="kHz")
    figure.savefig(given.picture, dpi=100)


if __name__ == "__main__":
    main()
