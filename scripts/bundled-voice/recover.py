"""Makes the folder of `make` again, as far as the bundled checkpoint tells: `recover.py analysis FOLDER`.

    recover.py analysis FOLDER   codec/, its analysis too, and tokenizer/: what bundle.py and corpus.py want
    recover.py weights FOLDER    without speech: bundled.safetensors, the language model, and the rest of codec/

The analysis is in no checkpoint, but its encoder learnt to give the analysis' 52 components, so they are recovered by
least squares; phases need nothing (pitch.py). An encoder that learns by squares errs in ways that have nothing to do
with what it says. So a regression of its numbers on the spectra would find components that are too small. The other
way round, from its numbers to the spectra, they are right: slope k is axis k, as what is not kept of a spectrum has
nothing to do with the components.

The slopes are not exact, and a little of a component that spreads far is much for one that hardly does. But the axes
are principal components, so what they are is known twice: nearly those of any such speech, but for a turn among those
that spread alike. Each slope becomes what both say, as far as each is sure. At last axes are made orthonormal.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import codec
import codec_net
import lm_net
import numpy as np
import torch
from codec import SPEECH_RATE, resample, widened
from pitch import phases
from safetensors.torch import load_file
from spectra import KEPT, SPECTRAL, Analysis
from torch import Tensor

from dia2.checkpoint.int8 import SUFFIX, dequantized

BUNDLED = Path(__file__).resolve().parents[2] / "dia2" / "bundled"
PIECE = 26  # frames; the first knows nothing of what was before it, the last nothing of what follows
AT_ONCE = 32  # pieces
HOURS = 1.5  # of speech that is looked at
LOOKED_AT = 5_000  # frames whose codes are compared


class Pairs(NamedTuple):
    """What the analysis is made of, a row a frame: spectra [N, 296], phases [N, 12], what the encoder says [N, 64]."""

    features: Tensor
    phases: Tensor
    latents: Tensor


class Found(NamedTuple):
    """An analysis, and how good it is.

    lengths     of the slopes: 1, if all is right
    apart       of the encoder's numbers from the analysis', in proportion to the variance: what its training said
    kept        of the spectra's variance, by the codes of the analysis
    same        how often both have the same code, for each codebook
    """

    analysis: Analysis
    lengths: Tensor
    apart: float
    kept: float
    same: Tensor

    def told(self) -> dict[str, object]:
        """For people, as JSON."""
        worst = (self.lengths - 1).abs()
        return {
            "slopes' lengths off 1, first 20 and all": [
                round(float(worst[:20].max()), 3),
                round(float(worst.max()), 3),
            ],
            "the encoder's loss": round(self.apart, 4),
            "variance kept": round(self.kept, 4),
            "same codes as the encoder's": [round(share, 3) for share in self.same.tolist()],
        }


def weights_of(path: Path) -> dict[str, Tensor]:
    """A published language model's tensors in float32, those in 8 bits too."""
    found = load_file(path)
    return {
        name: dequantized(tensor, found[name + SUFFIX]) if name + SUFFIX in found else tensor.float()
        for name, tensor in found.items()
        if not name.endswith(SUFFIX)
    }


