"""The whole training in one go on a machine with a GPU, within a given time:

    on_device.py --deadline EPOCH --flite FOLDER --texts TEXTS --tokenizer TOKENIZER.json --init CODEC --out FOLDER

Flite reads the texts on all cores while the codec learns from what is there; then all is encoded and the language
model learns from the codes until the deadline. FOLDER gets codec.safetensors and the language model in float16 parts,
written anew every few seconds: a run that is cut short leaves what it had.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
CODEC_SHARE = 0.42  # of the time that is left at the start
PART = 15 << 20  # bytes of a part of the language model


def say(what: str, begun: float) -> None:
    """A line with the time."""
    print(f"[{time.time() - begun:6.1f}] {what}", flush=True)


def start_flite(given: argparse.Namespace, speech: Path) -> subprocess.Popen[bytes]:
    """Has the texts read in the background, by every core but two."""
    root = given.work / "flite"
    for package in sorted(given.flite.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    environment = os.environ | {"FLITE_LIB": str(libraries), "LD_LIBRARY_PATH": str(libraries), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "speak.py", given.texts, speech]
    options = ["--shard", "60", "--processes", str(given.processes)]
    return subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def publish(checkpoint: Path, out: Path, seen: list[float]) -> None:
    """The language model's last checkpoint, as float16 parts."""
    import torch
    from safetensors.torch import load_file, save_file

    if not checkpoint.exists() or checkpoint.stat().st_mtime in seen:
        return
    seen[:] = [checkpoint.stat().st_mtime]
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, value in load_file(checkpoint).items():
        value = value.half() if value.is_floating_point() else value
        if size + value.nbytes > PART:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    for n, part in enumerate(parts):
        save_file(part, out / f"lm-{n}.part")
        (out / f"lm-{n}.part").replace(out / f"lm-{n}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deadline", type=float, required=True)
    for name in ("flite", "texts", "tokenizer", "init", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/bundled-voice"))
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--codec-batch", type=int, default=24)
    parser.add_argument("--lm-batch", type=int, default=16)
    given = parser.parse_args()
    begun = time.time()
    left = given.deadline - begun
    say(f"{left:.0f} s left", begun)
    speech, codes, codec_file, lm_file = (
        given.work / name for name in ("speech", "codes", "codec.safetensors", "lm.safetensors")
    )
    given.work.mkdir(parents=True, exist_ok=True)
    shutil.copy(given.init, codec_file)
    reading = start_flite(given, speech)

    import torch

    sys.path.insert(0, str(HERE))
    import codec
    import lm

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    say(f"torch {torch.__version__} on {device}", begun)
    spoken = codec.Speech(speech, device, hours=40 if device.type == "cuda" else 0.2)
    while spoken.look() < 16_000 * 60:
        time.sleep(0.1)
    say(f"{spoken.filled / 16_000 / 60:.1f} minutes of speech to begin with", begun)
    net = codec.train(spoken, codec_file, begun + CODEC_SHARE * left, given.codec_batch, 16)
    shutil.copy(codec_file, given.out / "codec.safetensors")
    say("codec trained", begun)
    os.killpg(reading.pid, signal.SIGTERM)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    frames = codec.encode_all(net, speech, codes, device)
    say(f"{frames} frames, {frames / 12.5 / 3600:.1f} hours encoded", begun)
    del spoken, net

    seen: list[float] = []

    def keep_publishing() -> None:
        while True:
            time.sleep(2)
            publish(lm_file, given.out, seen)

    threading.Thread(target=keep_publishing, daemon=True).start()
    lm.train(codes, given.tokenizer, lm_file, given.deadline - 7, batch=given.lm_batch, device=device)
    publish(lm_file, given.out, seen)
    say("done", begun)


if __name__ == "__main__":
    main()
