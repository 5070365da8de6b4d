"""Trains the codec's decoder, codes -> sound: `decoder.py SPEECH CODEC --deadline EPOCH --minutes 20 --state STATE`.

SPEECH has shards of sound (speak.py), CODEC an analysis and codebooks (`codec.py place`). At first the decoder learns
spectra of four sizes and the wave of the lowest harmonics alone; after a QUIET part of the time, discriminators and
feature matching join. The learning rate follows the time that was trained, of `--minutes` in all; a call ends at
`--deadline` and leaves STATE, with which the next one goes on. What is written to CODEC are averages of the weights. On
CUDA a step is one graph.

`--trained`: CODEC's decoder has learnt that before, and its STATE is lost. Then discriminators that know nothing would
pull it anywhere, so they learn alone for a WARM part of the time, and both from there on, at a lower rate.

The first minute of the first shard is never learnt from; every 30 s a line says how near the averages come to it
(held_out.py). `--out FOLDER` gets the averages at each quarter of the time, to choose from by ear, and a lighter state.

A transposed convolution whose taps add up differently from sample to sample buzzes: its stride becomes a tone. Here all
its phases add up to the same (`Smooth`), which is what repeating samples and then convolving them would do.
"""

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import codec
import torch
from codec import ANALYSIS, ENCODES, Encoder, Speech, resample
from codec_net import FRAME, RATIOS, CodecNet
from discriminators import Discriminators, fooling_loss, matching_loss, telling_loss
from held_out import HeldOut
from losses import SpectralLoss, WaveLoss
from spectra import Analysis
from torch import Tensor, nn
from torch.nn.utils import parametrize
from training import (
    Averages,
    Schedule,
    copy_all,
    go_on_from,
    halved,
    lighter,
    load_optimizer,
    read_state,
    state_of,
    write_state,
)

PEAK_RATE = 1e-3
TRAINED_RATE = 3e-4  # of a decoder that has learnt before
WARM_UP = 0.02  # of the time
QUIET = 0.25  # of the time, before the discriminators join
WARM = 0.05  # of the time, for discriminators that meet a decoder that has learnt before
COUNTED = 15.0, 10.0, 2.0, 1.0  # what the decoder's losses count: spectral, wave, matching, fooling
UPSAMPLING = ("upsample.conv.weight", *(f"decoder.layers.{3 * n + 2}.conv.weight" for n in range(len(RATIOS))))
AVERAGE = 0.999
MARGIN = 4.0  # seconds before the deadline
FIRST = "0000.npz"  # the shard that has what is held out
HELD = 16_000 * 60  # samples of it
LEAST = 2 * HELD  # samples of speech to begin with; more may come while it learns
REPORT = 10.0  # seconds
KEEP = 60.0
MEASURE = 30.0
QUARTERS = 4


class Phase(Enum):
    """Who learns."""

    SPECTRA = "the decoder, by spectra alone"
    TELLING = "the discriminators alone"
    AGAINST = "both, against each other"


def phase_at(progress: float, trained: bool) -> Phase:
    """progress: of the time, 0 to 1."""
    if trained:
        return Phase.TELLING if progress < WARM else Phase.AGAINST
    return Phase.SPECTRA if progress < QUIET else Phase.AGAINST


class Smooth(nn.Module):
    """Taps [..., 2 * stride] of a transposed convolution made of stride + 1: their own sums over a stride.

    So tap p and tap p + stride add up to the same for every phase p, and what is constant stays constant.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        sums = torch.zeros(stride + 1, 2 * stride)
        for tap in range(stride + 1):
            sums[tap, tap : tap + stride] = 1
        self.register_buffer("sums", sums, persistent=False)
        self.register_buffer("back", torch.linalg.pinv(sums), persistent=False)

    def forward(self, taps: Tensor) -> Tensor:
        return taps @ self.sums

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The taps that come nearest to a weight."""
        return weight @ self.back