@torch.no_grad()
def pairs_of(net: codec_net.CodecNet, folder: Path, hours: float) -> Pairs:
    """Of the first hours of a folder of speech."""
    blank, left, found = Analysis(torch.zeros(1), torch.zeros(1, 1)), round(hours * 3600 * SPEECH_RATE), []
    length = PIECE * codec.FRAME * SPEECH_RATE // codec.RATE
    for path in sorted(folder.glob("[0-9]*[0-9].npz")):
        sound = torch.from_numpy(np.load(path)["sound"])[:left]
        left -= len(sound)
        for some in sound[: len(sound) // length * length].view(-1, length).split(AT_ONCE):
            at_24_khz = resample(some.float() / 32768)
            each = blank.features(at_24_khz), phases(at_24_khz), net.encode(at_24_khz)[..., :KEPT]
            found.append([part[:, 1:-1].flatten(0, 1) for part in each])
    if not found:
        raise SystemExit(f"{folder}: no speech there")
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def spread_of(net: codec_net.CodecNet) -> Tensor:
    """How much each component spread where the codebooks were placed, [52]: `CodecNet.see` has put it there."""
    into = net.get(f"{codec_net.SEMANTIC}.input_proj.weight")[:, :SPECTRAL, 0]
    return into.detach().double().diagonal() ** -2


def analysis_of(pairs: Pairs, spread: Tensor) -> tuple[Analysis, Tensor]:
    """The analysis that an encoder has learnt, and how long its axes were before. spread: of the components, [52]."""
    features, latents = pairs.features.double(), pairs.latents[:, :SPECTRAL].double()
    mean, middle = features.mean(0), latents.mean(0)
    seen, said = features - mean, latents - middle
    both = (seen.T @ seen / len(seen), said.T @ said / len(said), seen.T @ said / len(said))
    slopes = torch.linalg.solve(both[1], both[2].T).T  # [features, 52]
    axes = orthonormal(likely(slopes, spread, *both) * spread)
    # So that the components are on average what the encoder says they are.
    mean = mean - axes @ middle
    return Analysis(mean.float(), axes.float().contiguous()), slopes.norm(dim=0)


def likely(slopes: Tensor, spread: Tensor, seen: Tensor, said: Tensor, across: Tensor) -> Tensor:
    """Slopes drawn towards the principal components of this speech, each as far as it is less sure than these.

    seen [features, features], said [52, 52], across [features, 52]: covariances of spectra, of what is said, of both.
    How sure something is goes by the number of frames, which is the same for both and falls out.
    """
    power, own = (part.flip(-1) for part in torch.linalg.eigh(seen))  # most first
    turns = own.T @ slopes  # each axis in terms of this speech's components
    # Components of two samples of the same speech are turned against each other, the more the more alike they spread.
    gap = (power[:, None] - spread**2).abs().clamp(min=1e-9)
    turned = 2 * power[:, None] * spread**2 / gap**2
    left = (own.T @ (seen - slopes @ across.T) @ own).diagonal().clamp(min=1e-9)  # of spectra, given what is said
    unsure = left[:, None] * torch.linalg.inv(said).diagonal()
    return own @ (turns * turned / (turned + unsure))


def orthonormal(axes: Tensor) -> Tensor:
    """The nearest axes that are. Those that are longest move least."""
    left, _, right = torch.linalg.svd(axes, full_matrices=False)
    return left @ right


@torch.no_grad()
def judged(net: codec_net.CodecNet, pairs: Pairs, analysis: Analysis, lengths: Tensor) -> Found:
    """How good an analysis is, on a part of what it was made of."""
    wanted = torch.cat([(pairs.features - analysis.mean) @ analysis.axes, pairs.phases], -1)
    apart = (pairs.latents - wanted).square().mean() / wanted.var()
    some = torch.linspace(0, len(wanted) - 1, min(LOOKED_AT, len(wanted))).long()
    own, others = (net.quantize(widened(part[some][None])) for part in (wanted, pairs.latents))
    missed = (net.acoustic(own)[0] - wanted[some])[:, :SPECTRAL]
    kept = 1 - float(missed.var() / wanted[some, :SPECTRAL].var())
    return Found(analysis, lengths, float(apart), kept, (own == others).float().mean((0, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["analysis", "weights"])
    parser.add_argument("folder", type=Path, help="with speech/, where the analysis is wanted")
    parser.add_argument("--hours", type=float, default=HOURS, help="of speech that is looked at, at most")
    parser.add_argument("--bundled", type=Path, default=BUNDLED, help="the checkpoint")
    given = parser.parse_args()
    net = codec_net.CodecNet(load_file(given.bundled / "mimi" / "model.safetensors"))
    for part in ("codec", "tokenizer"):
        (given.folder / part).mkdir(parents=True, exist_ok=True)
    codec.save(net, given.folder / "codec")
    if given.what == "weights":
        lm_net.save(weights_of(given.bundled / "model.safetensors"), given.folder / "bundled.safetensors")
        return
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(given.bundled / file, given.folder / "tokenizer" / file)
    pairs = pairs_of(net, given.folder / "speech", given.hours)
    found = judged(net, pairs, *analysis_of(pairs, spread_of(net)))
    found.analysis.save(given.folder / "codec" / codec.ANALYSIS)
    print(json.dumps(found.told()))


if __name__ == "__main__":
    main()
