"""Trains the codec: `codec.py SPEECH CHECKPOINT --deadline EPOCH`. Goes on from CHECKPOINT where there is one.

First as a plain autoencoder, a seventh of the time, so that there are latents worth quantizing; then the codebooks are
placed by k-means, one after the other on what is left over, and training goes on through them, straight-through, while
they follow as moving averages. The loss is on spectra only: log-mel and linear, three sizes. On CUDA a whole step is
one captured graph. `--decoder-only` leaves encoder and codebooks as they are: codes made before stay true.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from codec_net import FRAME, CodecNet, new_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

SPEECH_RATE, RATE = 16_000, 24_000
CONTINUOUS = 1 / 7  # of the time, before quantizing
PEAK_RATE = 1e-3
COMMITMENT = 0.3
LATENTS = 30_000  # to place the codebooks on
REPORT = 5.0  # seconds


def resample(sound: Tensor) -> Tensor:
    """[B, T] at 16 kHz -> [B, 1.5 * T] at 24 kHz, T even."""
    taps = torch.arange(-15, 17, device=sound.device)[None] - torch.arange(3, device=sound.device)[:, None] * 2 / 3
    kernel = torch.sinc(0.97 * taps) * 0.97 * torch.cos(math.pi * taps / 34).square()
    phases = F.conv1d(F.pad(sound, (15, 16))[:, None], kernel[:, None], stride=2)
    return phases.transpose(1, 2).reshape(len(sound), -1)


class Speech:
    """All sound read so far, on the device, int16 at 16 kHz; shards are picked up as they appear."""

    def __init__(self, folder: Path, device: torch.device, hours: float) -> None:
        self.folder, self.device = folder, device
        self.sound = torch.zeros(round(hours * 3600 * SPEECH_RATE), dtype=torch.int16, device=device)
        self.filled = 0
        self._seen: set[Path] = set()

    def look(self, most: int = 30) -> int:
        """Takes up to `most` new shards; returns samples there are."""
        for path in [p for p in sorted(self.folder.glob("*.npz")) if "part" not in p.name and p not in self._seen][
            :most
        ]:
            self._seen.add(path)
            sound = torch.from_numpy(np.load(path)["sound"])[: len(self.sound) - self.filled]
            self.sound[self.filled : self.filled + len(sound)] = sound.to(self.device)
            self.filled += len(sound)
        return self.filled

    def batch(self, count: int, frames: int, out: Tensor | None = None) -> Tensor:
        """Random pieces, float32 [count, frames * 1280] at 16 kHz, some louder and some softer."""
        length = frames * FRAME * SPEECH_RATE // RATE
        starts = torch.randint(self.filled - length, (count, 1), device=self.device)
        pieces = self.sound[starts + torch.arange(length, device=self.device)].float() / 32768
        pieces *= 10 ** torch.empty(count, 1, device=self.device).uniform_(-0.4, 0.15)
        return pieces if out is None else out.copy_(pieces)


class SpectralLoss:
    """How far two sounds are apart: log-mel and linear spectra of three window lengths."""

    def __init__(self, device: torch.device) -> None:
        self.scales = [
            (size, torch.hann_window(size, device=device), mel_basis(size, mels).to(device))
            for size, mels in ((256, 32), (512, 64), (1024, 80), (2048, 128))
        ]

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        total = made.new_zeros(())
        for size, window, basis in self.scales:
            a, b = (self._magnitude(sound, size, window) for sound in (made, wanted))
            total = total + (torch.log(a + 1e-3) - torch.log(b + 1e-3)).abs().mean() + (a - b).norm() / b.norm()
            mels = [torch.log(torch.matmul(basis, s) + 1e-3) for s in (a, b)]
            total = total + 2 * (mels[0] - mels[1]).abs().mean()
        return total / len(self.scales)

    @staticmethod
    def _magnitude(sound: Tensor, size: int, window: Tensor) -> Tensor:
        spectrum = torch.stft(sound, size, size // 4, window=window, center=True, return_complex=True)
        return (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()


def mel_basis(size: int, mels: int) -> Tensor:
    """Triangular filters [mels, size // 2 + 1], 0 to 9 kHz."""
    mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)  # noqa: E731
    edges = 700 * (10 ** (torch.linspace(0, mel(9000), mels + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, size // 2 + 1)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    basis = torch.minimum(up, down).clamp(min=0)
    return basis / basis.sum(1, keepdim=True).clamp(min=1e-3)


class Trainer:
    """One network, its optimiser, and a step that is a captured graph on CUDA."""

    def __init__(self, net: CodecNet, speech: Speech, count: int, frames: int, decoder_only: bool) -> None:
        self.net, self.speech, self.frames, self.decoder_only = net, speech, frames, decoder_only
        device = speech.device
        self.loss = SpectralLoss(device)
        cuda = device.type == "cuda"
        fixed = ("encoder", "downsample", "quantizer") if decoder_only else ()
        for name, own in net.names.items():
            if isinstance(getattr(net, own), torch.nn.Parameter):
                getattr(net, own).requires_grad_(not name.startswith(fixed) if fixed else True)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.rate = torch.tensor(PEAK_RATE, device=device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.rate if cuda else PEAK_RATE, betas=(0.8, 0.99), weight_decay=0.01, capturable=cuda
        )
        self.input = torch.zeros(count, frames * FRAME * SPEECH_RATE // RATE, device=device)
        self.shown = torch.zeros(2, device=device)
        self.graphs: dict[bool, torch.cuda.CUDAGraph | None] = {}

    def step(self, quantized: bool, rate: float) -> None:
        """One update on a new batch."""
        self.speech.batch(len(self.input), self.frames, self.input)
        self.rate.fill_(rate)
        if self.input.device.type != "cuda":
            self.optimizer.param_groups[0]["lr"] = rate
            self._update(quantized)
            return
        if quantized not in self.graphs:
            self.graphs[quantized] = self._capture(quantized)
        graph = self.graphs[quantized]
        graph.replay() if graph else self._update(quantized)

    def _update(self, quantized: bool) -> None:
        wanted = resample(self.input)
        on_cpu = self.input.device.type == "cpu"
        with torch.autocast("cpu", torch.bfloat16, enabled=on_cpu):
            with torch.set_grad_enabled(not self.decoder_only):
                latents = self.net.encode(wanted)
                commitment = latents.new_zeros(())
                if quantized:
                    latents, _, commitment = self.net.quantize(latents, learn=not self.decoder_only)
                else:
                    latents = self.net.unproject(*self.net.project(latents))
            made = self.net.decode(latents)
        spectral = self.loss(made.float(), wanted)
        (spectral + COMMITMENT * commitment.float()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.shown.copy_(torch.stack([spectral.detach(), commitment.detach().float()]))

    def _capture(self, quantized: bool) -> "torch.cuda.CUDAGraph | None":
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._update(quantized)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._update(quantized)
            return graph
        except RuntimeError as error:
            print(f"codec: no graph: {error}", flush=True)
            torch.cuda.synchronize()
            return None

    @torch.no_grad()
    def place_codebooks(self) -> None:
        """k-means on fresh latents."""
        batches = -(-LATENTS // (len(self.input) * self.frames))
        found = [self.net.encode(resample(self.speech.batch(len(self.input), self.frames))) for _ in range(batches)]
        self.net.place_codebooks(torch.cat(found).flatten(0, 1))

    @torch.no_grad()
    def used(self) -> list[int]:
        """How many entries of each codebook a batch uses."""
        codes = self.net.quantize(self.net.encode(resample(self.input)))[1]
        return [len(codes[:, n].unique()) for n in range(codes.shape[1])]


def train(
    speech: Speech,
    checkpoint: Path,
    deadline: float,
    count: int,
    frames: int,
    decoder_only: bool = False,
    peak: float = PEAK_RATE,
) -> CodecNet:
    """Trains until the deadline (seconds since the epoch), and writes the checkpoint on the way and at the end."""
    begun = time.time()
    quantized, weights = False, None
    if checkpoint.exists():
        weights = load_file(checkpoint)
        quantized = bool(weights.pop("quantized"))
    net = CodecNet(weights or new_weights(1)).to(speech.device)
    trainer = Trainer(net, speech, count, frames, decoder_only)
    reported, steps = begun, 0
    while (now := time.time()) < deadline:
        done = (now - begun) / (deadline - begun)
        if not quantized and done > CONTINUOUS:
            trainer.place_codebooks()
            quantized = True
        rate = peak * min(1.0, (steps + 1) / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * min(done, 1)) ** 2)
        trainer.step(quantized, rate)
        steps += 1
        if speech.device.type == "cuda" and steps % 16 == 0:
            torch.cuda.synchronize()  # so that the clock tells the truth
        if now - reported > REPORT:
            reported = now
            spectral, commitment = trainer.shown.tolist()
            used = trainer.used() if quantized else []
            hours = speech.look() / SPEECH_RATE / 3600
            print(
                f"codec {now - begun:5.0f} s, {steps} steps, {hours:.1f} h: loss {spectral:.3f} "
                f"commitment {commitment:.3f} used {used}",
                flush=True,
            )
            save(net, checkpoint, quantized)
    save(net, checkpoint, quantized)
    return net


def save(net: CodecNet, path: Path, quantized: bool) -> None:
    """Everything needed to go on, but for the optimiser's moments."""
    weights = {name: value.contiguous().cpu() for name, value in net.weights().items()}
    partial = path.with_suffix(".part")
    save_file(weights | {"quantized": torch.tensor(int(quantized))}, partial)
    partial.replace(path)


@torch.no_grad()
def encode_all(net: CodecNet, folder: Path, out: Path, device: torch.device, seconds_a_batch: float = 600.0) -> int:
    """Every utterance of the shards in `folder` -> shards of codes in `out`; returns how many frames there are."""
    out.mkdir(parents=True, exist_ok=True)
    quiet = net.quantize(net.encode(torch.zeros(1, 40 * FRAME, device=device)))[1][0]
    np.save(out / "silence.npy", quiet[:, 8:].cpu().numpy().astype("<u2"))
    total = 0
    for path in sorted(p for p in folder.glob("*.npz") if "part" not in p.name):
        shard = np.load(path)
        sounds = np.split(shard["sound"], shard["ends"][:-1])
        codes = encode(net, sounds, device, seconds_a_batch)
        ends = np.cumsum([c.shape[1] for c in codes])
        np.savez(out / path.name, codes=np.concatenate(codes, 1), ends=ends, about=str(shard["about"]))
        total += int(ends[-1])
    return total


def encode(net: CodecNet, sounds: list[np.ndarray], device: torch.device, seconds_a_batch: float) -> list[np.ndarray]:
    """int16 sounds at 16 kHz -> codes uint16 [8, frames] each, padded with silence to whole frames."""
    hop = FRAME * SPEECH_RATE // RATE
    frames = [-(-len(sound) // hop) for sound in sounds]
    codes: list[np.ndarray] = [np.zeros(0)] * len(sounds)
    order = sorted(range(len(sounds)), key=lambda n: frames[n])
    while order:
        longest = frames[order[-1]]
        take = max(1, int(seconds_a_batch / (longest * 0.08)))
        some, order = order[-take:], order[:-take]
        padded = np.zeros((len(some), longest * hop), np.int16)
        for row, n in enumerate(some):
            padded[row, : len(sounds[n])] = sounds[n]
        sound = resample(torch.from_numpy(padded).to(device).float() / 32768)
        found = net.quantize(net.encode(sound))[1].cpu().numpy().astype("<u2")
        for row, n in enumerate(some):
            codes[n] = found[row, :, : frames[n]]
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--deadline", type=float, help="seconds since the epoch")
    parser.add_argument("--minutes", type=float, default=60.0, help="instead of a deadline")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--frames", type=int, default=16, help="of 80 ms, in a piece")
    parser.add_argument("--hours", type=float, default=3.0, help="of speech kept in memory")
    parser.add_argument("--peak", type=float, default=PEAK_RATE, help="learning rate")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--encode", type=Path, help="no training: encode all speech into this folder")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.encode:
        weights = load_file(given.checkpoint)
        del weights["quantized"]
        print(encode_all(CodecNet(weights).to(device), given.speech, given.encode, device, 30.0), "frames")
        return
    speech = Speech(given.speech, device, given.hours)
    while not speech.look(most=1000):
        time.sleep(0.2)
    deadline = given.deadline or time.time() + 60 * given.minutes
    print(json.dumps({"deadline": deadline, "device": str(device)}), flush=True)
    train(speech, given.checkpoint, deadline, given.batch, given.frames, given.decoder_only, given.peak)


if __name__ == "__main__":
    main()
