"""Packs what a GPU machine needs into folders that can travel: `bundle.py FOLDER OUT [--mib 18]`.

FOLDER is that of `make`. OUT/1, OUT/2 ... have at most so many MiB each: tokenizer and codes, and with the second the
codec, Flite's libraries and the texts that sound for the decoder is made of there. `device` collects them.
"""

import argparse
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

import codec
import corpus
from flite import VOICES
from safetensors.torch import load_file, save_file

LINES = 20_000  # of the texts, which are some 20 hours of sound
LIBRARIES = ("libflite", "libflite_usenglish", "libflite_cmulex", *(f"libflite_cmu_us_{name}" for name in VOICES))
SYSTEM = Path("/usr/lib/x86_64-linux-gnu")


def halved(path: Path, out: Path) -> None:
    """A half of the codec in float16, but for codebooks: codes must stay what they are."""
    weights = load_file(path)
    save_file({name: w if "codebook" in name else w.half() for name, w in weights.items()}, out)


def decoder_needs(folder: Path, out: Path, system: Path) -> None:
    """Codec, Flite and texts."""
    (out / "codec").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "codec" / codec.ANALYSIS, out / "codec" / codec.ANALYSIS)
    for half in ("encoder", "decoder"):
        halved(folder / "codec" / f"{half}.safetensors", out / "codec" / f"{half}.safetensors")
    (out / "flite").mkdir(exist_ok=True)
    for name in (*(f"{library}.so.1" for library in LIBRARIES), "libasound.so.2"):
        (out / "flite" / f"{name}.xz").write_bytes(lzma.compress((system / name).read_bytes(), preset=6))
    lines = (folder / "texts" / "texts.txt").read_text(encoding="utf-8").splitlines()[:LINES]
    (out / "texts.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bundle(folder: Path, out: Path, most: int, system: Path = SYSTEM) -> list[Path]:
    """Writes the parts, of `most` bytes each; returns them.

    Raises FileExistsError if there are some, and ValueError if a part could not hold a single shard.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    found = corpus.shards(folder / "codes")
    largest = max(path.stat().st_size for path in found)
    if largest > most:
        raise ValueError(f"a shard of {largest} bytes does not fit into a part of {most}")
    shards: Iterator[Path] = iter(found)
    shard, parts = next(shards, None), list[Path]()
    while shard is not None or len(parts) < 2:
        part = out / str(len(parts) + 1)
        (part / "codes").mkdir(parents=True)
        if not parts:
            shutil.copytree(folder / "tokenizer", part / "tokenizer")
            shutil.copyfile(folder / "codes" / "silence.npy", part / "codes" / "silence.npy")
        elif len(parts) == 1:
            decoder_needs(folder, part, system)
        used = size(part)
        while shard is not None and (used := used + shard.stat().st_size) <= most:
            shutil.copyfile(shard, part / "codes" / shard.name)
            shard = next(shards, None)
        parts.append(part)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mib", type=float, default=18.0)
    given = parser.parse_args()
    for part in bundle(given.folder, given.out, round(given.mib * 2**20)):
        print(f"{part}: {size(part) / 2**20:.1f} MiB, {corpus.hours(part / 'codes'):.1f} hours")


if __name__ == "__main__":
    main()
