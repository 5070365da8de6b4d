"""Packs what a GPU machine needs into folders that can travel: `bundle.py pack FOLDER OUT [--mib 18] [--lines N]`.

FOLDER is that of `make`. OUT/1, OUT/2 ... have at most so many MiB each, and each has the tokenizer. The first has
codec, Flite's libraries and texts, of which codes are made there, and as many shards of codes as fit; the others have
more of these.
`device` collects them, and `bundle.py unpack` decompresses what was packed. `--bundled`: the analysis is all of the
codec, as the rest is in the repository and goes on learning (`fine-tune`).
"""

import argparse
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import corpus
from flite import VOICES
from training import halved

LINES = 300_000  # of the texts, which are some 330 hours of sound
LIBRARIES = ("libflite", "libflite_usenglish", "libflite_cmulex", *(f"libflite_cmu_us_{name}" for name in VOICES))
SYSTEM = Path("/usr/lib/x86_64-linux-gnu")
XZ = ".xz"


def pack(content: bytes, path: Path) -> None:
    """Writes PATH.xz."""
    path.with_name(path.name + XZ).write_bytes(lzma.compress(content, preset=6))


def unpack(folder: Path) -> None:
    """Each FILE.xz below a folder becomes FILE."""
    for path in list(folder.rglob(f"*{XZ}")):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()


class Basis(NamedTuple):
    """What the first part has beside codes: so many lines, and the codec or none; and where Flite's libraries are."""

    lines: int = LINES
    codec: bool = True
    system: Path = SYSTEM


EVERYTHING = Basis()


def write_basis(folder: Path, out: Path, basis: Basis) -> None:
    """All but codes."""
    import codec

    (out / "codec").mkdir(parents=True)
    shutil.copyfile(folder / "codec" / codec.ANALYSIS, out / "codec" / codec.ANALYSIS)
    for half in ("encoder", "decoder") if basis.codec else ():
        halved(folder / "codec" / f"{half}.safetensors", out / "codec" / f"{half}.safetensors")
    (out / "flite").mkdir()
    for name in (*(f"{library}.so.1" for library in LIBRARIES), "libasound.so.2"):
        pack((basis.system / name).read_bytes(), out / "flite" / name)
    lines = (folder / "texts" / "texts.txt").read_text(encoding="utf-8").splitlines()[: basis.lines]
    pack("".join(f"{line}\n" for line in lines).encode(), out / "texts.txt")


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bundle(folder: Path, out: Path, most: int, basis: Basis = EVERYTHING) -> list[Path]:
    """Writes the parts, of `most` bytes each; returns them.

    Raises FileExistsError if there are some, and ValueError if the first part is too large without codes, or a part
    could not hold a single shard.
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
    while shard is not None or not parts:
        part = out / str(len(parts) + 1)
        (part / "codes").mkdir(parents=True)
        # In each part, so that the language model can learn from any of them where a machine was lost.
        shutil.copytree(folder / "tokenizer", part / "tokenizer")
        shutil.copyfile(folder / "codes" / "silence.npy", part / "codes" / "silence.npy")
        if not parts:
            write_basis(folder, part, basis)
            # No shard that is sent is made there again.
            (part / "first-shard").write_text(f"{1 + int(found[-1].stem)}\n")
        used = size(part)
        if used > most:
            raise ValueError(f"without codes, a part has {used} bytes, more than {most}")
        while shard is not None and (used := used + shard.stat().st_size) <= most:
            shutil.copyfile(shard, part / "codes" / shard.name)
            shard = next(shards, None)
        parts.append(part)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--mib", type=float, default=18.0)
    parser.add_argument("--lines", type=int, default=LINES, help="of the texts")
    parser.add_argument("--bundled", action="store_true", help="the bundled codec goes on learning: none is packed")
    given = parser.parse_args()
    if given.what == "unpack":
        unpack(given.folder)
        return
    if given.out is None:
        parser.error("pack: OUT is missing")
    basis = Basis(given.lines, codec=not given.bundled)
    for part in bundle(given.folder, given.out, round(given.mib * 2**20), basis):
        print(f"{part}: {size(part) / 2**20:.1f} MiB, {corpus.hours(part / 'codes'):.1f} hours")


if __name__ == "__main__":
    main()