def smoothed(net: CodecNet) -> CodecNet:
    """The same network with its upsampling weights made of fewer taps; they have the published shape as before."""
    for name in UPSAMPLING:
        parametrize.register_parametrization(net, net.names[name], Smooth(net.get(name).shape[-1] // 2))
    return net


class Trainer:
    """Decoder and discriminators, and a step that is a captured graph on CUDA."""

    def __init__(
        self,
        net: CodecNet,
        analysis: Analysis,
        count: int,
        frames: int,
        device: torch.device,
        width: int,
        counts: Sequence[float] = COUNTED,
    ) -> None:
        self.net, self.device, self.counts = smoothed(net).to(device), device, counts
        self.encoder = Encoder(net, analysis)
        self.loss, self.wave = SpectralLoss(device), WaveLoss(device)
        self.discriminators = Discriminators(width).to(device)
        for name, parameter in net.named_parameters():
            published = name.removeprefix("parametrizations.").removesuffix(".original").replace("/", ".")
            parameter.requires_grad_(not published.startswith(ENCODES) and "input_proj" not in published)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.averages = Averages(self.parameters)
        self.steps = 0
        cuda = device.type == "cuda"
        self.rate = torch.tensor(PEAK_RATE, device=device)
        common: dict[str, Any] = {
            "lr": self.rate,
            "betas": (0.8, 0.99),
            "weight_decay": 0.01,
            "fused": True,
            "capturable": cuda,
        }
        self.optimizer = torch.optim.AdamW(self.parameters, **common)
        self.telling = torch.optim.AdamW(self.discriminators.parameters(), **common)
        self.input = torch.zeros(count, frames * FRAME * 2 // 3, device=device)
        self.shown = torch.zeros(5, device=device)  # spectral, wave, matching, fooling, telling
        self.graphs: dict[Phase, torch.cuda.CUDAGraph] = {}

    def learn(self, sound: Tensor, rate: float, phase: Phase) -> None:
        """One update on sound [B, T] at 16 kHz."""
        self.input.copy_(sound)
        self.steps += 1
        if phase in self.graphs or self.device.type != "cuda":
            self.rate.fill_(rate)
            self.averages.set(AVERAGE, self.steps)
        if phase in self.graphs:
            self.graphs[phase].replay()
        else:
            self.step(phase)

    def step(self, phase: Phase) -> None:
        """The update of who learns, the discriminators first."""
        wanted = resample(self.input)
        with torch.no_grad():
            codes = self.encoder(wanted)
        with self._autocast(), torch.set_grad_enabled(phase is not Phase.TELLING):
            made = self.net.decode(self.net.dequantize(codes)).float()
        if phase is not Phase.SPECTRA:
            self.shown[4].copy_(self._tell(made.detach(), wanted))
        if phase is not Phase.TELLING:
            self._make(made, wanted, against=phase is Phase.AGAINST)

    def _make(self, made: Tensor, wanted: Tensor, against: bool) -> None:
        """The decoder's update."""
        losses = [self.loss(made, wanted), self.wave(made, wanted), *(self._against(made, wanted) if against else [])]
        torch.stack([count * loss for count, loss in zip(self.counts, losses, strict=False)]).sum().backward()
        _update(self.optimizer, self.parameters)
        self.averages.update()
        self.shown[: len(losses)].copy_(torch.stack(losses).detach())

    def _tell(self, made: Tensor, wanted: Tensor) -> Tensor:
        with self._autocast():
            real, not_real = self.discriminators(wanted), self.discriminators(made)
        loss = telling_loss(real, not_real)
        loss.backward()
        _update(self.telling, list(self.discriminators.parameters()))
        return loss.detach()

    def _against(self, made: Tensor, wanted: Tensor) -> list[Tensor]:
        self.discriminators.requires_grad_(False)
        with self._autocast():
            with torch.no_grad():
                real = self.discriminators(wanted)
            seen = self.discriminators(made)
        self.discriminators.requires_grad_(True)
        return [matching_loss(real, seen), fooling_loss(seen)]

    def _autocast(self) -> torch.autocast:
        """Without its cache: casts must be part of a graph."""
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def capture(self, phase: Phase, sound: Tensor) -> None:
        """Records a step as a graph, after three at a learning rate of 0."""
        self.input.copy_(sound)
        self.rate.fill_(0)
        self.averages.hold()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(phase)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(phase)
        self.graphs[phase] = graph

    def state(self) -> dict[str, Any]:
        """All that a trainer needs to go on as if it had never stopped, but for the speech."""
        return {
            **state_of(self),
            "discriminators": [w.detach().cpu() for w in self.discriminators.parameters()],
            "telling": self.telling.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave, before a graph is captured."""
        go_on_from(self, state)
        copy_all(list(self.discriminators.parameters()), state["discriminators"])
        load_optimizer(self.telling, state["telling"], self.rate)

    def save(self, folder: Path) -> None:
        """The averages, as the decoder of the codec in `folder`."""
        with self.averages.in_place():
            codec.save(self.net, folder, "decoder")


def _update(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(
    trainer: Trainer, speech: Speech, schedule: Schedule, given: argparse.Namespace, held: HeldOut | None = None
) -> None:
    """Learns until the deadline or the end of the schedule."""
    batch = lambda: speech.batch(given.batch, given.frames)  # noqa: E731
    start = last = told = kept = measured = time.time()
    before, quarter = trainer.steps, int(QUARTERS * schedule.progress)
    while (now := time.time()) < given.deadline - MARGIN and schedule.progress < 1:
        schedule.spent, last = schedule.spent + now - last, now
        phase = phase_at(schedule.progress, given.trained)
        if trainer.device.type == "cuda" and not given.eager and phase not in trainer.graphs:
            trainer.capture(phase, batch())
        trainer.learn(batch(), schedule.rate, phase)
        if trainer.device.type == "cuda" and trainer.steps % 8 == 0:
            torch.cuda.synchronize()  # so that the clock tells the truth
        if now - told > REPORT:
            told = now
            speech.look(most=10_000)
            report(trainer, now - start, speech.filled)
        if held is not None and now - measured > MEASURE:
            measured = now
            held.report(trainer)
        if now - kept > KEEP:
            kept = now
            trainer.save(given.codec)
        if quarter < int(QUARTERS * schedule.progress) < QUARTERS:
            quarter += 1
            keep_quarter(trainer, given, quarter)
    if trainer.steps == before and schedule.progress < 1:
        raise SystemExit("no step was made: too little time")
    finish(trainer, schedule, given)
    if held is not None:
        held.report(trainer)


def report(trainer: Trainer, seconds: float, samples: int) -> None:
    """Says how far training is; ends it where a loss is no number."""
    shown, hours = trainer.shown.tolist(), samples / codec.SPEECH_RATE / 3600
    print(f"{seconds:5.0f} s, {trainer.steps} steps, {hours:.1f} h of sound", flush=True)
    print("       spectral, wave, matching, fooling, telling", *(f"{loss:.3f}" for loss in shown), flush=True)
    if not all(map(math.isfinite, shown)):
        raise SystemExit("that is no number")


def keep_quarter(trainer: Trainer, given: argparse.Namespace, quarter: int) -> None:
    """Writes the averages to CODEC, and to the folder of what travels, in float16."""
    trainer.save(given.codec)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        halved(given.codec / "decoder.safetensors", given.out / f"decoder-{quarter}.safetensors")


def finish(trainer: Trainer, schedule: Schedule, given: argparse.Namespace) -> None:
    """Writes averages and states; the last quarter is what is there at the end of a call."""
    keep_quarter(trainer, given, QUARTERS)
    told = {"trainer": trainer.state(), "spent": schedule.spent}
    write_state(given.state, told)
    if given.out is not None:
        write_state(given.out / "decoder.state", lighter(told))
    print(f"{trainer.steps} steps, {schedule.progress:.0%} of the time", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("--deadline", type=float, required=True, help="of this call, seconds since 1970")
    parser.add_argument("--minutes", type=float, required=True, help="of training in all; 0: the rest of this call")
    parser.add_argument("--state", type=Path, required=True, help="where a call leaves what the next one goes on with")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=16, help="of 80 ms, in a piece")
    parser.add_argument("--width", type=int, default=32, help="channels of the discriminators' first layers")
    parser.add_argument("--hours", type=float, default=15.0, help="of speech kept in memory")
    parser.add_argument("--trained", action="store_true", help="the decoder has learnt before, and its state is lost")
    parser.add_argument(
        "--peak", type=float, help=f"learning rate; {PEAK_RATE}, or {TRAINED_RATE} where trained before"
    )
    parser.add_argument("--counts", type=float, nargs=4, default=COUNTED, help="of the losses")
    parser.add_argument("--out", type=Path, help="a folder for what is to travel back")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eager", action="store_true", help="no CUDA graph")
    return parser.parse_args()


def main() -> None:
    given = parse()
    device = torch.device(given.device)
    torch.manual_seed(0)
    speech = Speech(given.speech, device, given.hours, held=HELD)
    # First of all the shard with what is held out, so that this is the same in every call.
    while not (given.speech / FIRST).exists() or speech.look(most=10_000) < LEAST:
        if time.time() > given.deadline:
            raise SystemExit(f"{given.speech}: no speech there")
        time.sleep(0.2)
    net = codec.read(given.codec)
    analysis = Analysis.read(given.codec / ANALYSIS, device)
    trainer = Trainer(net, analysis, given.batch, given.frames, device, given.width, given.counts)
    peak = given.peak or (TRAINED_RATE if given.trained else PEAK_RATE)
    # A new optimizer's first steps are as large as its rate, whatever they are about, so the decoder's begin small.
    schedule = Schedule(60 * given.minutes, peak, WARM_UP, first=WARM if given.trained else 0.0)
    if (told := read_state(given.state, device)) is not None:
        trainer.restore(told["trainer"])
        schedule.spent = told["spent"]
    held = HeldOut(trainer.encoder, trainer.loss, trainer.wave, speech.held_out())
    held.report(trainer)
    if not given.minutes:
        schedule.fill(given.deadline - MARGIN - time.time())
    try:
        train(trainer, speech, schedule, given, held)
    except RuntimeError:
        if given.eager or device.type != "cuda":
            raise
        # A slower step is better than none; what is left of a broken recording only a new process is rid of.
        traceback.print_exc()
        print("no graph: once more, with eager steps", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv, "--eager"])


if __name__ == "__main__":
    main()
