"""Makes the codec, in two steps, each of which goes on from what is there; decoder.py is the third:

    codec.py place SPEECH CODEC              an analysis and codebooks: codes exist from here on, and stay (corpus.py)
    codec.py encoder SPEECH CODEC            trains sound -> codes, which only voices and listening need

CODEC is a folder. The codebooks are placed by k-means on an analysis of the spectra (`spectra.py`), the acoustic ones
each on what the ones before leave over. The encoder's loss is how far it is from the analysis. On CUDA a whole step of
training is one captured graph.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from codec_net import CONFIG, FRAME, CodecNet, new_weights
from safetensors.torch import load_file, save_file
from spectra import KEPT, SPECTRAL, Analysis
from torch import Tensor

SPEECH_RATE, RATE = 16_000, 24_000
ANALYSIS = "analysis.safetensors"
ENCODES = ("encoder", "downsample")  # names of the encoder's tensors start with
PEAK_RATE = 1e-3
PLACED_ON = 300_000  # frames
REPORT = 10.0  # seconds


def resample(sound: Tensor) -> Tensor:
    """[B, T] at 16 kHz -> [B, 1.5 * T] at 24 kHz, T even."""
    taps = torch.arange(-15, 17, device=sound.device)[None] - torch.arange(3, device=sound.device)[:, None] * 2 / 3
    kernel = torch.sinc(0.97 * taps) * 0.97 * torch.cos(math.pi * taps / 34).square()
    phases = F.conv1d(F.pad(sound, (15, 16))[:, None], kernel[:, None], stride=2)
    return phases.transpose(1, 2).reshape(len(sound), -1)


class Speech:
    """All sound read so far, on the device, int16 at 16 kHz; shards are picked up as they appear.

    held: so many samples at the beginning are in no batch.
    """

    def __init__(self, folder: Path, device: torch.device, hours: float, held: int = 0) -> None:
        self.folder, self.device, self.held = folder, device, held
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

    def batch(self, count: int, frames: int) -> Tensor:
        """Random pieces, float32 [count, frames * 1280] at 16 kHz."""
        length = frames * FRAME * SPEECH_RATE // RATE
        starts = torch.randint(self.held, self.filled - length, (count, 1), device=self.device)
        return self.sound[starts + torch.arange(length, device=self.device)].float() / 32768

    def held_out(self, frames: int = 25) -> Tensor:
        """What is in no batch, in pieces of so many frames, float32 [n, frames * 1280] at 16 kHz."""
        length = frames * FRAME * SPEECH_RATE // RATE
        return self.sound[: self.held // length * length].view(-1, length).float() / 32768


@torch.no_grad()
def place(speech: Speech, folder: Path) -> None:
    """New weights, with an analysis and codebooks that fit it."""
    net = CodecNet(new_weights(1)).to(speech.device)
    pieces = [resample(speech.batch(64, 26)) for _ in range(PLACED_ON // (64 * 25))]
    analysis = Analysis.of(pieces[:40])
    # The first frame of a piece knows nothing of what was before it, the last one nothing of what follows.
    found = torch.cat([analysis.latents(piece)[:, 1:-1].flatten(0, 1) for piece in pieces])
    net.see(found.std(0))
    net.place_codebooks(widened(found), SPECTRAL)
    folder.mkdir(parents=True, exist_ok=True)
    analysis.save(folder / ANALYSIS)
    save(net, folder)
    some = found[:20_000]
    missed = net.acoustic(net.quantize(widened(some[None])))[0] - some
    kept = [1 - float(missed[:, part].var() / some[:, part].var()) for part in (slice(SPECTRAL), slice(SPECTRAL, None))]
    print(f"{len(found)} frames; of the variance the codes keep {kept[0]:.1%} of spectra and {kept[1]:.1%} of phases")


class Trainer:
    """The encoder, its optimiser, and a step that is a captured graph on CUDA."""

    def __init__(self, net: CodecNet, analysis: Analysis, speech: Speech, count: int, frames: int) -> None:
        self.net, self.analysis, self.speech, self.frames = net, analysis, speech, frames
        device = speech.device
        cuda = device.type == "cuda"
        for name, own in net.names.items():
            if isinstance(getattr(net, own), torch.nn.Parameter):
                getattr(net, own).requires_grad_(name.startswith(ENCODES))
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.rate = torch.tensor(PEAK_RATE, device=device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.rate if cuda else PEAK_RATE, betas=(0.8, 0.99), weight_decay=0.01, capturable=cuda
        )
        self.input = torch.zeros(count, frames * FRAME * SPEECH_RATE // RATE, device=device)
        self.shown = torch.zeros((), device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, rate: float) -> None:
        """One update on a new batch."""
        self.input.copy_(self.speech.batch(len(self.input), self.frames))
        if self.input.device.type != "cuda":
            self.optimizer.param_groups[0]["lr"] = rate
            self._update()
            return
        self.rate.fill_(rate)
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()

    def _update(self) -> None:
        loss = self._loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.shown.copy_(loss.detach())

    def _loss(self) -> Tensor:
        sound = resample(self.input)
        wanted = self.analysis.latents(sound)
        with self._autocast():
            found = self.net.encode(sound)[..., :KEPT]
        apart = found.float() - wanted
        # Before a piece and behind it there is something else than silence.
        return apart[:, 1:-1].square().mean() / wanted.var()

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.input.device.type == "cpu")

    def _capture(self) -> "torch.cuda.CUDAGraph":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._update()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._update()
        return graph


def train(speech: Speech, folder: Path, deadline: float, count: int, frames: int, peak: float) -> None:
    """Trains the encoder until the deadline (seconds since the epoch), and writes it on the way and at the end."""
    begun = reported = time.time()
    net = read(folder).to(speech.device)
    trainer = Trainer(net, Analysis.read(folder / ANALYSIS, speech.device), speech, count, frames)
    steps, losses = 0, []
    while (now := time.time()) < deadline:
        done = (now - begun) / (deadline - begun)
        trainer.step(peak * min(1.0, (steps + 1) / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * min(done, 1)) ** 2))
        losses.append(trainer.shown.clone())
        steps += 1
        if speech.device.type == "cuda" and steps % 16 == 0:
            torch.cuda.synchronize()  # so that the clock tells the truth
        if now - reported > REPORT:
            reported = now
            print(f"{now - begun:5.0f} s, {steps} steps: loss {torch.stack(losses).mean():.4f}", flush=True)
            losses.clear()
            save(net, folder, "encoder")
    save(net, folder, "encoder")


def save(net: CodecNet, folder: Path, half: str | None = None) -> None:
    """Writes everything, or a half: two processes may train one each."""
    weights = {name: value.contiguous().cpu() for name, value in net.weights().items()}
    for part in ("encoder", "decoder"):
        if half in (None, part):
            own = {name: w for name, w in weights.items() if name.startswith(ENCODES) == (part == "encoder")}
            save_file(own, folder / f".{part}")
            (folder / f".{part}").replace(folder / f"{part}.safetensors")


def read(folder: Path) -> CodecNet:
    """What `save` wrote. Without encoder.safetensors, a codec that encodes by its analysis alone."""
    halves = [path for half in ("encoder", "decoder") if (path := folder / f"{half}.safetensors").exists()]
    return CodecNet({name: weight for path in halves for name, weight in load_file(path).items()})


class Encoder:
    """Sound -> codes, by the analysis: what the trained encoder comes near to."""

    def __init__(self, net: CodecNet, analysis: Analysis) -> None:
        self.net, self.analysis = net, analysis

    def __call__(self, sound: Tensor) -> Tensor:
        """[B, n * 1920] -> int64 [B, 8, n]."""
        return self.net.quantize(widened(self.analysis.latents(sound)))


def heard(net: CodecNet) -> Callable[[Tensor], Tensor]:
    """Sound [B, n * 1920] -> codes int64 [B, 8, n], by the trained encoder."""
    return lambda sound: net.quantize(net.encode(sound))


def widened(latents: Tensor) -> Tensor:
    """The analysis' components [..., 64] as latents of the network [..., 192]."""
    return F.pad(latents, (0, CONFIG["hidden_size"] - KEPT))


def encode(
    encoder: Callable[[Tensor], Tensor], sounds: list[np.ndarray], seconds_a_batch: float, device: str = "cpu"
) -> list[np.ndarray]:
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
        at_24_khz = resample(torch.from_numpy(padded).to(device).float() / 32768)
        found = encoder(at_24_khz).cpu().numpy().astype("<u2")
        for row, n in enumerate(some):
            codes[n] = found[row, :, : frames[n]]
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["place", "encoder"])
    parser.add_argument("speech", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--frames", type=int, default=16, help="of 80 ms, in a piece")
    parser.add_argument("--hours", type=float, default=3.0, help="of speech kept in memory")
    parser.add_argument("--peak", type=float, default=PEAK_RATE, help="learning rate")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(int(time.time()))
    speech = Speech(given.speech, device, given.hours)
    while not speech.look(most=1000):
        time.sleep(0.2)
    if given.step == "place":
        place(speech, given.codec)
        return
    train(speech, given.codec, time.time() + 60 * given.minutes, given.batch, given.frames, given.peak)


if __name__ == "__main__":
    main()
